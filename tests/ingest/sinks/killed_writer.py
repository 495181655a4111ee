"""The process that a test of the contract kills: `python -m tests.ingest.sinks.killed_writer URL`."""

from __future__ import annotations

import sys
import time

from gguf_embed.ingest.sinks.open import open_sink
from tests.ingest.sinks.sample_rows import MANIFEST, numbered, rows


def be_killed(url: str) -> None:
    """500 rows of which five are deleted and flushed, then 100 that are not."""
    sink = open_sink(url)
    sink.create(MANIFEST)
    sink.prepare("none")
    for first in range(0, 500, 100):
        sink.write(rows(numbered(100, first=first), seed=1))
    sink.flush()
    sink.delete(numbered(5))
    sink.flush()
    sink.write(rows(numbered(100, first=500), seed=2))
    print("flushed", flush=True)
    time.sleep(60)


if __name__ == "__main__":
    be_killed(sys.argv[1])
