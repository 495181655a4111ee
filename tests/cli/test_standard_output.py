"""A standard output that is closed, that is full or that nobody reads, for every command."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import click
import pytest

from gguf_embed.cli.main import cli, main
from gguf_embed.cli.standard_output import Use
from gguf_embed.model_store.store import ModelStore
from tests.batch.http_batches import jsonl
from tests.cli.command import Place
from tests.convert.encoders import tiny_models as tiny
from tests.model_store.fake_hub import FakeHub, serve
from tests.server_process import command, wait_until

CONTEXT = click.Context(cli)
NAMES = cli.list_commands(CONTEXT)
REPORTS = {name for name in NAMES if getattr(cli.get_command(CONTEXT, name), "use", None) is Use.REPORT}
LOADING = {"serve", "batch"}  # load a model
SILENT = {"batch"}  # print nothing there
CLOSED = "gguf-embed: standard output is closed: "
FULL = "gguf-embed: standard output cannot be written (No space left on device): free some space, or "

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")


@pytest.fixture
def place(models, tmp_path) -> Iterator[Place]:
    """With a hub, a pulled model, texts, stored rows, requests and an original model."""
    encoder = models / "encoder.gguf"
    (tmp_path / "cache").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("hello world")
    request = {"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {"model": "any", "input": "cat"}}
    (tmp_path / "requests.jsonl").write_bytes(jsonl([request]))
    tiny.write_directory("bert", tmp_path / "original")
    ModelStore(tmp_path / "cache").add("mine", encoder, "ab" * 32)
    with serve(FakeHub(files={"org/tiny-GGUF": {"tiny-Q8_0.gguf": encoder.read_bytes()}})) as hub:
        yield Place(tmp_path, hub.endpoint)


@pytest.fixture
def measured(cache_dir) -> dict[str, str]:
    """For commands that load a model."""
    return {"GGUF_EMBED_CACHE": str(cache_dir)}


@pytest.fixture
def words(place, models, tiny_server) -> Callable[[str], list[str]]:
    """What makes a command do its work."""
    folder, model, server = place.folder, ("-m", str(models / "encoder.gguf")), ("--endpoint", tiny_server.url)
    rows = f"sqlite:{folder / 'rows.db'}?table=rows"
    store = ["ingest", str(folder / "texts"), "--to", rows, *server]
    work = {
        "serve": [*model, "--host", str(folder / "server.sock"), "--batch-dir", "off"],
        "list": [],
        "pull": ["org/tiny-GGUF"],
        "show": ["mine"],
        "rm": ["mine"],
        "ps": ["--url", tiny_server.url],
        "embed": ["cat", *server],
        "rerank": ["cat", "dog", "--by", "embedding", *server],
        "search": [rows, "hello", *server],
        "ingest": store[1:],
        "batch": ["-i", str(folder / "requests.jsonl"), "-o", str(folder / "out.jsonl"), *model],
        "convert": [str(folder / "original"), "-o", str(folder / "converted.gguf")],
        "doctor": [str(models / "encoder.gguf")],
    }
    assert set(work) == set(NAMES)

    def words_of(name: str) -> list[str]:
        if name == "search":
            assert place.run(*store).returncode == 0
        return [name, *work[name]]

    return words_of


def run(place: Place, words: list[str], stdout: int | None, **environment: str) -> tuple[int, str]:
    """The exit code, and what was said on stderr. `stdout`: a descriptor; None: closed. A server is stopped."""
    close = "os.close(1); " if stdout is None else ""
    start = f"import os, sys; {close}os.execv(sys.executable, [sys.executable, '-m', 'gguf_embed', *sys.argv[1:]])"
    with subprocess.Popen(
        [command()[0], "-c", start, *words],
        env=place.environment | environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        if words[:1] == ["serve"] and "--help" not in words:
            wait_until(lambda: process.poll() is not None or answers(place.folder / "server.sock"))
            process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        return process.returncode, said


def answers(path: Path) -> bool:
    with closing(socket.socket(socket.AF_UNIX)) as client:
        return client.connect_ex(str(path)) == 0


@pytest.fixture
def full() -> Iterator[int]:
    with open("/dev/full", "wb", 0) as stream:
        yield stream.fileno()


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@needs_full
@pytest.mark.process
@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["serve", "--help"]], ids=" ".join)
def test_help_says_why_it_cannot_be_shown(tmp_path, words, full, unread):
    place = Place(tmp_path, "http://127.0.0.1:9")
    assert run(place, words, full) == (1, FULL + "send it elsewhere\n")
    assert run(place, words, unread) == (141, "")


@pytest.mark.process
@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], *([name, "--help"] for name in NAMES)], ids=" ".join)
def test_the_help_of_every_command_needs_it(tmp_path, words):
    place = Place(tmp_path, "http://127.0.0.1:9")
    assert run(place, words, None) == (1, CLOSED + "redirect it to a file or a pipe\n")


@pytest.mark.process
@pytest.mark.parametrize("name", NAMES)
def test_a_closed_one_is_an_error_where_it_has_the_result(place, words, measured, name):
    code, said = run(place, words(name), None, **(measured if name in LOADING else {}))
    if name in REPORTS:
        assert (code, "gguf-embed: " in said, "Traceback" in said) == (0, False, False), said
    else:
        way_out = "name a file with -o" if name == "embed" else "redirect it to a file or a pipe"
        assert (code, said) == (1, f"{CLOSED}{way_out}\n")


@needs_full
@pytest.mark.process
@pytest.mark.parametrize("name", NAMES)
def test_a_full_one_is_one_line_with_the_way_out(place, words, measured, name, full):
    code, said = run(place, words(name), full, **(measured if name in LOADING else {}))
    if name in SILENT:
        assert (code, "gguf-embed: " in said) == (0, False), said
        return
    way_out = "name another file with -o" if name == "embed" else "send it elsewhere"
    assert (code, said.splitlines()[-1], "Traceback" in said) == (1, FULL + way_out, False)
    assert name in REPORTS or said.count("\n") == 1


@pytest.mark.process
@pytest.mark.parametrize("name", NAMES)
def test_one_that_nobody_reads_ends_without_a_word(place, words, measured, name, unread):
    code, said = run(place, words(name), unread, **(measured if name in LOADING else {}))
    assert (code, "gguf-embed: " in said, "Traceback" in said) == (0 if name in REPORTS else 141, False, False), said


@needs_full
@pytest.mark.process
def test_in_json_the_warning_is_a_line_of_the_log(place, words, measured, full):
    code, said = run(place, [*words("serve"), "--log-format", "json"], full, **measured)
    warnings = [line["message"] for line in map(json.loads, said.splitlines()) if line["level"] == "warning"]
    assert (code, warnings) == (1, [FULL.removeprefix("gguf-embed: ") + "send it elsewhere"])


@needs_full
@pytest.mark.process
def test_a_job_stores_its_rows_all_the_same(place, words, full):
    assert run(place, words("ingest"), full)[0] == 1
    assert "0 stored in 0 rows, 1 unchanged" in place.run(*words("ingest")).stdout


@pytest.mark.process
def test_a_file_of_its_own_needs_none(place, words):
    path = place.folder / "v.jsonl"
    assert run(place, [*words("embed"), "-o", str(path)], None) == (0, "")
    assert path.exists()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "a file cannot be written (No space left on device): free"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "a file cannot be written (Disk quota exceeded): free"),
        (OSError(errno.EROFS, "Read-only", "/state/db"), "/state/db cannot be written (Read-only): choose a folder"),
        (OSError(errno.EFBIG, "File too large"), "a file cannot be written (File too large): raise the limit"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "a connection was closed by the other side (Broken pipe): try"),
        (ConnectionResetError(errno.ECONNRESET, "Reset"), "a connection was closed by the other side (Reset): try"),
    ],
)
def test_errors_of_other_files_do_not_name_the_output(monkeypatch, capsys, error, line):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("gguf_embed.model_store.store.ModelStore", fail)
    monkeypatch.setattr(sys, "argv", ["gguf-embed", "list"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"gguf-embed: {line}")


@pytest.mark.parametrize(
    ("words", "places"),
    [
        (["search", "sqlite:rows.db?table=rows", "cat", "--endpoint", "http://127.0.0.1:9"], "URL, --endpoint"),
        (["search", "sqlite:rows.db?table=rows", "cat"], "URL"),
    ],
)
def test_a_connection_that_was_closed_is_named(monkeypatch, capsys, words, places):
    def fail(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("gguf_embed.cli.search.find", fail)
    monkeypatch.setattr(sys, "argv", ["gguf-embed", *words])
    with pytest.raises(SystemExit):
        main()
    said = f"gguf-embed: a connection was closed by the other side (Broken pipe): see whether it still runs ({places}),"
    assert capsys.readouterr().err == f"{said} and try again\n"
