"""`gguf-embed batch` as a process: complete output, errors, interruption, continuation."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from gguf_embed.batch.line_log import LineLog
from gguf_embed.batch.lines import LineReply, LineRequest, output_line
from gguf_embed.batch.store import lock_file
from gguf_embed.cli.batch import _writable
from gguf_embed.errors import ConfigError
from tests.batch.http_batches import jsonl
from tests.server_process import clean_environment, command, run_to_end, wait_until


def line(custom_id: object, url: str = "/v1/embeddings", **body: object) -> dict[str, object]:
    return {"custom_id": str(custom_id), "method": "POST", "url": url, "body": body}


def entries(path: Path) -> list[dict]:
    return [json.loads(text) for text in path.read_text().splitlines()]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_bytes(jsonl([line(number, model="any", input=f"text {number}") for number in range(50)]))
    return path


def test_it_gives_what_a_server_gives(cache_dir, models, tmp_path, source, tiny_server):
    output = tmp_path / "out.jsonl"
    flags = ("batch", "-m", models / "encoder.gguf", "-i", source, "-o", output)
    done = run_to_end(cache_dir, *flags)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "50 of 50 lines" in done.stderr
    found = entries(output)
    assert [entry["custom_id"] for entry in found] == [str(number) for number in range(50)]
    vectors = np.array([entry["response"]["body"]["data"][0]["embedding"] for entry in found], np.float32)
    np.testing.assert_allclose(vectors, tiny_server.embed([f"text {number}" for number in range(50)]), atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]
    again = run_to_end(cache_dir, *flags)
    assert (again.returncode, len(entries(output))) == (0, 50)


def test_lines_that_fail_have_a_file_of_their_own_and_an_exit_code(cache_dir, models, tmp_path):
    source, output, errors = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "bad.jsonl"
    lines = [
        line("good", input="a"),
        line("bad", input="a", dimensions=9999),
        line("no", "/v1/rerank", query="a", documents=["b"]),
    ]
    source.write_bytes(jsonl(lines))
    done = run_to_end(cache_dir, "batch", "-m", models / "encoder.gguf", "-i", source, "-o", output, "--errors", errors)
    assert done.returncode == 3, done.stderr
    assert [entry["custom_id"] for entry in entries(output)] == ["good"]
    assert [(entry["custom_id"], entry["response"]["status_code"]) for entry in entries(errors)] == [
        ("bad", 400),
        ("no", 501),
    ]


def test_wrong_lines_are_said_before_a_model_is_loaded(cache_dir, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_bytes(jsonl([line("a", input="x"), line("a", input="y"), line("b", "/v1/completions")]) + b"{\n")
    done = run_to_end(cache_dir, "batch", "-m", tmp_path / "no.gguf", "-i", source, "-o", tmp_path / "out.jsonl")
    assert done.returncode == 1
    assert [f"{source}:{number}:" in done.stderr for number in (1, 2, 3, 4)] == [False, True, True, True]
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_is_continued_by_the_same_command(cache_dir, models, tmp_path, number):
    n_lines = 4_000
    source, output, part = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "out.jsonl.part"))
    source.write_bytes(jsonl([line(n, input=f"text {n} " * 30, truncate=True) for n in range(n_lines)]))
    flags = ("batch", "-m", models / "encoder.gguf", "-i", source, "-o", output)
    run = subprocess.Popen(
        command(*flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment(cache_dir)
    )
    wait_until(lambda: part.exists() and part.stat().st_size > 20_000)
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    if number == signal.SIGINT:
        assert run.returncode == 130
        assert "the same command continues" in said
        assert "Traceback" not in said
    content = part.read_bytes()
    written = content[: content.rfind(b"\n") + 1]
    assert not output.exists()
    done = run_to_end(cache_dir, *flags)
    assert done.returncode == 0, done.stderr
    assert output.read_bytes().startswith(written)
    assert [int(entry["custom_id"]) for entry in entries(output)] == list(range(n_lines))


def test_lines_of_another_input_or_process_are_not_touched(cache_dir, models, tmp_path, source):
    part = tmp_path / "out.jsonl.part"
    flags = ("batch", "-m", models / "encoder.gguf", "-i", source, "-o", tmp_path / "out.jsonl")
    lock = lock_file(part)
    assert lock is not None
    locked = run_to_end(cache_dir, *flags)
    os.close(lock)
    assert (locked.returncode, "another process" in locked.stderr) == (1, True)
    theirs = output_line("0" * 32, LineRequest(1, "a", "/v1/embeddings", {}), LineReply(200, b"{}"))
    part.write_bytes(theirs)
    refused = run_to_end(cache_dir, *flags)
    assert (refused.returncode, "another input" in refused.stderr) == (1, True)
    assert part.read_bytes() == theirs


def test_a_file_that_cannot_be_written_is_named_by_its_own_errors_only(tmp_path):
    output = tmp_path / "out.jsonl"
    log = LineLog(tmp_path / "out.jsonl.part", "0" * 32, lambda line: None)

    def full(handle: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    reason = "(No space left on device): free some space, or choose another folder; the same command continues"
    message = re.escape(f"out.jsonl cannot be written {reason}")
    with patch.object(os, "write", full), pytest.raises(ConfigError, match=message), _writable([output]):
        log.append(b"line\n")
    log.close()
    with pytest.raises(PermissionError), _writable([output]):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere")
    with pytest.raises(OSError, match="No space"), _writable([output]):
        raise OSError(errno.ENOSPC, "No space left on device")
