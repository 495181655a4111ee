"""Displays a download: a progress bar on a terminal, one line per step elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from gguf_embed.model_store.partial_file import human_size
from gguf_embed.types import PullProgress

_BAR_CELLS = 20
_REDRAW_S = 0.1
_ROUTINE = ("pulling manifest", "verifying sha256 digest", "writing manifest", "success")
"""Steps of every pull: shown on a terminal, not logged elsewhere."""


class PullDisplay:
    """Displays the steps of a pull. The bar is redrawn in place: call `end_line` before writing anything else."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._status = ""
        self._step_start: tuple[float, int] = (0.0, 0)  # time and bytes when the step began
        self._drawn_s = -1.0
        self._drawn_line = ""
        self.latest: PullProgress | None = None  # the latest progress of a file

    def show(self, step: PullProgress) -> None:
        """Displays one step; a step with a size is drawn as a bar."""
        is_new = step.status != self._status
        if is_new:
            self.end_line()
            self._status, self._step_start = step.status, (self._clock(), step.completed_bytes)
        if step.total_bytes:
            self.latest = step
        if not self._is_terminal:
            if is_new and step.status not in _ROUTINE:
                self._write_line(step)
        elif step.total_bytes:
            self._show_bar(step, is_new)
        elif step.status != "success":
            self._draw(step.status)

    def end_line(self) -> None:
        """Ends the line that was redrawn in place."""
        if self._drawn_line:
            self._stream.write("\n")
            self._stream.flush()
            self._drawn_line = ""

    def _write_line(self, step: PullProgress) -> None:
        size = f" ({human_size(step.total_bytes)})" if step.total_bytes else ""
        self._stream.write(f"{step.status}{size}\n")
        self._stream.flush()

    def _show_bar(self, step: PullProgress, is_new: bool) -> None:
        now_s = self._clock()
        if is_new or now_s - self._drawn_s >= _REDRAW_S or step.completed_bytes == step.total_bytes:
            self._drawn_s = now_s
            start_s, start_bytes = self._step_start
            self._draw(bar(step, now_s - start_s, step.completed_bytes - start_bytes))

    def _draw(self, line: str) -> None:
        self._stream.write("\r" + line.ljust(len(self._drawn_line)))
        self._stream.flush()
        self._drawn_line = line


def bar(step: PullProgress, elapsed_s: float, n_new: int) -> str:
    """The bar, the bytes received of the total, and the speed over the last `n_new` bytes and `elapsed_s`."""
    share = min(step.completed_bytes / step.total_bytes, 1.0)
    filled = int(share * _BAR_CELLS)
    parts = [
        f"{step.status} {share:4.0%} [{'#' * filled}{'.' * (_BAR_CELLS - filled)}]",
        f"{human_size(step.completed_bytes)} of {human_size(step.total_bytes)}",
    ]
    if elapsed_s > 0.5 and n_new > 0:
        speed = n_new / elapsed_s
        parts.append(f"{human_size(speed)}/s")
        if share < 1:
            parts.append(f"{duration_text((step.total_bytes - step.completed_bytes) / speed)} left")
    return ", ".join(parts)


def duration_text(seconds: float) -> str:
    """ "45 s", "3 min", "2 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
