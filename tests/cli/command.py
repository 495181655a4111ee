"""Runs the command line as a user would: in a separate process, or in this one where that is equivalent."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from gguf_embed.cli.main import main
from tests.server_process import OWN_VARIABLES


@dataclass(frozen=True)
class Place:
    """A home folder with its caches, and the hub that commands find in the environment."""

    folder: Path
    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OWN_VARIABLES)}
        return kept | {
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_CACHE": str(self.folder / "hub"),
            "GGUF_EMBED_CACHE": str(self.folder / "cache"),
            "HOME": str(self.folder),
        }

    @property
    def partial_files(self) -> list[Path]:
        return list((self.folder / "hub").rglob("*.incomplete"))

    def run(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs the command to its end. Its output is not a terminal."""
        return subprocess.run(
            [sys.executable, "-m", "gguf_embed", *map(str, arguments)],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def call(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """The same in this process, for commands that do not read the environment on import."""
        words = ["gguf-embed", *map(str, arguments)]
        out, err, code = io.StringIO(), io.StringIO(), 0
        with (
            patch.dict(os.environ, self.environment | environment, clear=True),
            patch.object(sys, "argv", words),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as end:
                code = int(end.code or 0)
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
