"""Runs the one-shot commands, in this process with bytes for standard input and output, or in one of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from gguf_embed.cli.main import main


class Stream(io.TextIOWrapper):
    """A pipe, or a terminal."""

    def __init__(self, content: bytes = b"", *, is_terminal: bool = False) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8", write_through=True)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def bytes_written(self) -> bytes:
        self.flush()
        return self.buffer.getvalue()


@dataclass(frozen=True)
class Done:
    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()


def call(*words: object, stdin: bytes | None = None, terminal: bool = False, environment: dict[str, str]) -> Done:
    """`stdin`: None for a terminal. `terminal`: whether the output is one, of 80 columns."""
    in_, out, err = Stream(stdin or b"", is_terminal=stdin is None), Stream(is_terminal=terminal), Stream()
    code = 0
    with (
        patch.dict(os.environ, {"COLUMNS": "80", **environment}),
        patch.multiple(sys, argv=["gguf-embed", *map(str, words)], stdin=in_, stdout=out, stderr=err),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Done(code, out.bytes_written(), err.bytes_written().decode())


def start(models: Path, cache_dir: Path, *flags: object, **streams: Any) -> subprocess.Popen[bytes]:
    """`embed` in a process, with a tiny model, and pipes for its input and output."""
    environment = os.environ | {"GGUF_EMBED_CACHE": str(cache_dir)}
    words = [sys.executable, "-m", "gguf_embed", "embed", "-m", str(models / "encoder.gguf"), *map(str, flags)]
    return subprocess.Popen(words, env=environment, **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, **streams})
