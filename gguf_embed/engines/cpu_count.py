"""How many processors this process may use."""

from __future__ import annotations

import os
from pathlib import Path

from gguf_embed.config import ComputeConfig
from gguf_embed.engines.system_files import read_system_file


def n_processors() -> int:
    """Processors this process may use: its affinity mask, limited by a container's CPU quota (cgroup v2)."""
    allowed = n_in_affinity_mask()
    quota = cpu_quota(read_system_file(Path("/sys/fs/cgroup/cpu.max")))
    return allowed if quota is None else max(1, min(allowed, quota))


def n_in_affinity_mask() -> int:
    """Processors this process may run on, as `taskset` sets them, whatever share of their time it may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_for(compute: ComputeConfig) -> int:
    """The configured number of threads; by default, one for each processor."""
    return compute.n_threads or n_processors()


def cpu_quota(cpu_max: str) -> int | None:
    """Processors granted by a cgroup's "quota period" line, rounded up; None: no limit."""
    quota, _, period = cpu_max.strip().partition(" ")
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return max(1, -(-int(quota) // int(period)))
