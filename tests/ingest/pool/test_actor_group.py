"""How calls are given to actors, and what happens when these die: with handles that are only numbers."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gguf_embed.errors import ConfigError, EngineFailure, Unavailable
from gguf_embed.ingest.pool import actor_group
from gguf_embed.ingest.pool.actor_group import ActorGroup, NotStarted


class FakeActors:
    """Implements `Actors`. `problems`: what happens at each start; None: it gets ready."""

    def __init__(self, problems=()):
        self.numbers = itertools.count(1)
        self.problems = iter(problems)
        self.killed = []
        self.gate = threading.Event()
        self.gate.set()

    def create(self):
        return next(self.numbers)

    def wait_ready(self, handle):
        self.gate.wait(5)
        problem = next(self.problems, None)
        if problem is not None:
            raise problem

    def kill(self, handle):
        self.killed.append(handle)


@pytest.fixture
def group_of():
    groups = []

    def open_(n, actors):
        groups.append(ActorGroup(n, actors))
        return groups[-1]

    yield open_
    for group in groups:
        group.close()


def eventually(condition):
    end_s = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def lose(group, alone=False):
    with group.lease(alone=alone) as member:
        group.lost(member, member.handle)


def test_calls_go_to_the_idlest_actor_and_wait_when_all_are_full(group_of):
    group = group_of(2, FakeActors())
    leases = [group.lease(alone=False) for _ in range(4)]
    assert sorted(lease.__enter__().handle for lease in leases) == [1, 1, 2, 2]
    with ThreadPoolExecutor(1) as threads:
        fifth = threads.submit(lambda: group.lease(alone=False).__enter__().handle)
        time.sleep(0.05)
        assert not fifth.done()
        leases[0].__exit__(None, None, None)
        assert fifth.result(5) in (1, 2)
    for lease in leases[1:]:
        lease.__exit__(None, None, None)
    group._members[0].n_running = group._members[1].n_running = 0  # the fifth call has ended, too


def test_a_call_alone_waits_for_the_others_and_keeps_new_ones_away(group_of):
    group = group_of(1, FakeActors())
    order = []
    first = group.lease(alone=False)
    first.__enter__()

    def call(name, alone):
        with group.lease(alone=alone):
            order.append(name)
            time.sleep(0.02)
            order.append(name)

    with ThreadPoolExecutor(2) as threads:
        threads.submit(call, "alone", True)
        eventually(lambda: group._members[0].is_held)
        threads.submit(call, "later", False)
        time.sleep(0.03)
        assert order == []
        first.__exit__(None, None, None)
    assert order == ["alone", "alone", "later", "later"]


def test_a_dead_actor_is_replaced_once_whoever_notices(group_of):
    actors = FakeActors()
    group = group_of(1, actors)
    with group.lease(alone=False) as one, group.lease(alone=False) as other:
        handle = one.handle
        group.lost(one, handle)
        eventually(lambda: one.handle == 2)
        group.lost(other, handle)
        assert other.handle == 2
    assert actors.killed == [1]


def test_the_work_goes_on_with_the_others_while_an_actor_starts(group_of):
    actors = FakeActors()
    group = group_of(2, actors)
    actors.gate.clear()
    lose(group)
    with group.lease(alone=False) as one, group.lease(alone=False) as other:
        assert one.handle == other.handle == 2
    actors.gate.set()


def test_an_actor_that_does_not_start_three_times_is_given_up(group_of):
    actors = FakeActors([None, *[NotStarted("no memory")] * 3])
    group = group_of(1, actors)
    lose(group)
    with pytest.raises(EngineFailure, match="no Ray actor is left: no memory"), group.lease(alone=True):
        pass
    assert actors.killed == [1, 2, 3, 4]


def test_one_that_starts_at_the_third_time_goes_on(group_of):
    group = group_of(1, FakeActors([None, *[NotStarted("no memory")] * 2]))
    lose(group)
    with group.lease(alone=True) as member:
        assert member.handle == 4


def test_a_refusal_at_the_start_is_final_and_ends_all(group_of):
    actors = FakeActors([None, NotStarted("on b: no such file", is_final=True)])
    with pytest.raises(ConfigError, match="on b: no such file"):
        group_of(2, actors)
    assert sorted(actors.killed) == [1, 2]


def test_calls_that_end_one_actor_after_the_other_end_the_job(group_of, monkeypatch):
    monkeypatch.setattr(actor_group, "MAX_LOSSES", 3)
    group = group_of(1, FakeActors())
    lose(group)
    lose(group)
    with group.lease(alone=False):
        group.succeeded()
    for _ in range(3):
        lose(group, alone=True)
    with pytest.raises(EngineFailure, match="3 calls ended the Ray actor"), group.lease(alone=False):
        pass


def test_close_kills_all_and_those_that_start(group_of):
    actors = FakeActors()
    group = group_of(2, actors)
    actors.gate.clear()
    lose(group)
    eventually(lambda: any(member.new_handle == 3 for member in group._members))
    with ThreadPoolExecutor(1) as threads:
        closing = threads.submit(group.close)
        eventually(lambda: group.is_closed)
        actors.gate.set()
        closing.result(5)
    assert set(actors.killed) == {1, 2, 3}
    with pytest.raises(Unavailable, match="closed"), group.lease(alone=False):
        pass
