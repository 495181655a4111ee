"""No home directory, nothing that can be written: what needs no cache works, and what does says so in one line."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from gguf_embed.errors import ConfigError
from gguf_embed.model_store import places
from gguf_embed.model_store.default_model import cache_dir, resolve_default
from gguf_embed.model_store.places import NO_HOME, expanded, memory_file
from tests.cli.bare_machine import ROOT, gguf_embed, is_possible, run
from tests.server_process import run_to_end

needs_namespaces = pytest.mark.skipif(not is_possible(), reason="this user may not make namespaces")

SERVED_BY_DEFAULT = "the default model is kept in memory"
AT_ONCE = ("--engine", "llama")  # without a cache, each start would compare the engines, which takes seconds


def start(*words: str | Path, home: str | None = None) -> tuple[subprocess.Popen[str], list[str]]:
    """A server there, and what it printed until it was ready."""
    process = subprocess.Popen(
        gguf_embed("serve", "--port", "0", *words, home=home),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if line.startswith("curl "):
            return process, lines
    process.communicate()
    raise AssertionError(lines)


def ask(lines: list[str]) -> list[float]:
    url = next(line for line in lines if line.startswith("serving")).split()[1]
    request = urllib.request.Request(f"{url}/v1/embeddings", b'{"input": "hello world"}')
    with urllib.request.urlopen(request, timeout=30) as reply:
        vector: list[float] = json.load(reply)["data"][0]["embedding"]
        return vector


@needs_namespaces
@pytest.mark.process
@pytest.mark.parametrize(("home", "flags"), [(None, ()), ("/", AT_ONCE), ("/nonexistent", AT_ONCE)])
def test_the_default_model_runs_from_its_package_without_a_file_being_written(home, flags, default_server):
    process, lines = start(*flags, home=home)
    try:
        assert sum(SERVED_BY_DEFAULT in line for line in lines) == 1
        assert "Traceback" not in "\n".join(lines)
        vector = ask(lines)
        expected = default_server.embed("hello world")[0]
        assert vector @ expected == pytest.approx(1, abs=1e-4)
    finally:
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=30)
    assert "Traceback" not in printed
    assert process.returncode == 0


@needs_namespaces
@pytest.mark.process
def test_a_file_is_served_without_any_cache(models):
    process, lines = start("-m", models / "encoder.gguf")
    try:
        assert len(ask(lines)) == 32
        assert SERVED_BY_DEFAULT not in "\n".join(lines)
    finally:
        process.terminate()
        process.communicate(timeout=30)


@needs_namespaces
@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["list"], 0, "all-MiniLM-L6-v2"),
        (["list", "--json"], 0, "built-in"),
        (["show", "all-minilm"], 0, "dimensions"),
        (["rm", "x"], 1, "no model is called 'x'"),
        (["embed", "hello"], 0, "embedding"),
        (["rerank", "a query", "a document", "--by", "embedding"], 0, ""),
        (["pull", "bge-m3"], 1, "bge-m3"),
        (["convert", "some/model"], 1, "some/model"),
        (["doctor", "/x.gguf"], 1, "/x.gguf: no such file"),
        (["ps"], 1, "no server at"),
        (["search", "lancedb:/x?table=t", "query"], 1, ""),
        (["ingest", "README.md", "--to", "sqlite:/x.db?table=t"], 1, ""),
        (["serve", "-hf", "some/model"], 1, "some/model"),
    ],
)
def test_every_command_answers_in_words(words, code, said):
    ended = run(*words)
    assert "Traceback" not in ended.stderr + ended.stdout
    assert ended.returncode == code, ended.stderr
    assert said in ended.stdout + ended.stderr


def without_home(monkeypatch) -> None:
    def no_home(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(Path, "expanduser", no_home)


def test_the_cache_of_nobody_cannot_be_made(monkeypatch):
    without_home(monkeypatch)
    assert cache_dir({}).is_relative_to(NO_HOME)
    assert cache_dir({"XDG_CACHE_HOME": "/var/cache"}) == Path("/var/cache/gguf-embed")
    with pytest.raises(OSError, match="Not a directory"):
        cache_dir({}).mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"~/cache: there is no home directory for ~: .* or set HOME"):
        cache_dir({"GGUF_EMBED_CACHE": "~/cache"})


def test_a_tilde_without_a_home_is_an_error_in_words():
    assert expanded(Path("/a/~b")) == Path("/a/~b")
    with pytest.raises(ConfigError, match=r"^~no-such-user/x: there is no home directory for ~no-such-user"):
        expanded(Path("~no-such-user/x"))


@pytest.mark.parametrize("command", ["serve", "embed"])
def test_commands_say_it_for_a_file_below_an_unknown_home(command, tmp_path):
    ended = run_to_end(tmp_path, command, "-m", "~no-such-user/x.gguf", *(["text"] if command == "embed" else []))
    assert ended.returncode == 1
    assert ended.stderr.startswith("gguf-embed: ~no-such-user/x.gguf: there is no home directory for ~no-such-user: ")
    assert ended.stderr.count("\n") == 1


def test_token_ids_need_no_folder_for_temporary_files(monkeypatch):
    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(places.tempfile, "gettempdir", nowhere)
    assert places.temporary_folder() == Path("/tmp")


@pytest.mark.parametrize("cache", ["/dev/null/cache", "/proc/cache"])
def test_a_cache_that_cannot_be_written_is_told_once_and_the_model_is_the_same(cache, default_model):
    told: list[str] = []
    path = resolve_default(Path(cache), told.append)
    assert path.read_bytes() == default_model.read_bytes()
    (line,) = [line for line in told if SERVED_BY_DEFAULT in line]
    assert line.startswith(f"{cache}/all-MiniLM-L6-v2-F16.gguf cannot be written (")
    assert "GGUF_EMBED_CACHE" in line


def test_without_files_in_memory_the_error_names_the_cache(monkeypatch, default_model):
    monkeypatch.setattr("gguf_embed.model_store.default_model.memory_file", lambda name: None)
    with pytest.raises(Exception, match=r"/dev/null/x/all-MiniLM-L6-v2-F16.gguf cannot be written") as caught:
        resolve_default(Path("/dev/null/x"), lambda line: None)
    assert "other_cache" in caught.value.ways_out


def test_a_file_in_memory_is_read_by_path_and_empty_at_first():
    path = memory_file("x.gguf")
    assert path is not None
    assert path.read_bytes() == b""
    path.write_bytes(b"GGUF")
    assert subprocess.run(["cat", path], capture_output=True).stdout == b"GGUF"
