"""Print a note if the optional AMX kernels were not compiled: everything works without them, but slower."""

from __future__ import annotations

import ctypes
import platform
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "gguf_embed" / "engines" / "llama"


def is_built(folder: Path) -> bool:
    path = folder / f"_amx_gemm{EXTENSION_SUFFIXES[0]}"
    try:
        return hasattr(ctypes.CDLL(str(path)), "gguf_embed_amx_request")
    except OSError:
        return False


def main() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return
    if not is_built(FOLDER):
        print(
            "Note: the AMX kernels could not be compiled; they need gcc 11 or clang 13.\n"
            "Everything works, but slower on CPUs with AMX. "
            "To see why, run: .venv/bin/python -m pip install -v --no-deps -e ."
        )


if __name__ == "__main__":
    main()
