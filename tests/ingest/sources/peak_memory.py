"""A process of its own that reads a source and prints how many documents it has and how much memory was used."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from gguf_embed.ingest.sources.base import SourceOptions
from gguf_embed.ingest.sources.open import open_source


def main() -> None:
    source = open_source(sys.argv[1], SourceOptions())
    n_documents = sum(len(batch) for batch in source.batches(2000))
    source.close()
    print(n_documents, peak_bytes())


def peak_bytes() -> int:
    """On Linux, `getrusage` begins with the memory of the process that started this one."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
