"""--log-format json: everything that serve writes is one JSON object per line."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from datetime import datetime

import pytest

from gguf_embed.cli.log import JsonFormatter, json_line, wrapped
from tests.server_process import clean_environment, command, run_to_end

FIELDS = {"time", "level", "logger", "message"}


def parsed(text: str) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in text.splitlines()]
    assert all(set(line) >= FIELDS for line in lines)
    return lines


@pytest.mark.process
@pytest.mark.parametrize("by_variable", [False, True])
def test_every_line_of_a_server_is_json(models, cache_dir, by_variable):
    flags = ["-m", models / "bare.gguf", "--jinja", "-vv"]
    environment = clean_environment(cache_dir, {"GGUF_EMBED_LOG_FORMAT": "json"} if by_variable else {})
    flags += [] if by_variable else ["--log-format", "json"]
    server = subprocess.Popen(
        command("serve", "--port", "0", *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    assert server.stdout is not None
    said = []
    while not said or not said[-1]["message"].startswith("curl "):
        said += parsed(server.stdout.readline())
    url = next(line["message"] for line in said if line["message"].startswith("serving")).split()[1]
    asked = ["curl", "--silent", f"{url}/embedding", "-d", '{"content": 5}', "-H", "X-Request-Id: abc"]
    subprocess.run(asked, check=True, capture_output=True)
    server.send_signal(signal.SIGTERM)
    out, err = server.communicate(timeout=60)
    said += parsed(out)
    assert any("--jinja: accepted" in line["message"] for line in said)
    assert said[-1]["message"] == "stopped"
    log = parsed(err)
    found = [line for line in log if line.get("route") == "/embedding"]
    assert [(line["status"], line["request_id"], line["level"]) for line in found] == [(400, "abc", "info")]


@pytest.mark.process
def test_a_failed_start_is_a_json_line_too(cache_dir):
    ended = run_to_end(cache_dir, "serve", "-m", "/no/such.gguf", "--log-format", "json")
    assert ended.returncode == 1
    (line,) = parsed(ended.stderr)
    assert line["level"] == "critical"
    assert "/no/such.gguf" in line["message"]


def record(**fields: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "a.b", "levelname": "WARNING", "msg": "x %s", "args": ("ü\n",), "created": 0.5}
    )
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_a_record_has_its_time_and_its_request():
    text = JsonFormatter().format(record(request_id="r1"))
    assert "\n" not in text
    assert json.loads(text) == {
        "time": "1970-01-01T00:00:00.500Z", "level": "warning", "logger": "a.b", "message": "x ü\n", "request_id": "r1",
    }  # fmt: skip
    assert "request_id" not in json.loads(JsonFormatter().format(record()))
    assert datetime.fromisoformat(json.loads(text)["time"]).timestamp() == 0.5


def test_an_exception_is_a_field():
    try:
        raise ValueError("what")
    except ValueError:
        found = json.loads(JsonFormatter().format(record(exc_info=sys.exc_info())))
    assert found["exception"].startswith("Traceback")
    assert found["exception"].endswith("ValueError: what")


def test_text_that_is_not_unicode_is_still_json():
    assert json.loads(json_line(0, "info", "x", "a\udcffb"))["message"] == "a?b"


@pytest.mark.process
def test_a_servers_fault_names_its_request(tmp_path, cache_dir, models):
    """A model that cannot be loaded: the log line has the id that the client got."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "good.gguf").write_bytes((models / "encoder.gguf").read_bytes())
    (folder / "bare.gguf").write_bytes((models / "bare.gguf").read_bytes())
    server = subprocess.Popen(
        command("serve", "--port", "0", "--models-dir", folder, "--strict", "--log-format", "json"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment(cache_dir),
    )  # fmt: skip
    assert server.stdout is not None
    url = ""
    for line in server.stdout:
        message = json.loads(line)["message"]
        url = message.split()[1] if message.startswith("serving") else url
        if message.startswith("curl "):
            break
    asked = [
        "curl",
        "--silent",
        f"{url}/embedding",
        "-d",
        '{"content": "a", "model": "bare"}',
        "-H",
        "X-Request-Id: r7",
    ]
    reply = subprocess.run(asked, check=True, capture_output=True).stdout
    assert b"--strict" in reply, reply
    server.terminate()
    _, err = server.communicate(timeout=60)
    assert [line["request_id"] for line in parsed(err) if "request_id" in line] == ["r7"]


def test_a_line_on_a_terminal_is_wrapped_below_its_text_and_a_command_is_not():
    line = "warning  " + "word " * 30
    rows = wrapped(line, 40).splitlines()
    assert max(map(len, rows)) <= 40
    assert [row[:9] for row in rows] == ["warning  ", *[" " * 9] * (len(rows) - 1)]
    assert wrapped("curl " + "x " * 100, 40).count("\n") == 0
