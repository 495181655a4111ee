"""Which instructions the processor has."""

from __future__ import annotations

from pathlib import Path

from gguf_embed.engines.system_files import read_system_file


def cpu_flags() -> frozenset[str]:
    """Its features, with Linux's names; empty if the system does not list them."""
    lines = read_system_file(Path("/proc/cpuinfo")).splitlines()
    return frozenset(next((line.split(":")[1].split() for line in lines if line.startswith("flags")), []))
