"""What Linux says about the processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gguf_embed.engines.system_files import read_system_file


def cpu_fields() -> Mapping[str, str]:
    """The first processor's fields, with Linux's names; empty if the system does not list them."""
    return first_processor(read_system_file(Path("/proc/cpuinfo")))


def cpu_flags() -> frozenset[str]:
    """Its features, with Linux's names; empty if the system does not list them."""
    return features_of(cpu_fields())


def first_processor(cpuinfo: str) -> Mapping[str, str]:
    """The fields of the first processor in the text of /proc/cpuinfo."""
    lines = cpuinfo.split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def features_of(fields: Mapping[str, str]) -> frozenset[str]:
    """The features that the fields list: "flags" on x86, "Features" on ARM."""
    return frozenset(fields.get("flags", fields.get("Features", "")).split())
