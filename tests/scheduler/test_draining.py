"""A shutdown answers as many of the waiting requests as it can, and the others at once."""

from __future__ import annotations

import pytest

from gguf_embed.scheduler.draining import requests_too_many
from tests.scheduler.builders import MEAN, make_queue, make_request


@pytest.mark.parametrize(
    ("tokens", "within_s", "refused"),
    [
        ({}, 1, []),
        ({"a": 80}, 1, []),  # 0.8 of 100 tokens/s are counted on
        ({"a": 81}, 1, ["a"]),
        ({"a": 40, "b": 40, "c": 40}, 1, ["c"]),
        ({"large": 70, "b": 20, "c": 20}, 1, ["large"]),
        ({"a": 1}, 0, ["a"]),
        ({"a": 4000, "b": 4000}, 60, ["b"]),
    ],
)
def test_the_smallest_requests_are_answered(tokens, within_s, refused):
    assert requests_too_many(tokens, tokens_per_s=100.0, within_s=within_s) == refused


def test_the_queue_drops_what_it_cannot_compute_in_time():
    queue = make_queue(tokens_per_s=10.0, max_queued_tokens=30, max_wait_s=60.0)
    first, second, outside = make_request(3), make_request(2), make_request(2)
    queue.admit(first, MEAN, [[7] * 5] * 3)
    queue.admit(second, MEAN, [[7] * 5] * 2)
    queue.admit(outside, MEAN, [[7] * 5] * 2)
    assert outside.is_outside
    assert queue.shed(10.0) == []  # 80 tokens
    assert queue.shed(1.5) == [outside, first]
    assert (first.cancelled, second.cancelled, outside.cancelled) == (True, False, True)
    state = queue.state()
    assert (state.n_tokens, state.n_outside) == (10, 0)
