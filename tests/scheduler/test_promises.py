"""When refused requests are told to come, and what room is left for them."""

from __future__ import annotations

import pytest

from gguf_embed.scheduler.promises import (
    MAX_KEPT,
    MAX_PROMISES,
    RetryPromises,
    kept_limit,
    tokens_until_share,
)
from gguf_embed.scheduler.retry_times import GRACE_S
from gguf_embed.scheduler.task import Work
from gguf_embed.types import Caller
from tests.scheduler.builders import MEAN, make_request


def refused(n_tokens: int, client: str = "a", since_s: float = 0.0, order: int | None = None) -> Work:
    return Work(make_request(caller=Caller(client)), MEAN, [[7] * n_tokens], [n_tokens], n_tokens, since_s, order)


@pytest.mark.parametrize(
    ("n_own", "n_clients", "n_all", "n_tokens"),
    [(0, 3, 900, 0), (500, 1, 510, 500), (100, 2, 900, 200), (500, 2, 510, 510)],
)
def test_the_own_tokens_of_a_client_are_computed_at_its_share_of_the_speed(n_own, n_clients, n_all, n_tokens):
    assert tokens_until_share(n_own, n_clients, n_all) == n_tokens


@pytest.mark.parametrize(
    ("kept", "room"),
    [
        ([], 100),
        ([(10.0, 60)], 40),  # now
        ([(9.0, 60)], 40),  # it is late
        ([(10.25, 60)], 65),  # 25 tokens are computed until then
        ([(10.9, 60)], 100),
        ([(10.25, 60), (10.5, 30)], 60),
        ([(10.25, 60), (10.5, 60)], 30),
        ([(10.0, 500)], 0),  # needs all
    ],
)
def test_others_leave_room_for_the_time_that_was_told(kept, room):
    assert kept_limit(kept, now_s=10.0, tokens_per_s=100.0, limit=100) == room


def test_a_request_that_comes_when_it_was_told_is_known_once():
    promises = RetryPromises()
    assert promises.promise("x", refused(10, since_s=3.0), 5.0, 2.0, is_kept=True) == 2.0
    assert promises.redeem("y", 7.0) is None
    assert promises.redeem("x", 6.9) is None  # too early
    found = promises.redeem("x", 7.0)
    assert (found.since_s, found.order, found.is_of_room, found.is_kept) == (3.0, 0, True, True)
    assert promises.redeem("x", 7.0) is None
    assert (promises.n_requests, promises.tokens_before("a", None)) == (0, (0, 0))


def test_a_promise_lapses_when_its_client_does_not_come():
    promises = RetryPromises()
    promises.promise("x", refused(10), 0.0, 2.0, is_kept=True)
    promises.promise("x", refused(10), 0.0, 3.0, is_kept=True)
    assert promises.redeem("x", 2.0 + GRACE_S + 0.1).due_s == 3.0
    assert promises.n_requests == 0
    assert promises.kept_before(refused(1, since_s=9.0)) == []


def test_of_equal_requests_the_first_is_known_first():
    promises = RetryPromises()
    for wait_s in (2.0, 1.0):
        promises.promise("x", refused(10), 0.0, wait_s, is_kept=False)
    assert [promises.redeem("x", 2.0).order for _ in range(2)] == [0, 1]


def test_a_request_that_was_refused_again_waits_for_those_before_it_only():
    promises = RetryPromises()
    for client, n_tokens in (("a", 10), ("b", 20), ("a", 30)):
        promises.promise(client, refused(n_tokens, client), 0.0, 5.0, is_kept=True)
    assert promises.tokens_before("a", None) == (60, 40)
    assert promises.tokens_before("a", 2) == (30, 10)
    assert [promise.order for promise in promises.kept_before(refused(1))] == [0, 1, 2]
    assert [promise.order for promise in promises.kept_before(refused(1, order=1))] == [0]


def test_beyond_a_minute_no_room_is_left():
    promises = RetryPromises()
    promises.promise("x", refused(10), 0.0, 61.0, is_kept=True)
    assert promises.kept_before(refused(1)) == []
    found = promises.redeem("x", 60.0)
    assert (found.is_of_room, found.is_kept) == (False, False)


def test_few_promises_are_remembered():
    promises = RetryPromises()
    for number in range(MAX_PROMISES + 5):
        assert promises.promise(number, refused(1), 0.0, 1.0, is_kept=False) == 1.0
    assert promises.n_requests == MAX_PROMISES


def test_room_is_left_for_few_at_the_same_time():
    promises = RetryPromises()
    for number in range(MAX_KEPT + 5):
        promises.promise(number, refused(1), 0.0, 1.0, is_kept=True)
    assert len(promises.kept_before(refused(1))) == MAX_KEPT
