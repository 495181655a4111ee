"""The process that a test of Chroma kills, `python -m tests.ingest.sinks.killed_chroma URL`, and killing it.

Chroma writes its index after 1,000 changes: after the second write here, and after the last.
"""

from __future__ import annotations

import os
import select
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gguf_embed.ingest.sinks.open import open_sink
from tests.ingest.sinks.contract import ROOT
from tests.ingest.sinks.sample_rows import MANIFEST, numbered, rows

LONG = "x" * 60  # the names of all rows do not fit into a pipe
FIRST = [f"{LONG}{id_}" for id_ in numbered(1_000)]
SECOND = [f"{LONG}{id_}" for id_ in numbered(1_000, first=900)]
DELETED = FIRST[:50]


def be_killed(url: str) -> None:
    """Waits for a line after each step, and prints one."""
    sink = open_sink(url)
    sink.create(MANIFEST)
    sink.prepare("none")
    first = rows(FIRST, seed=1)
    sink.write(first.slice(0, 500))
    print("no index is written", flush=True)
    sys.stdin.readline()
    sink.write(first.slice(500))
    sink.delete(DELETED)
    print("the first index is written", flush=True)
    sys.stdin.readline()
    sink.write(rows(SECOND, seed=2))
    print("the second index is written", flush=True)
    sys.stdin.readline()


def kill_while_the_first_index_is_written(url: str, folder: Path) -> None:
    """Within the file with the ids."""
    with started(url) as process:
        with sqlite3.connect(folder / "chroma.sqlite3") as db:
            ((index,),) = db.execute("select id from segments where scope = 'VECTOR'")
        db.close()
        (folder / index).mkdir(exist_ok=True)
        kill_while_it_writes(folder / index / "index_metadata.pickle", process)


def kill_while_the_index_is_written(url: str, folder: Path, moment: str) -> None:
    """Before the file with the ids is written, within it, or after the whole index was written."""
    with started(url) as process:
        go_on(process, "the first index is written")
        if moment == "after":
            go_on(process, "the second index is written")
            process.kill()
            return
        (ids,) = folder.glob("*-*/index_metadata.pickle")
        older = ids.read_bytes()
        ids.unlink()
        kill_while_it_writes(ids, process)
        if moment == "before":
            ids.write_bytes(older)


@contextmanager
def started(url: str) -> Iterator[subprocess.Popen[str]]:
    """No index is written yet."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.ingest.sinks.killed_chroma", url]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "no index is written\n"
        yield process


def go_on(process: subprocess.Popen[str], until: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    assert process.stdout.readline() == f"{until}\n"


def kill_while_it_writes(file: Path, process: subprocess.Popen[str]) -> None:
    """The file, which is not there, then has its first bytes only."""
    assert process.stdin is not None
    os.mkfifo(file)  # which Chroma cannot write to its end, as nobody reads it
    reader = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    process.stdin.write("\n")
    assert select.select([reader], [], [], 60)[0], "Chroma has not written its index"
    process.kill()
    process.wait()
    written = os.read(reader, 4_000)
    os.close(reader)
    file.unlink()
    file.write_bytes(written)


if __name__ == "__main__":
    be_killed(sys.argv[1])
