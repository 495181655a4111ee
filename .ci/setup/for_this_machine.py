"""Copy a lock file, without OpenVINO if OpenVINO has no wheel for this machine.

usage: for_this_machine.py SOURCE TARGET. The markers in the lock file say for which processors OpenVINO has wheels, but
not for which versions of glibc. With an older glibc or with musl (Alpine), pip would install nothing at all.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.tags import Tag, sys_tags

VERSION = "2026.4.1"  # whose wheels were looked up on PyPI
ABIS = frozenset({"cp311", "cp312", "cp313", "cp314", "cp314t"})
PLATFORMS = frozenset({"manylinux_2_28_x86_64", "manylinux_2_35_aarch64", "macosx_11_0_arm64", "win_amd64"})


def has_wheel(tags: Iterable[Tag]) -> bool:
    """Whether a machine that runs wheels with these tags runs one of OpenVINO's."""
    return any(tag.abi in ABIS and tag.platform in PLATFORMS for tag in tags)


def without_openvino(lock: str) -> str:
    return re.sub(r"^openvino==.*\n(?:[ \t]+.*\n)*", "", lock, flags=re.MULTILINE)


def main(source: str, target: str) -> None:
    lock = Path(source).read_text("utf-8")
    if not has_wheel(sys_tags()):
        print("OpenVINO has no package for this system and Python: all models run on llama.cpp.")
        lock = without_openvino(lock)
    Path(target).write_text(lock, "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
