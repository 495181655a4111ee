from __future__ import annotations

import heapq
import threading

import pytest

from gguf_embed.errors import Overloaded, Unavailable
from gguf_embed.scheduler.queue import TaskQueue
from gguf_embed.types import Caller
from tests.scheduler.builders import (
    LONG,
    MAX_TOKENS,
    MEAN,
    TOKEN_ROWS,
    admit,
    lengths_of,
    make_queue,
    make_request,
)

SAFETY_S = 10.0


def drain(queue: TaskQueue, worker: int = 0) -> list[list[int] | None]:
    """All batches one worker gets from a closed queue."""
    queue.close()
    batches = []
    while (batch := queue.take(worker)) is not None:
        batches.append(lengths_of(batch))
    return batches


def take_on_thread(queue: TaskQueue, worker: int) -> tuple[threading.Thread, list[object]]:
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(queue.take(worker)), daemon=True)
    thread.start()
    return thread, got


@pytest.mark.parametrize("worker", [0, 1])
def test_patience_ends_when_nothing_comes_for_this_worker(worker):
    queue = make_queue()
    if worker == 1:
        admit(queue, [30])  # too long for any but worker 0
    with pytest.raises(TimeoutError):
        queue.take(worker, 0.001)
    admit(queue, [3])
    assert lengths_of(queue.take(1, 0.001)) == [3]


def test_a_request_that_does_not_fit_is_refused_whole():
    queue = make_queue(max_queued_tokens=10)
    admit(queue, [6])
    with pytest.raises(Overloaded):
        admit(queue, [2, 3])
    assert (queue.state().n_texts, queue.state().n_tokens) == (1, 6)
    assert drain(queue) == [[6]]


def test_a_refusal_names_the_numbers_and_when_there_is_room():
    queue = make_queue(max_queued_tokens=50, tokens_per_s=10.0)
    admit(queue, [40])
    with pytest.raises(Overloaded, match=r"40 tokens.*has 41.*limit is 50") as refusal:
        admit(queue, [41])
    assert refusal.value.retry_after_s == 3.1  # 31 tokens must be computed first


def test_each_refused_request_is_told_to_come_after_those_before_it():
    queue = make_queue(max_queued_tokens=50, tokens_per_s=10.0)
    admit(queue, [50])
    told = []
    for _ in range(4):
        with pytest.raises(Overloaded) as refusal:
            admit(queue, [20])
        told.append(refusal.value.retry_after_s)
    assert told == [2, 4, 6, 8]


@pytest.mark.parametrize(("n_waiting", "retry_after_s"), [(1, 0.1), (100_000, 60)])
def test_retry_after_stays_between_a_tenth_of_a_second_and_a_minute(n_waiting, retry_after_s):
    queue = make_queue(max_queued_tokens=1)
    admit(queue, [n_waiting])
    with pytest.raises(Overloaded) as refusal:
        admit(queue, [1])
    assert refusal.value.retry_after_s == retry_after_s


def test_clients_that_come_when_they_are_told_need_few_tries():
    """200 requests of 410 tokens at once into a queue of 2,000: with the same time for all, 20 tries on average."""
    now_s, tokens_per_s = 0.0, 4000.0
    queue = make_queue(max_queued_tokens=2000, tokens_per_s=tokens_per_s, clock=lambda: now_s)
    events = [(0.0, number) for number in range(200)]
    tries, computed_s = [0] * 200, 0.0
    heapq.heapify(events)
    while events:
        now_s, number = heapq.heappop(events)
        while queue.state().n_texts and computed_s <= now_s:
            computed_s = max(computed_s, now_s - 1) + queue.take(0).n_tokens / tokens_per_s
        tries[number] += 1
        try:
            admit(queue, [410])
        except Overloaded as refusal:
            heapq.heappush(events, (now_s + refusal.retry_after_s, number))
    assert sum(tries) / 200 <= 3
    assert max(tries) <= 3  # the official client's: nothing is lost


