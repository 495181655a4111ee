"""Requests that wait until the queue has room for them."""

from __future__ import annotations

import pytest

from gguf_embed.errors import Overloaded, Unavailable
from gguf_embed.scheduler import waiting_room
from gguf_embed.scheduler.queue import TaskQueue
from gguf_embed.types import Caller, Priority
from tests.scheduler.builders import admit, lengths_of, make_queue

ALICE, BOB, CAROL = map(Caller, ("alice", "bob", "carol"))
SLOW_BOB = Caller("bob", Priority.LOW)


def crowded(**settings: object) -> TaskQueue:
    """100 tokens wait, and there is room for so many; 100 are computed in a second, and requests wait that long."""
    queue = make_queue(max_queued_tokens=100, tokens_per_s=100.0, max_wait_s=1.0, clock=lambda: 0.0, **settings)
    admit(queue, [10] * 10)
    return queue


def test_a_request_waits_for_room_and_enters_when_it_is_made():
    queue = crowded()
    waiting = admit(queue, [11])
    assert (waiting.is_outside, queue.state().n_outside, queue.state().n_tokens) == (True, 1, 100)
    queue.take(0)
    assert waiting.is_outside  # 10 tokens have left
    queue.take(0)
    assert (waiting.is_outside, queue.state().n_outside, queue.state().n_tokens) == (False, 0, 91)


def test_requests_of_a_client_enter_in_the_order_in_which_they_came():
    queue = crowded()
    first, second, third = (admit(queue, [n]) for n in (30, 11, 12))
    entered = []
    while queue.state().n_texts:
        queue.take(0)
        entered += [one for one in (second, third, first) if not one.is_outside and one not in entered]
    assert entered == [first, second, third]


def test_a_small_request_does_not_overtake_one_that_waits():
    queue = crowded()
    large = admit(queue, [10] * 9)
    queue.take(0)
    small = admit(queue, [11])  # there is room for 10 now
    assert (large.is_outside, small.is_outside) == (True, True)


def test_a_query_enters_on_the_reserve_although_others_wait():
    queue = crowded()
    admit(queue, [20])
    assert not admit(queue, [3]).is_outside


def test_the_client_with_the_least_in_the_queue_enters_first():
    queue = make_queue(max_queued_tokens=100, tokens_per_s=100.0, max_wait_s=1.0)
    admit(queue, [10] * 8, caller=ALICE)
    admit(queue, [10] * 2, caller=BOB)
    alice, bob, carol = (admit(queue, [11], caller=caller) for caller in (ALICE, BOB, CAROL))
    entered = []
    for _ in range(9):
        queue.take(0)
        entered += [one for one in (alice, bob, carol) if not one.is_outside and one not in entered]
    assert entered[0] is carol
    assert entered[1] is bob


def test_a_lower_class_enters_later():
    queue = crowded()
    low, normal = admit(queue, [11], caller=SLOW_BOB), admit(queue, [11], caller=BOB)
    queue.take(0)
    queue.take(0)
    assert (low.is_outside, normal.is_outside) == (True, False)


def test_one_client_takes_half_the_queue_while_others_come():
    now_s = 0.0
    queue = make_queue(max_queued_tokens=100, tokens_per_s=100.0, max_wait_s=1.0, clock=lambda: now_s)
    assert not admit(queue, [10] * 6, caller=ALICE).is_outside  # nobody else has come
    assert not admit(queue, [11], caller=BOB).is_outside
    assert admit(queue, [11], caller=ALICE).is_outside  # though there is room
    assert not admit(queue, [20], caller=CAROL).is_outside
    while queue.state().n_texts:
        queue.take(0)
    now_s = 100.0  # the others are forgotten
    admit(queue, [10] * 6, caller=CAROL)
    assert not admit(queue, [10] * 4, caller=CAROL).is_outside


def test_one_client_takes_half_the_places_outside_while_others_come():
    queue = crowded()
    admit(queue, [11], caller=BOB)
    admit(queue, [11] * 3, caller=ALICE)
    with pytest.raises(Overloaded):
        admit(queue, [11] * 2, caller=ALICE)
    assert admit(queue, [11] * 2, caller=CAROL).is_outside


def test_only_what_has_room_in_time_waits():
    queue = crowded()
    admit(queue, [10] * 9)
    with pytest.raises(Overloaded) as refusal:
        admit(queue, [11])
    assert refusal.value.retry_after_s == pytest.approx(1.01)  # the 90 that wait, and 11
    assert queue.state().n_outside == 1


def test_nothing_waits_if_requests_may_not():
    queue = make_queue(max_queued_tokens=100, tokens_per_s=100.0)
    admit(queue, [10] * 10)
    with pytest.raises(Overloaded):
        admit(queue, [11])
    assert queue.state().n_outside == 0


def test_few_requests_wait_however_small_they_are(monkeypatch):
    queue = crowded()
    monkeypatch.setattr("gguf_embed.scheduler.entrance.MAX_REQUESTS", 3)
    for _ in range(3):
        admit(queue, [11])
    with pytest.raises(Overloaded):
        admit(queue, [11])
    assert waiting_room.MAX_REQUESTS <= 10_000


def test_a_request_that_waited_too_long_is_refused_and_told_when_to_come():
    queue = crowded()
    waiting = admit(queue, [20])
    with pytest.raises(Overloaded) as refusal:
        queue.refuse_outside(waiting)
    assert refusal.value.retry_after_s == pytest.approx(0.2)
    assert queue.state().n_outside == 0
    queue.refuse_outside(admit(queue, [1]))  # that one is in the queue


