"""Run a command and report its progress: every second on one line of a terminal, otherwise a line every 30 seconds.

usage: patiently.py COMMAND...; its exit status is the command's. If pip compiles a package with scikit-build-core, such
as llama-cpp-python, the progress is the number of files compiled so far, and how long the rest takes at this speed.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

ON_TERMINAL_S = 1
ELSEWHERE_S = 30
ENOUGH_FILES = 8


def how_far(build: Path, now_s: float) -> str:
    """The text after "... 30 s: ": the number of compiled files in ninja's build folder, if it is known."""
    rules = build / "build.ninja"
    try:
        objects = re.findall(r"^build (\S+\.o): ", rules.read_text("utf-8", "replace"), re.MULTILINE)
        elapsed_s = now_s - rules.stat().st_mtime
    except OSError:
        return "still running"
    n_done = sum((build / name).exists() for name in objects)
    if not n_done:
        return "still running"
    return f"{n_done} of {len(objects)} files compiled{rest(n_done, len(objects), elapsed_s)}"


def rest(n_done: int, n_files: int, elapsed_s: float) -> str:
    """How long the rest takes at this speed, once there are enough files to tell."""
    left_s = elapsed_s * (n_files - n_done) / n_done
    if n_done < ENOUGH_FILES or left_s < 60:
        return ""
    return f", about {math.ceil(left_s / 60)} minutes left"


def watch(child: subprocess.Popen[bytes], build: Path, every_s: float, on_terminal: bool) -> int:
    start_s = time.monotonic()
    written = 0
    while True:
        try:
            returned = child.wait(every_s)
            break
        except subprocess.TimeoutExpired:
            line = f"  ... {time.monotonic() - start_s:.0f} s: {how_far(build, time.time())}"
            # back to the start of the line, so that the command's own output does not continue it
            print(line.ljust(written), end="\r" if on_terminal else "\n", flush=True)
            written = len(line) if on_terminal else 0
    if written:
        print(" " * written, end="\r", flush=True)
    return returned if returned >= 0 else 128 - returned


def main(command: list[str]) -> int:
    on_terminal = sys.stdout.isatty()
    with TemporaryDirectory(prefix="gguf-embed-build-", ignore_cleanup_errors=True) as folder:
        build = Path(os.environ.setdefault("SKBUILD_BUILD_DIR", folder))
        child = subprocess.Popen(command)

        def pass_on(number: int, _: FrameType | None) -> None:
            child.send_signal(number)

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the command too, and ends it
        signal.signal(signal.SIGTERM, pass_on)
        signal.signal(signal.SIGHUP, pass_on)
        return watch(child, build, ON_TERMINAL_S if on_terminal else ELSEWHERE_S, on_terminal)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