def test_a_short_query_is_admitted_to_a_full_queue_while_the_reserve_lasts():
    queue = make_queue(max_queued_tokens=100)
    admit(queue, [90, 10])
    for _ in range(2):
        admit(queue, [5])
    with pytest.raises(Overloaded):
        admit(queue, [1])


def test_the_reserve_is_free_again_when_its_texts_have_run():
    queue = make_queue(max_queued_tokens=100)
    admit(queue, [MAX_TOKENS] * 30)
    admit(queue, [9])
    with pytest.raises(Overloaded):
        admit(queue, [9])
    while lengths_of(queue.take(0)) != [9]:
        pass
    assert queue.state().n_tokens > 100
    admit(queue, [9])


def test_the_reserve_is_for_requests_of_one_batch():
    queue = make_queue(max_queued_tokens=1000)
    admit(queue, [1000])
    with pytest.raises(Overloaded):
        admit(queue, [MAX_TOKENS, 1])
    admit(queue, [MAX_TOKENS - 1, 1])


def test_a_client_that_disconnects_frees_its_part_of_the_reserve():
    queue = make_queue(max_queued_tokens=100)
    admit(queue, [100])
    gone = admit(queue, [10])
    queue.cancel(gone)
    admit(queue, [10])
    with pytest.raises(Overloaded):
        admit(queue, [1])


def test_a_request_larger_than_the_queue_is_admitted_when_it_is_empty():
    queue = make_queue(max_queued_tokens=10)
    admit(queue, [8, 8])
    assert queue.state().n_tokens == 16


def test_a_failing_admission_leaves_nothing_behind():
    queue = make_queue()
    with pytest.raises(TypeError):
        queue.admit(make_request(2), MEAN, [[7], None])
    admit(queue, [3])
    assert drain(queue) == [[3]]
    assert (queue.state().n_texts, queue.state().n_tokens) == (0, 0)


def test_texts_whose_clients_are_gone_do_not_keep_others_out():
    queue = make_queue(max_queued_tokens=10)
    gone = admit(queue, [5, 5])
    queue.cancel(gone)
    admit(queue, [8])
    assert (queue.state().n_texts, queue.state().n_tokens) == (1, 8)
    assert drain(queue) == [[8]]


def test_only_what_was_cancelled_costs_a_full_queue_time(monkeypatch):
    rebuilt: list[int] = []
    heapify = heapq.heapify
    monkeypatch.setattr(heapq, "heapify", lambda heap: (rebuilt.append(len(heap)), heapify(heap)))
    queue = make_queue(max_queued_tokens=100)
    many, few = Caller("many"), Caller("few")
    admit(queue, [2] * 35, caller=many)
    gone = [admit(queue, [5, 5], caller=few), admit(queue, [5, 5], caller=few)]
    for _ in range(3):
        with pytest.raises(Overloaded):
            admit(queue, [20], caller=many)
    assert rebuilt == []
    queue.cancel(gone[0])
    with pytest.raises(Overloaded):
        admit(queue, [40], caller=many)
    assert rebuilt == [2]  # not the texts of the others
    with pytest.raises(Overloaded):
        admit(queue, [40], caller=many)
    assert rebuilt == [2]


def test_a_request_cancelled_twice_or_after_its_texts_were_taken_is_forgotten():
    queue = make_queue(max_queued_tokens=10)
    taken = admit(queue, [5])
    queue.take(0)
    queue.cancel(taken)
    gone = admit(queue, [5, 5])
    queue.cancel(gone)
    queue.cancel(gone)
    admit(queue, [8])
    queue.cancel(gone)
    with pytest.raises(Overloaded):
        admit(queue, [8])
    assert drain(queue) == [[8]]


def test_cancelled_texts_are_dropped_and_counted_out():
    queue = make_queue()
    gone = admit(queue, [4, 4, 4])
    admit(queue, [5], at_s=9.0)
    queue.cancel(gone)
    assert drain(queue) == [[5]]
    assert (queue.state().n_texts, queue.state().n_tokens) == (0, 0)


