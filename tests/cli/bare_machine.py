"""A machine like a locked-down container: read-only file systems, and a user that /etc/passwd does not know."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
READ_ONLY = "mount -o remount,bind,ro / && mount -t tmpfs -o ro none /dev/shm && "
UNKNOWN_USER = "exec unshare --user --map-user=12345 --map-group=12345 "


def on_bare_machine(*words: str, home: str | None = None) -> list[str]:
    """The command that runs these words there; `home`: $HOME, None for none."""
    environment = ["env", "-i", "PATH=/usr/bin:/bin", "HF_HUB_OFFLINE=1", *([f"HOME={home}"] if home else [])]
    return ["unshare", "--mount", "sh", "-c", f'{READ_ONLY}{UNKNOWN_USER} "$@"', "sh", *environment, *words]


def gguf_embed(*words: str | Path, home: str | None = None) -> list[str]:
    return on_bare_machine(sys.executable, "-m", "gguf_embed", *map(str, words), home=home)


def run(*words: str | Path, home: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        gguf_embed(*words, home=home), capture_output=True, text=True, timeout=60, cwd=ROOT, stdin=subprocess.DEVNULL
    )


@cache
def is_possible() -> bool:
    """Whether this user may make such a place: root may, and so may others where the kernel lets them."""
    if shutil.which("unshare") is None:
        return False
    looks = on_bare_machine("sh", "-c", "! id -un && ! touch /tmp/x && ! touch /dev/shm/x")
    return subprocess.run(looks, capture_output=True).returncode == 0
