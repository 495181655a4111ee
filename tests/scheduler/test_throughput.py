"""The speed at which something is done while somebody waits for it."""

from __future__ import annotations

import pytest

from gguf_embed.scheduler.throughput import Throughput


def test_only_time_in_which_somebody_waits_counts():
    speed = Throughput()
    speed.note(1.0, 500)  # nobody waits, so this tells nothing
    assert speed.per_s(2.0) is None
    speed.begin(10.0)
    assert speed.per_s(11.0) is None
    for second in range(11, 15):
        speed.note(second, 100)
    speed.end(14.0)
    assert speed.per_s(10_000.0) == pytest.approx(100, rel=0.1)
    speed.begin(20_000.0)
    assert speed.per_s(20_300.0) < 0.1  # for five minutes nothing was done


def test_the_speed_follows_what_was_done_lately():
    speed = Throughput()
    speed.begin(0.0)
    for second in range(1, 301):
        speed.note(second, 1000 if second <= 150 else 10)
    assert 10 <= speed.per_s(300.0) < 30


def test_what_is_done_at_the_first_moment_is_no_speed_without_bounds():
    speed = Throughput()
    speed.begin(0.0)
    speed.note(0.0, 100)
    assert speed.per_s(0.0) == 200