@pytest.mark.parametrize("n_bulk", [1, 8, 100])
def test_a_short_query_goes_before_the_rest_of_any_number_of_bulk_requests(n_bulk):
    queue = make_queue(max_queued_tokens=100_000)
    for _ in range(n_bulk):
        admit(queue, [10] * 50)
    for _ in range(n_bulk // 2):
        queue.take(0)
    admit(queue, [3])
    assert lengths_of(queue.take(0)) == [3]


def test_nothing_starves_under_a_stream_of_new_queries():
    queue = make_queue()
    bulk = admit(queue, [10, 10])
    taken = []
    for _ in range(20):
        admit(queue, [5, 5])
        taken.append(queue.take(0).tasks[0].request)
    assert taken.count(bulk) == 2  # though the queue grows all the time


def test_requests_share_the_workers_by_tokens_not_by_texts():
    queue = make_queue(max_sequences=1)
    many, few = admit(queue, [2] * 50), admit(queue, [10] * 10)
    taken = [queue.take(0).tasks[0] for _ in range(30)]
    tokens = {request: sum(len(task.tokens) for task in taken if task.request is request) for request in (many, few)}
    assert abs(tokens[many] - tokens[few]) <= 10


def test_requests_admitted_at_once_go_first_come_first_served():
    queue = make_queue(max_sequences=1)
    first, second = admit(queue, [1]), admit(queue, [1])
    assert [queue.take(0).tasks[0].request for _ in range(2)] == [first, second]


def test_long_texts_go_to_worker_0_alone_one_at_a_time():
    queue = make_queue(n_workers=2)
    admit(queue, [20, 5, 30, 5])
    assert lengths_of(queue.take(1)) == [5, 5]
    first = queue.take(0)
    assert (first.key, lengths_of(first)) == (LONG, [20])
    assert lengths_of(queue.take(0)) == [30]


def test_cancelled_long_texts_do_not_take_the_place_of_another():
    queue = make_queue()
    queue.cancel(admit(queue, [20]))
    admit(queue, [30])
    assert drain(queue) == [[30]]


def test_outputs_do_not_share_a_batch_and_take_turns():
    queue = make_queue()
    admit(queue, [2], at_s=0.0, output=MEAN)
    admit(queue, [3], at_s=1.0, output=TOKEN_ROWS)
    admit(queue, [4], at_s=2.0, output=MEAN)
    batches = [queue.take(0), queue.take(0)]
    assert [(batch.key.output, lengths_of(batch)) for batch in batches] == [(MEAN, [2, 4]), (TOKEN_ROWS, [3])]


def test_idle_workers_share_one_request():
    queue = make_queue(n_workers=2, min_share_tokens=1)
    admit(queue, [2, 2, 2, 2])
    assert [lengths_of(queue.take(0)), lengths_of(queue.take(1))] == [[2, 2], [2, 2]]


def test_a_lone_text_gets_the_threads_for_that_and_a_worker_in_company_its_share():
    queue = make_queue(n_workers=2, n_threads=8, alone_threads=5)
    admit(queue, [5])
    alone = queue.take(0)
    admit(queue, [5])
    assert (alone.n_threads, queue.take(1).n_threads) == (5, 4)


def test_state_counts_what_waits_and_what_runs():
    queue = make_queue(n_workers=2)
    admit(queue, [5, 5, 5])
    queue.take(0)
    state = queue.state()
    assert (state.n_texts, state.n_tokens, state.n_running_workers, state.n_running_texts) == (2, 10, 1, 1)


def test_a_closed_queue_refuses_new_texts_and_hands_out_the_queued_ones():
    queue = make_queue()
    admit(queue, [5])
    queue.close()
    with pytest.raises(Unavailable, match="shutting down"):
        admit(queue, [1])
    assert lengths_of(queue.take(0)) == [5]
    assert queue.take(0) is None


def test_close_wakes_an_idle_worker():
    queue = make_queue()
    thread, got = take_on_thread(queue, 0)
    queue.close()
    thread.join(SAFETY_S)
    assert got == [None]


def test_a_worker_that_may_not_take_the_last_long_text_ends_after_worker_0_took_it():
    queue = make_queue(n_workers=2)
    admit(queue, [20])
    queue.close()
    thread, got = take_on_thread(queue, 1)
    assert lengths_of(queue.take(0)) == [20]
    assert queue.take(0) is None
    thread.join(SAFETY_S)
    assert got == [None]


def test_a_worker_ends_when_all_that_waits_in_a_closed_queue_is_cancelled():
    queue = make_queue(n_workers=2)
    queue.cancel(admit(queue, [20, 5]))
    queue.close()
    thread, got = take_on_thread(queue, 1)
    assert queue.take(0) is None
    thread.join(SAFETY_S)
    assert got == [None]


def test_a_waiting_worker_is_woken_by_work():
    queue = make_queue()
    thread, got = take_on_thread(queue, 0)
    admit(queue, [3])
    thread.join(SAFETY_S)
    assert [lengths_of(batch) for batch in got] == [[3]]


def test_a_failure_hands_back_everything_wakes_workers_and_refuses():
    queue = make_queue(n_workers=2)
    admit(queue, [20])
    thread, got = take_on_thread(queue, 1)  # has nothing to take
    admit(queue, [40], output=TOKEN_ROWS)
    handed_back = queue.fail("boom")
    thread.join(SAFETY_S)
    assert got == [None]
    assert sorted(len(task.tokens) for task in handed_back) == [20, 40]
    assert queue.take(0) is None
    with pytest.raises(Unavailable, match="boom"):
        admit(queue, [1])
    state = queue.state()
    assert (state.failure, state.n_texts, state.n_tokens) == ("boom", 0, 0)


def test_the_first_failure_is_the_one_shown():
    queue = make_queue()
    queue.fail("first")
    assert queue.fail("second") == []
    assert queue.state().failure == "first"


def test_the_speed_is_measured_while_the_queue_is_full():
    now_s = 0.0
    queue = make_queue(n_workers=2, max_queued_tokens=None, tokens_per_s=1000.0, clock=lambda: now_s)
    admit(queue, [10] * 1000)
    for _ in range(200):
        queue.take(0)
        queue.take(1)
        now_s += 0.1  # 200 tokens per second
    assert queue.state().tokens_per_s == pytest.approx(200, rel=0.01)
    assert queue.state().limit_tokens == pytest.approx(60 * 200, rel=0.01)
    with pytest.raises(Overloaded) as refusal:
        admit(queue, [10] * 1400)
    assert refusal.value.retry_after_s == pytest.approx((6000 + 12000 - 12000) / 200, rel=0.05)


@pytest.mark.parametrize("pause_s", [0.001, 100.0])
def test_single_texts_and_pauses_teach_nothing_about_the_speed(pause_s):
    now_s = 0.0
    queue = make_queue(tokens_per_s=1000.0, clock=lambda: now_s)
    for _ in range(50):
        admit(queue, [3])
        queue.take(0)
        now_s += pause_s
    assert queue.state().tokens_per_s == 1000.0


def test_what_is_dropped_teaches_nothing_about_the_speed():
    now_s = 0.0
    queue = make_queue(tokens_per_s=1000.0, clock=lambda: now_s)
    gone = admit(queue, [10] * 5)
    queue.take(0)
    queue.cancel(gone)
    thread, _ = take_on_thread(queue, 0)
    while queue.state().n_texts or queue.state().n_running_workers:
        thread.join(0.01)
    now_s = 100.0
    admit(queue, [10, 10, 10])
    thread.join(SAFETY_S)
    assert queue.state().tokens_per_s == 1000.0
