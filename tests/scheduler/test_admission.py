"""The tables of what may enter, wait, and run."""

from __future__ import annotations

import pytest

from gguf_embed.engines.base import BatchLimits
from gguf_embed.scheduler.admission import (
    BULK_BATCH_S,
    bulk_tokens,
    excess_tokens,
    has_reserve,
    has_room,
    has_room_at_last,
    interactive_tokens,
    is_within_share,
    overtaken_s,
    queue_limit,
    reserve_of,
)
from gguf_embed.scheduler.batching import INTERACTIVE_WEIGHT, PRIORITY_WEIGHTS, weight_of
from gguf_embed.scheduler.queue_speed import updated_speed
from gguf_embed.types import Priority


@pytest.mark.parametrize(
    ("max_tokens", "max_s", "tokens_per_s", "limit"),
    [
        (None, 60.0, 3000.0, 180_000),
        (None, 60.0, 0.5, 252),  # always a batch
        (None, 0.01, 3000.0, 252),
        (2000, 60.0, 3000.0, 2000),
        (1, 60.0, 3000.0, 1),
    ],
)
def test_the_queue_holds_seconds_of_measured_work_or_the_tokens_that_were_set(max_tokens, max_s, tokens_per_s, limit):
    assert queue_limit(max_tokens, max_s, tokens_per_s, 252) == limit


@pytest.mark.parametrize(
    ("n_tokens", "n_held", "fits"), [(10, 90, True), (11, 90, False), (500, 0, True), (500, 1, False)]
)
def test_what_is_empty_takes_a_request_of_any_size(n_tokens, n_held, fits):
    assert has_room(n_tokens, n_held, 100) is fits


@pytest.mark.parametrize(
    ("n_tokens", "n_own", "is_shared", "fits"),
    [
        (60, 40, False, True),
        (60, 40, True, False),
        (10, 40, True, True),
        (11, 40, True, False),
        (90, 0, True, True),  # one request of any size
    ],
)
def test_a_client_fills_half_while_others_come(n_tokens, n_own, is_shared, fits):
    assert is_within_share(n_tokens, n_own, 100, is_shared=is_shared) is fits


@pytest.mark.parametrize(
    ("n_tokens", "n_held", "fits"),
    [(60, 50, True), (60, 51, False), (100, 10, True), (500, 10, True), (500, 11, False)],
)
def test_a_request_that_is_next_may_use_a_tenth_more_and_needs_no_empty_queue(n_tokens, n_held, fits):
    assert has_room_at_last(n_tokens, n_held, 100, 100 + reserve_of(100)) is fits


@pytest.mark.parametrize(
    ("max_wait_s", "priority", "seconds"),
    [
        (5.0, Priority.HIGH, 0.625),
        (5.0, Priority.NORMAL, 2.5),
        (5.0, Priority.LOW, 10.0),
        (5.0, Priority.BATCH, 40.0),
        (0.0, Priority.BATCH, 0.0),
    ],
)
def test_a_request_is_overtaken_for_a_while_only(max_wait_s, priority, seconds):
    assert overtaken_s(max_wait_s, PRIORITY_WEIGHTS[priority]) == seconds


@pytest.mark.parametrize(
    ("n_tokens", "n_reserved", "fits"), [(10, 0, True), (10, 1, False), (5, 5, True), (11, 0, False)]
)
def test_a_tenth_is_reserved_for_what_fits_in_a_batch(n_tokens, n_reserved, fits):
    assert has_reserve(n_tokens, n_reserved, 100, 10) is fits


@pytest.mark.parametrize(
    ("n_tokens", "n_ahead", "excess"), [(10, 90, 0), (10, 95, 5), (10, 300, 210), (500, 80, 80), (500, 0, 0)]
)
def test_excess_is_what_must_be_computed_before_there_is_room(n_tokens, n_ahead, excess):
    assert excess_tokens(n_tokens, n_ahead, 100) == excess


@pytest.mark.parametrize(
    ("worker_tokens_per_s", "tokens"),
    [
        (100_000.0, 252),  # a fast machine needs no bound
        (1_680.0, 252),
        (1_000.0, 150),
        (320.0, 48),
        (50.0, 48),  # a slow one keeps batches that are worth while
    ],
)
def test_a_bulk_batch_is_bounded_in_time_while_short_requests_come(worker_tokens_per_s, tokens):
    found = bulk_tokens(BatchLimits(252, 64, 48), worker_tokens_per_s)
    assert found == tokens
    assert found == 48 or found / worker_tokens_per_s <= BULK_BATCH_S


@pytest.mark.parametrize(
    ("worker_tokens_per_s", "max_tokens", "tokens"),
    [
        (100_000.0, 2000, 1000),  # 10 ms
        (100_000.0, 252, 252),
        (15_000.0, 1008, 168),
        (2_000.0, 1008, 168),
        (1_000.0, 1008, 150),  # as a bulk batch
        (50.0, 1008, 48),
    ],
)
def test_a_batch_of_short_requests_is_shorter(worker_tokens_per_s, max_tokens, tokens):
    assert interactive_tokens(BatchLimits(max_tokens, 64, 48), worker_tokens_per_s) == tokens


@pytest.mark.parametrize(
    ("n_tokens", "priority", "is_awaited"),
    [
        (12, Priority.NORMAL, True),
        (62, Priority.NORMAL, True),
        (63, Priority.NORMAL, False),
        (250, Priority.HIGH, True),
        (253, Priority.HIGH, False),
        (1, Priority.LOW, False),
        (1, Priority.BATCH, False),
    ],
)
def test_short_and_urgent_requests_keep_batches_short(n_tokens, priority, is_awaited):
    assert (weight_of(n_tokens, 252, priority) > INTERACTIVE_WEIGHT) is is_awaited


@pytest.mark.parametrize(
    ("n_tokens", "seconds", "speed"),
    [(100, 0.1, 1000.0), (200, 0.1, 1048.8), (4000, 2.0, 1632.1), (0, 2.0, 367.9), (100, 0.0, 1000.0)],
)
def test_the_speed_is_a_mean_over_time(n_tokens, seconds, speed):
    assert updated_speed(1000.0, n_tokens, seconds) == pytest.approx(speed, abs=0.1)


def test_small_and_large_steps_of_the_speed_agree():
    in_steps = 1000.0
    for _ in range(100):
        in_steps = updated_speed(in_steps, 60, 0.02)
    assert in_steps == pytest.approx(updated_speed(1000.0, 6000, 2.0))
