"""The progress bar of all commands: one line that is redrawn in place. Imports rich, so import it where it is used."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from gguf_embed.cli.terminal import duration_text, has_color
from gguf_embed.model_store.partial_file import human_size

_SPEED_S = 30.0  # the time over which the speed is measured


class Bar:
    """What is being done, a bar, and where they are known: the share, the amount, the speed and the time left.

    It is as wide as the terminal, also if that changes, and disappears when it is stopped. Thread-safe.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic, redraws: bool = True) -> None:
        """`redraws`: draw it ten times per second; else only `line` does, for tests."""
        colors: Literal["auto"] | None = "auto" if has_color(stream) else None
        console = Console(file=stream, color_system=colors, highlight=False, markup=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=_one_line(8, overflow="ellipsis")),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6)),
            _Share(table_column=_one_line(4)),
            TextColumn("{task.fields[amount]}", markup=False, table_column=_one_line(6, overflow="ellipsis")),
            _Pace(table_column=_one_line(0)),
            console=console,
            transient=True,
            expand=True,
            get_time=clock,
            speed_estimate_period=_SPEED_S,
            auto_refresh=redraws,
        )
        self._task: TaskID | None = None
        self._redraws = redraws
        self._is_shown = False

    def begin(self, what: str, *, completed: float = 0, speed: Callable[[float], str] | None = None) -> None:
        """Shows a new step. `completed`: what was done before; `speed`: words for what is done per second."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=None, completed=int(completed), amount="", speed=speed)
        if self._redraws and not self._is_shown:
            self._progress.start()
        self._is_shown = True

    def update(self, completed: float, total: float | None, amount: str) -> None:
        """`total`: None if it is not known."""
        if self._task is not None:
            self._progress.update(self._task, completed=completed, total=total, amount=amount)

    def update_bytes(self, completed: int, total: int) -> None:
        amount = f"{human_size(completed)} of {human_size(total)}"
        self.update(completed, total, amount)

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._progress.console.print(line, soft_wrap=True)

    def stop(self) -> None:
        """Removes the bar. It may begin again."""
        if self._is_shown and self._redraws:
            self._progress.stop()
        self._is_shown = False

    def line(self) -> str:
        """What is drawn now."""
        with self._progress.console.capture() as capture:
            self._progress.console.print(self._progress.get_renderable())
        return capture.get()


def per_second(n_bytes: float) -> str:
    """The speed of a download."""
    return f"{human_size(n_bytes)}/s"


def _one_line(min_width: int, **settings: object) -> Column:
    return Column(no_wrap=True, min_width=min_width, **settings)  # type: ignore[arg-type]


class _Share(ProgressColumn):
    """ "25%"; nothing if the total is not known."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.percentage:.0f}%" if task.total else "")


class _Pace(ProgressColumn):
    """ "10.0 MB/s, 15 s left"."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        words = task.fields.get("speed")
        parts = [words(task.speed)] if words is not None and task.speed else []
        if task.total and task.time_remaining is not None and task.speed:
            parts.append(f"{duration_text(task.time_remaining)} left")
        return Text(", ".join(parts))
