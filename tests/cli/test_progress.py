"""The progress bar: what it shows at any width, and that it leaves nothing behind."""

from __future__ import annotations

import re

import pytest

from gguf_embed.cli.progress import Bar, per_second
from gguf_embed.cli.pull_display import PullDisplay
from gguf_embed.types import PullProgress
from tests.cli.one_shot import Stream
from tests.cli.screen import screen


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def drawn(completed: list[int], total: int, *, columns: int, monkeypatch) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    clock = Clock()
    bar = Bar(Stream(is_terminal=True), clock=clock, redraws=False)
    bar.begin("pulling abc", completed=completed[0], speed=per_second)
    for n_bytes in completed:
        bar.update_bytes(n_bytes, total)
        clock.now_s += 1.0
    return bar.line()


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 200])
def test_it_is_one_line_at_any_width(columns, monkeypatch):
    line = drawn([0, 10_000_000, 20_000_000], 231_000_000, columns=columns, monkeypatch=monkeypatch)
    assert line.count("\n") == 1
    assert len(line.rstrip("\n")) <= columns


def test_it_has_the_share_the_amount_the_speed_and_the_time_left(monkeypatch):
    line = drawn([0, 10_000_000, 50_000_000], 200_000_000, columns=100, monkeypatch=monkeypatch)
    assert re.search(r"pulling abc .* 25%\s+50\.0 MB of 200 MB 40\.0 MB/s, 4 s left", line)


def test_what_an_earlier_run_has_done_does_not_count_as_speed(monkeypatch):
    line = drawn([100_000_000, 110_000_000, 120_000_000], 200_000_000, columns=100, monkeypatch=monkeypatch)
    assert "10.0 MB/s, 8 s left" in line


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_lines_are_written_above_it_and_nothing_of_it_stays(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Stream(is_terminal=True)
    bar = Bar(stream)
    bar.begin("pulling f3e3b8c45421", speed=per_second)
    for n_bytes in range(0, 231_000_001, 21_000_000):
        bar.update_bytes(n_bytes, 231_000_000)
        bar.say(f"a [line] after {n_bytes:,} bytes")
    bar.begin("verifying")
    bar.stop()
    written = stream.bytes_written().decode().replace("\n", "\r\n")  # as the driver of a terminal does
    assert "pulling" in written
    assert screen(written, columns) == [f"a [line] after {n:,} bytes" for n in range(0, 231_000_001, 21_000_000)]


def test_a_pull_off_a_terminal_is_one_line_per_file():
    stream = Stream()
    display = PullDisplay(stream)
    for step in (
        PullProgress("pulling manifest"),
        *(PullProgress("pulling abc", "sha256:abc", 100_000_000, n * 25_000_000) for n in range(5)),
        PullProgress("converting org/m", "", 200, 100),
        PullProgress("success"),
    ):
        display.show(step)
    display.end()
    assert stream.bytes_written().decode() == "pulling abc (100 MB)\nconverting org/m (200 B)\n"
    assert display.latest == PullProgress("pulling abc", "sha256:abc", 100_000_000, 100_000_000)
