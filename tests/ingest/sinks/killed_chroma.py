"""The process that a test of Chroma kills, `python -m tests.ingest.sinks.killed_chroma URL`, and killing it.

Chroma writes its index after 1,000 changes: after the first write here, and after the last.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
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
    sink.write(rows(FIRST, seed=1))
    sink.delete(DELETED)
    print("the first index is written", flush=True)
    sys.stdin.readline()
    sink.write(rows(SECOND, seed=2))
    print("the second index is written", flush=True)
    sys.stdin.readline()


def kill_while_the_index_is_written(url: str, folder: Path, moment: str) -> None:
    """Before the file with the ids is written, within it, or after the whole index was written."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.ingest.sinks.killed_chroma", url]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "the first index is written\n"
        if moment == "after":
            process.stdin.write("\n")
            assert process.stdout.readline() == "the second index is written\n"
            process.kill()
            return
        (ids,) = folder.glob("*-*/index_metadata.pickle")
        older = ids.read_bytes()
        ids.unlink()
        os.mkfifo(ids)  # which Chroma cannot write to its end, as nobody reads it
        reader = os.open(ids, os.O_RDONLY | os.O_NONBLOCK)
        process.stdin.write("\n")
        assert select.select([reader], [], [], 60)[0], "Chroma has not written its index"
        process.kill()
        process.wait()
        newer = os.read(reader, 4_000)
        os.close(reader)
        ids.unlink()
        ids.write_bytes(older if moment == "before" else newer)


if __name__ == "__main__":
    be_killed(sys.argv[1])
