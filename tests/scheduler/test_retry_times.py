"""When refused requests are told to come, one after the other."""

from __future__ import annotations

import itertools
import math

import pytest

from gguf_embed.scheduler.retry_times import GRACE_S, RetryTimes, told_s


@pytest.mark.parametrize(
    ("wait_s", "n_beyond", "told"), [(0.0, 0, 0.1), (3.5, 9, 3.5), (60.0, 9, 60.0), (61.0, 0, 60.0), (1e6, 0, 60.0)]
)
def test_a_time_that_a_client_obeys_is_told(wait_s, n_beyond, told):
    assert told_s(wait_s, n_beyond) == told


def test_those_that_must_wait_for_more_than_a_minute_are_spread():
    told = sorted(told_s(1000.0, number) for number in range(100))
    assert told[0] >= 30
    assert told[-1] == 60
    assert max(later - sooner for sooner, later in itertools.pairwise(told)) < 1.0


def test_each_is_told_a_time_after_those_that_were_told_before():
    times = RetryTimes()
    assert [times.tell(0.0, amount=30, excess=10, amount_per_s=10.0) for _ in range(3)] == [1.0, 4.0, 7.0]


def test_those_that_did_not_come_in_time_do_not_count():
    times = RetryTimes()
    assert times.tell(0.0, amount=30, excess=10, amount_per_s=10.0) == 1.0
    assert times.tell(1.0 + GRACE_S, amount=30, excess=10, amount_per_s=10.0) == 4.0
    assert times.tell(2.1 + GRACE_S, amount=30, excess=10, amount_per_s=10.0) == 4.0


def test_those_that_come_after_whole_seconds_still_count():
    times = RetryTimes()
    first_s = times.tell(0.0, amount=30, excess=20.1, amount_per_s=10.0)
    came_s = math.ceil(first_s) + 0.3  # what `Retry-After` says, and the time to arrive
    assert times.tell(came_s, amount=10, excess=0, amount_per_s=10.0) == 3.0  # after the first
