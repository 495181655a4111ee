"""Starting Python children that end with their parent, and saying how one has ended."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
from collections.abc import Collection
from pathlib import Path

_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from {module} import main
main()
"""
_EXPLAINS = re.compile(r"GGML_ASSERT|what\(\):|terminate called|error|fail", re.IGNORECASE)
_FOLDERS = re.compile(r"(?:/[^\s/:]+)+/(?=[^\s/:]+:\d+)")


def child_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module's `main()` in this Python, with its search path. `arguments`: sys.argv[2:]."""
    search_path = json.dumps([path or "." for path in sys.path])
    return [sys.executable, "-P", "-c", _PROGRAM.format(module=module), search_path, *arguments]


def be_the_first_to_go() -> None:
    """If memory runs out, the system ends this process, not its parent (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def exit_in_words(code: int) -> str:
    """How a process ended, from `Popen.returncode`: "SIGSEGV" or "exit code 1"."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def last_words(log: Collection[str]) -> str:
    """The last line that explains something, without folders; else the last one; "" if there is none."""
    lines = list(log)
    found = next((line for line in reversed(lines) if _EXPLAINS.search(line)), lines[-1] if lines else "")
    return _FOLDERS.sub("", found)[:200]
