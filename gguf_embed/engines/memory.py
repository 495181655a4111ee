"""How much memory this process and its children take, and how much it may still take."""

from __future__ import annotations

import os
from pathlib import Path

from gguf_embed.engines.system_files import read_system_file

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 if the system does not say."""
    fields = read_system_file(Path(f"/proc/{pid}/statm")).split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def child_pids() -> list[int]:
    """The processes that this one has started and that have not ended; none if the system does not say."""
    files = Path("/proc/self/task").glob("*/children")
    return [int(pid) for file in files for pid in read_system_file(file).split()]


def fits_in_memory(n_bytes: int) -> bool:
    """Whether a file of this size is read into memory rather than mapped: it takes at most half of what is available.

    A mapped file that someone overwrites ends the process (SIGBUS), or changes the vectors. Reading takes 1.2 s per GiB
    where mapping takes 20 ms, and as much memory, which the system cannot take back for other files.
    """
    free = available_bytes()
    return free is None or 2 * n_bytes <= free


def mapped_notice(file: str, why: str) -> str:
    """For the operator, about a file that is not read: only they can keep it from being overwritten."""
    return (
        f"{file} is mapped, not read, because {why}: replace it with mv while it is served, not with cp, which would "
        "end the process (--isolate limits this to the model itself)"
    )


TOO_LARGE_TO_READ = "it takes more than half of the memory that is available"


def available_bytes() -> int | None:
    """What the system has available, limited by a container's limit (cgroup v2); None if the system does not say."""
    system = system_available_bytes(read_system_file(_MEMINFO))
    files = [read_system_file(_CGROUP / f"memory.{name}") for name in ("max", "current", "stat")]
    container = container_left_bytes(*files)
    known = [n for n in (system, container) if n is not None]
    return min(known) if known else None


def system_available_bytes(meminfo: str) -> int | None:
    """The line MemAvailable of /proc/meminfo, which counts in KiB."""
    for line in meminfo.splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable" and value.split()[:1] and value.split()[0].isdigit():
            return int(value.split()[0]) * 1024
    return None


def container_left_bytes(limit: str, current: str, stat: str = "") -> int | None:
    """What is left of a container's limit; None without a limit. Cached files that nobody uses do not count."""
    if not limit.strip().isdigit() or not current.strip().isdigit():
        return None
    inactive = next((line.split()[1] for line in stat.splitlines() if line.startswith("inactive_file ")), "0")
    return max(0, int(limit) - int(current) + int(inactive))
