"""The parent's side of a loop's process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.loops.worker import TEXT_LOOPS, Order
from benchmarks.servers import OURS, cpu_s
from gguf_embed.errors import Unavailable

_WORKER = Path(__file__).parent / "worker.py"
_IN_TORCH_PYTHON = ("torch", "sentence-transformers", "transformers")


def start_children(
    stack: ExitStack,
    order: Order,
    torch_python: str,
    say: Callable[[str], None],
    names: Sequence[str] = tuple(TEXT_LOOPS),
) -> list[Child]:
    """Start these loops, one after the other. `say` gets a line for each that cannot run here.

    Raises `Unavailable` if gguf-embed is among those.
    """
    children = []
    for name in names:
        python = torch_python if name.startswith(_IN_TORCH_PYTHON) else sys.executable
        try:
            child = Child(name, python, replace(order, loop=name))
        except Unavailable as error:
            if name == OURS:
                raise
            say(f"skipping {name}: {error}")
            continue
        stack.callback(child.close)
        children.append(child)
        for note in child.notes:
            say(f"{name}: {note}")
    return children


class Child:
    """A process that runs one loop on demand."""

    def __init__(self, name: str, python: str, order: Order) -> None:
        """Start it and wait until its model is loaded. Raises `Unavailable` with the last line that it printed."""
        self.name = name
        self._log_path = Path(order.folder) / f"{name}.log"
        command = [python, "-P", str(_WORKER), order.to_json()]
        with self._log_path.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,  # so that Ctrl-C only reaches the parent, which stops it
                )
            except OSError as error:
                raise Unavailable(f"{python}: {error.strerror}") from error
        try:
            ready = self._read()
        except BaseException:
            self.close()
            raise
        self.variants: list[str] = ready["variants"]
        self.notes: list[str] = ready["notes"]

    def run(self, inputs: Path, variant: str, vectors: Path) -> float:
        """The seconds that it takes to embed what a JSON file lists; the vectors go to another file."""
        assert self._process.stdin is not None
        order = {"inputs": str(inputs), "variant": variant, "vectors": str(vectors)}
        with suppress(BrokenPipeError):  # it has ended: reading says why
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        return float(self._read()["seconds"])

    def cpu_s(self) -> float:
        """CPU time since the start."""
        return cpu_s(self._process.pid)

    def close(self) -> None:
        """Stop it. Safe to call twice."""
        self._process.kill()
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            printed = [text for text in self._log_path.read_text(errors="replace").splitlines() if text.strip()]
            raise Unavailable(printed[-1].strip() if printed else f"it ended with code {code}")
        reply: dict[str, Any] = json.loads(line)
        return reply
