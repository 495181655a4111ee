"""Displays a download: a progress bar on a terminal, one line per step elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from gguf_embed.model_store.partial_file import human_size
from gguf_embed.types import PullProgress

if TYPE_CHECKING:  # imported where used: rich takes a tenth of a second
    from gguf_embed.cli.progress import Bar

_ROUTINE = ("pulling manifest", "verifying sha256 digest", "writing manifest", "success")
"""Steps of every pull: shown on a terminal, not logged elsewhere."""


class PullDisplay:
    """Displays the steps of a pull. Call `end` before writing anything else."""

    def __init__(self, stream: TextIO, bar: Bar | None = None) -> None:
        """`bar`: for a terminal; by default it is made for the stream."""
        self._stream = stream
        self._bar = bar
        self._is_terminal = stream.isatty()
        self._status = ""
        self.latest: PullProgress | None = None  # the latest progress of a file

    def show(self, step: PullProgress) -> None:
        """Displays one step; a step with a size is drawn as a bar."""
        is_new, self._status = step.status != self._status, step.status
        if step.total_bytes and step.status.startswith("pulling"):
            self.latest = step
        if self._is_terminal:
            self._draw(step, is_new)
        elif is_new and step.status not in _ROUTINE:
            size = f" ({human_size(step.total_bytes)})" if step.total_bytes else ""
            self._stream.write(f"{step.status}{size}\n")
            self._stream.flush()

    def _draw(self, step: PullProgress, is_new: bool) -> None:
        from gguf_embed.cli.progress import Bar, per_second

        if self._bar is None:
            self._bar = Bar(self._stream)
        if is_new:
            self._bar.begin(step.status, completed=step.completed_bytes, speed=per_second)
        if step.total_bytes:
            self._bar.update_bytes(step.completed_bytes, step.total_bytes)

    def end(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()
