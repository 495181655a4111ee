"""`gguf-embed embed -o FILE`: what becomes of an earlier file, of links and pipes, and which format the name means."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.cli.embed_formats import format_of_path
from gguf_embed.cli.embed_output import writing_file
from gguf_embed.errors import ModelFileError
from tests.cli.one_shot import Done, call, start
from tests.server_process import wait_until

LONG = "cat " * 70  # the tiny model takes 64 tokens


@pytest.fixture
def run(models, cache_dir):
    def run_(*words, **streams) -> Done:
        environment = {"GGUF_EMBED_CACHE": str(cache_dir)}
        return call("embed", *words, "-m", models / "encoder.gguf", environment=environment, **streams)

    return run_


@pytest.mark.parametrize("suffix", ["npy", "parquet", "arrow", "jsonl"])
def test_a_failure_leaves_no_file(run, tmp_path, suffix):
    content = b"cat\n" * 9000 + LONG.encode()
    done = run("-o", tmp_path / f"v.{suffix}", stdin=content)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["npy", "parquet", "arrow", "jsonl"])
def test_an_earlier_file_is_replaced_by_a_complete_one_only(run, tmp_path, suffix):
    path = tmp_path / f"v.{suffix}"
    path.write_bytes(b"earlier")
    assert run("-o", path, stdin=b"cat\n" * 9000 + LONG.encode()).code == 1
    assert path.read_bytes() == b"earlier"
    assert run("-o", path, stdin=b"cat\n") == Done(0, b"", "")
    assert path.read_bytes() != b"earlier"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_the_earlier_file(models, cache_dir, tmp_path, number):
    path = tmp_path / "v.jsonl"
    path.write_bytes(b"earlier")
    with start(models, cache_dir, "-o", path, stderr=subprocess.PIPE) as process:
        process.stdin.write(b"cat\n" * 600)
        process.stdin.flush()
        wait_until(lambda: any(part.stat().st_size for part in tmp_path.glob(".v.jsonl.*")))
        process.send_signal(number)
        process.communicate(timeout=20)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert path.read_bytes() == b"earlier"


def test_a_link_to_the_file_stays(run, tmp_path):
    path, link = tmp_path / "v.npy", tmp_path / "link.npy"
    link.symlink_to(path)
    assert run("cat", "-o", link) == Done(0, b"", "")
    assert link.is_symlink()
    assert np.load(path).shape == (1, 32)


@pytest.mark.parametrize("format_", ["jsonl", "npy", "parquet", "arrow"])
def test_a_named_pipe_is_written_to_and_stays(run, tmp_path, format_):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        assert run("cat", "-o", pipe, "--format", format_) == Done(0, b"", "")
        assert reader.read() == run("cat", "--format", format_).out
    assert pipe.is_fifo()


def write_row(path: Path) -> None:
    with writing_file("jsonl", path, width=80) as writer:
        writer.write(["cat"], np.ones((1, 2), np.float32))


def test_a_descriptor_is_written_to_after_what_its_file_contains(tmp_path):
    path = tmp_path / "v.jsonl"
    write_row(path)
    row = path.read_bytes()
    with path.open("ab") as appended:
        for _ in range(2):
            write_row(Path(f"/dev/fd/{appended.fileno()}"))
    assert path.read_bytes() == 3 * row
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.process
def test_standard_output_is_a_descriptor(run, models, cache_dir):
    with start(models, cache_dir, "cat", "-o", "/dev/stdout") as process:
        assert process.communicate(timeout=60)[0] == run("cat").out
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_devices_are_written_to_and_say_why_not(run):
    assert run("cat", "-o", "/dev/null") == Done(0, b"", "")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(ModelFileError, match=r"^/dev/full cannot be written \(No space left on device\)$"):
        write_row(Path("/dev/full"))


def test_a_pipe_whose_reader_has_gone_is_an_error(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    context = writing_file("jsonl", pipe, width=80)
    writer = context.__enter__()
    os.close(reader)
    with pytest.raises(BrokenPipeError) as broken:
        writer.write(["cat" * 10_000], np.ones((1, 2), np.float32))
    with pytest.raises(ModelFileError, match=r"pipe cannot be written \(Broken pipe\)"):
        context.__exit__(BrokenPipeError, broken.value, broken.tb)


FULL = "cannot be written (No space left on device): free some space, or name another file with -o"


@pytest.mark.process
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize(
    ("name", "format_"),
    [
        *(("standard output", format_) for format_ in ("jsonl", "npy", "parquet", "arrow", "table")),
        ("/dev/stdout", "npy"),
        ("/dev/full", "parquet"),
    ],
)
def test_what_cannot_be_written_is_named_with_the_way_out(models, cache_dir, name, format_):
    flags = ["--format", format_, *(() if name == "standard output" else ("-o", name))]
    with (
        open("/dev/full", "wb", 0) as full,
        start(models, cache_dir, "cat", *flags, stdout=full, stderr=subprocess.PIPE) as process,
    ):
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said.decode()) == (1, f"gguf-embed: {name} {FULL}\n")


TEMPORARY = "set TMPDIR to a folder that you can write to"


@pytest.mark.parametrize("flags", [(), ("-o", "/dev/fd/1")])
def test_without_a_folder_for_temporary_files_npy_says_so(run, monkeypatch, tmp_path, flags):
    nowhere = str(tmp_path / "nothing")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [nowhere])
    done = run("cat", "--format", "npy", *flags)
    why = f"No usable temporary directory found in {[nowhere]}"
    assert done == Done(1, b"", f"gguf-embed: the temporary file for NPY cannot be written ({why}): {TEMPORARY}\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("n_texts", [1, 600])
def test_a_full_disk_of_temporary_files_is_named(run, monkeypatch, n_texts):
    monkeypatch.setattr(tempfile, "TemporaryFile", partial(open, "/dev/full", "w+b"))
    done = run("--format", "npy", stdin=b"cat\n" * n_texts)
    said = "the temporary file for NPY cannot be written (No space left on device): free some space, or"
    assert done == Done(1, b"", f"gguf-embed: {said} {TEMPORARY}\n")


@pytest.mark.process
@pytest.mark.parametrize("flags", [(), ("-o", "/dev/stdout"), ("-o", "/dev/fd/1")])
def test_a_descriptor_whose_reader_has_gone_ends_it_without_a_message(models, cache_dir, flags):
    with start(models, cache_dir, *flags, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.communicate(b"cat\n" * 600, timeout=60)[1] == b""
    assert process.returncode == 141


@pytest.mark.process
def test_what_is_closed_or_not_open_for_writing_is_named(models, cache_dir):
    for redirected, message in (
        (">&-", "standard output is closed: name a file with -o"),
        (">&- --format npy", "standard output is closed: name a file with -o"),
        ("-o /dev/fd/5 5</dev/null", "/dev/fd/5 cannot be written (Bad file descriptor): name another file with -o"),
        ("-f - <&-", "stdin is closed: leave out -, or pipe texts into the command"),
    ):
        line = f"{sys.executable} -m gguf_embed embed -m {models / 'encoder.gguf'} cat {redirected}"
        environment = os.environ | {"GGUF_EMBED_CACHE": str(cache_dir)}
        done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (1, f"gguf-embed: {message}\n")


def test_a_descriptor_that_is_not_open_and_a_link_to_itself(tmp_path):
    with pytest.raises(ModelFileError, match=r"^/dev/fd/999 cannot be written \(Bad file descriptor\)$"):
        write_row(Path("/dev/fd/999"))
    link = tmp_path / "link"
    link.symlink_to(link)
    write_row(link)
    assert link.is_file()


@pytest.mark.parametrize(
    ("name", "format_"),
    [("a.npy", "npy"), ("a.PARQUET", "parquet"), ("a.feather", "arrow"), ("a.jsonl", "jsonl"), ("a", "jsonl")],
)
def test_the_suffix_says_the_format(tmp_path, name, format_):
    assert format_of_path(tmp_path / name) == format_


def test_errors_about_other_files_are_not_blamed_on_the_output():
    with pytest.raises(PermissionError), writing_file("jsonl", Path("/dev/null"), width=80):
        raise PermissionError(13, "Permission denied", "/elsewhere")
