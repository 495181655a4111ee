"""How much memory may still be taken, from lines as Linux writes them."""

from __future__ import annotations

import pytest

from gguf_embed.engines import memory
from gguf_embed.engines.memory import available_bytes, container_left_bytes, system_available_bytes

MEMINFO = """MemTotal:       16316412 kB
MemFree:         1253340 kB
MemAvailable:   11054320 kB
Buffers:          350364 kB
HugePages_Total:       0
"""
AVAILABLE = 11_054_320 * 1024


@pytest.mark.parametrize(
    ("meminfo", "expected"),
    [
        (MEMINFO, AVAILABLE),
        ("MemAvailable: 0 kB\n", 0),
        ("MemTotal: 5 kB\nMemFree: 3 kB\n", None),  # before Linux 3.14
        ("MemAvailable:\n", None),
        ("MemAvailable: many kB\n", None),
        ("MemAvailable: -5 kB\n", None),
        ("", None),
    ],
)
def test_what_the_system_has(meminfo, expected):
    assert system_available_bytes(meminfo) == expected


@pytest.mark.parametrize(
    ("limit", "current", "expected"),
    [
        ("1073741824\n", "73741824\n", 1_000_000_000),
        ("1000\n", "1000\n", 0),
        ("1000\n", "1500\n", 0),  # a limit that was lowered
        ("max\n", "73741824\n", None),
        ("", "", None),  # no container, or cgroup v1
        ("1000\n", "", None),
    ],
)
def test_what_is_left_in_a_container(limit, current, expected):
    assert container_left_bytes(limit, current) == expected


@pytest.mark.parametrize(
    ("meminfo", "limit", "current", "expected"),
    [
        (MEMINFO, "max", "5", AVAILABLE),
        (MEMINFO, "1000", "200", 800),
        (MEMINFO, str(2**50), "0", AVAILABLE),
        (None, "1000", "200", 800),
        (None, None, None, None),
    ],
)
def test_the_smaller_of_both(tmp_path, monkeypatch, meminfo, limit, current, expected):
    files = {"meminfo": meminfo, "memory.max": limit, "memory.current": current}
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).write_text(content)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert available_bytes() == expected


def test_this_machine_answers():
    found = available_bytes()
    assert found is None or found > 0