def test_those_that_waited_too_long_are_told_one_after_the_other():
    """Not to come after all that wait outside, who are about to be refused, too: nothing would run meanwhile."""
    queue = crowded()
    waiting = [admit(queue, [20]) for _ in range(4)]
    told = []
    for request in waiting:
        with pytest.raises(Overloaded) as refusal:
            queue.refuse_outside(request)
        told.append(refusal.value.retry_after_s)
    assert told == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_a_client_that_leaves_gives_its_place_to_the_next():
    queue = crowded()
    large, small = admit(queue, [10] * 8), admit(queue, [11])
    queue.take(0)
    queue.take(0)
    assert small.is_outside
    queue.cancel(large)
    assert not small.is_outside
    assert queue.state().n_outside == 0


def test_a_closed_queue_still_computes_what_waits_for_room():
    queue = crowded()
    waiting = admit(queue, [30])
    queue.close()
    with pytest.raises(Unavailable):
        admit(queue, [1])
    batches = []
    while (batch := queue.take(0)) is not None:
        batches.append(lengths_of(batch))
    assert [30] in batches
    assert not waiting.is_outside


def test_a_failure_hands_back_what_waits_for_room():
    queue = crowded()
    waiting = admit(queue, [30])
    assert waiting in [task.request for task in queue.fail("boom")]
    assert queue.state().n_outside == 0


@pytest.mark.parametrize(
    ("n_others", "n_tokens", "told_s"),
    [
        (10, 500, [5.1, 10.1, 15.1]),  # all that waits, and what it was told before
        (300, 500, [8.0, 13.0, 18.0]),
        (400, 50, [1.0, 2.0, 3.0]),  # its own tokens, at a half of the speed
    ],
)
def test_a_client_that_is_refused_for_its_share_is_told_when_its_own_texts_are_computed(n_others, n_tokens, told_s):
    queue = make_queue(max_queued_tokens=1000, tokens_per_s=100.0, clock=lambda: 0.0)
    admit(queue, [10] * 50, caller=ALICE)
    admit(queue, [10] * (n_others // 10), caller=BOB)
    told = []
    for _ in told_s:
        with pytest.raises(Overloaded) as refusal:
            admit(queue, [10] * (n_tokens // 10), caller=ALICE)
        told.append(refusal.value.retry_after_s)
    assert told == pytest.approx(told_s)


def test_nobody_overtakes_a_request_for_longer_than_half_of_its_wait():
    now_s = 0.0
    queue = make_queue(max_queued_tokens=100, tokens_per_s=100.0, max_wait_s=1.0, clock=lambda: now_s)
    admit(queue, [10] * 6, caller=ALICE)
    admit(queue, [10] * 4, caller=BOB)
    large = admit(queue, [10] * 6, caller=CAROL)
    small = admit(queue, [10] * 2, caller=BOB)
    queue.take(0)
    queue.take(0)
    assert not small.is_outside  # there is room for that one
    now_s = 0.6
    small = admit(queue, [10] * 2, caller=BOB)
    while large.is_outside:
        assert small.is_outside
        queue.take(0)
    assert queue.state().n_tokens - 60 * (not large.is_outside) - 20 * (not small.is_outside) <= 50
    assert not admit(queue, [3], caller=BOB).is_outside  # a query enters on the reserve


def test_room_is_left_for_a_request_that_came_again_when_it_was_told():
    now_s = 0.0
    queue = make_queue(max_queued_tokens=100, tokens_per_s=100.0, clock=lambda: now_s)
    admit(queue, [10] * 10, caller=ALICE)
    told_s = []
    for _ in range(2):
        with pytest.raises(Overloaded) as refusal:
            admit(queue, [10] * 6, caller=CAROL)
        told_s.append(refusal.value.retry_after_s)
        now_s += refusal.value.retry_after_s
        if len(told_s) == 1:
            for _ in range(6):
                queue.take(0)
            admit(queue, [10] * 6, caller=BOB)  # takes the room
        else:
            for _ in range(4):
                queue.take(0)
            with pytest.raises(Overloaded):
                admit(queue, [10] * 6, caller=BOB)  # the room is another's
    assert told_s == [0.6, 0.6]
    queue.take(0)
    queue.take(0)
    admit(queue, [10] * 6, caller=CAROL)


def test_those_behind_a_request_that_is_refused_enter_at_once():
    now_s = 0.0
    queue = make_queue(max_queued_tokens=100, tokens_per_s=100.0, max_wait_s=2.0, clock=lambda: now_s)
    admit(queue, [10] * 10, caller=ALICE)
    large = admit(queue, [10] * 9, caller=CAROL)
    small = admit(queue, [11], caller=BOB)
    now_s = 1.1
    for _ in range(3):
        queue.take(0)
    assert (large.is_outside, small.is_outside) == (True, True)  # nobody overtakes the large one any more
    with pytest.raises(Overloaded):
        queue.refuse_outside(large)
    assert not small.is_outside


def test_room_is_no_longer_left_for_a_request_that_did_not_come():
    now_s = 0.0
    queue = make_queue(max_queued_tokens=100, tokens_per_s=100.0, max_wait_s=0.5, clock=lambda: now_s)
    admit(queue, [10] * 10, caller=ALICE)
    for caller in (BOB, Caller("dave")):
        with pytest.raises(Overloaded) as refusal:
            admit(queue, [10] * 6, caller=CAROL)
        now_s += refusal.value.retry_after_s
        for _ in range(4 if caller == BOB else 3):
            queue.take(0)
        waiting = admit(queue, [10] * 4, caller=caller)
    assert waiting.is_outside  # the room is Carol's
    now_s += 10.0
    queue.take(0)
    assert not waiting.is_outside
