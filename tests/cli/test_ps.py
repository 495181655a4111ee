"""`gguf-embed ps`: its request, its table, and its errors."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gguf_embed.cli.ps import checked_url, expiry_text, model_lines, processor_text
from gguf_embed.errors import ConfigError
from tests.cli.command import Place

NOW_S = 1_700_000_000.0
MODEL = {
    "name": "bge-m3:latest",
    "model": "bge-m3:latest",
    "size": 1_200_000_000,
    "size_vram": 0,
    "details": {"family": "bert", "quantization_level": "F16"},
    "context_length": 8192,
    "expires_at": "2318-03-21T00:00:00Z",
}
"""As Ollama's /api/ps has it."""


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path, "http://127.0.0.1:9")


@pytest.fixture
def answer() -> Iterator[Callable[[int, bytes], str]]:
    """Starts a server that gives one answer to /api/ps where the key is "k"; returns its address."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(status: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_allowed = self.path == "/api/ps" and self.headers.get("Authorization") == "Bearer k"
                self.send_response(status if is_allowed else 401)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def test_loaded_models_are_a_table(place, answer):
    url = answer(200, json.dumps({"models": [MODEL]}).encode())
    done = place.call("ps", "--url", url + "/", "--api-key", "k")
    header, line = done.stdout.splitlines()
    assert header.split() == ["NAME", "ARCHITECTURE", "TYPE", "MEMORY", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert line.split() == ["bge-m3:latest", "bert", "F16", "1.2", "GB", "CPU", "8192", "forever"]
    done = place.call("ps", "--url", url, "--json", LLAMA_API_KEY="k, other")
    assert json.loads(done.stdout) == [MODEL]


def test_without_loaded_models_it_prints_one_line(place, answer):
    done = place.call("ps", "--url", answer(200, b'{"models": []}'), "--api-key", "k")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert "no model is loaded" in done.stdout


@pytest.mark.parametrize(
    ("status", "body", "key", "words"),
    [
        (200, b"{}", "wrong", ["401", "--api-key", "LLAMA_API_KEY"]),
        (404, b"", "k", ["404", "/api/ps", "--url"]),
        (200, b"<html>", "k", ["not a gguf-embed server", "--url"]),
        (200, b"[]", "k", ["not a gguf-embed server", "--url"]),
        (200, b'{"models": {"a": 1}}', "k", ["not a gguf-embed server", "--url"]),
        (200, b'{"models": [1]}', "k", ["not a gguf-embed server", "--url"]),
        (200, b"\xff", "k", ["not a gguf-embed server", "--url"]),
    ],
)
def test_any_other_answer_is_one_line(place, answer, status, body, key, words):
    url = answer(status, body)
    done = place.call("ps", "--url", url, "--api-key", key)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert [word for word in [url, *words] if word not in done.stderr] == []
    assert "wrong" not in done.stderr


def test_no_server_is_one_line_with_the_reason(place):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = place.call("ps", "--url", url)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"{url} (Connection refused)" in done.stderr
    assert [word for word in ("`gguf-embed serve`", "--url") if word not in done.stderr] == []


@pytest.mark.parametrize(
    ("url", "full"),
    [
        ("http://h:1/", "http://h:1"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("https://h/prefix", "https://h/prefix"),
        ("http://[::1]:80", "http://[::1]:80"),
        ("http://h:1/v1", "http://h:1"),
        ("h:1/v1/", "http://h:1"),
        ("http://h:1/v1/embeddings", "http://h:1"),
        ("http://h:1/api", "http://h:1"),
        ("http://h:1/prefix/v1", "http://h:1/prefix"),
    ],
)
def test_addresses(url, full):
    assert checked_url(url) == full


@pytest.mark.parametrize(
    "url", ["", "ftp://h", "http://", "http://h:x", "http://h:99999", "file:///etc/passwd", "h?x=1"]
)
def test_a_wrong_address_is_refused(url):
    with pytest.raises(ConfigError, match=r"--url .*http://127"):
        checked_url(url)


def test_a_model_with_missing_fields_is_a_line_too():
    assert model_lines([{}], NOW_S)[1].split() == ["-", "-", "-", "-", "CPU", "-", "-"]


@pytest.mark.parametrize(
    ("size", "on_gpu", "text"), [(10, 0, "CPU"), (10, 10, "GPU"), (10, 3, "30% GPU"), (0, 0, "CPU")]
)
def test_where_memory_is(size, on_gpu, text):
    assert processor_text(size, on_gpu) == text


@pytest.mark.parametrize(
    ("after_s", "text"), [(300, "5 min from now"), (20, "20 s from now"), (-1, "now"), (10**10, "forever")]
)
def test_until_when_it_stays(after_s, text):
    moment = datetime.fromtimestamp(NOW_S, UTC) + timedelta(seconds=after_s)
    assert expiry_text(moment.isoformat(), NOW_S) == text


@pytest.mark.parametrize("moment", ["", "soon"])
def test_a_time_that_cannot_be_read_is_a_dash(moment):
    assert expiry_text(moment, NOW_S) == "-"
