"""Runs one job as a process of its own, to be killed: folder, sink, and "chunks" or "whole" are its arguments.

It prints a line before it stores a window.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gguf_embed.ingest.job import reader, writer
from tests.ingest.job.fakes import FakePool
from tests.ingest.job.jobs import CHUNKS, Place

if __name__ == "__main__":
    reader.BATCH_ROWS, reader.WINDOW_CHUNKS = 10, 20
    writer.COMMIT_S = 0.02
    folder, url, how = sys.argv[1:]
    place = Place(Path(folder), url, CHUNKS if how == "chunks" else None, FakePool(batch_texts=4, delay_s=0.002))
    collect = writer._collect

    def collect_and_say(window: reader.Window) -> object:
        print("window", flush=True)
        return collect(window)

    writer._collect = collect_and_say  # type: ignore[assignment]
    place.run(prune=True)
    print("done", flush=True)
