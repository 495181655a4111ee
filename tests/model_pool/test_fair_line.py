"""The line for a few threads: shares by class and cost, nobody starves, and what leaves is gone."""

from __future__ import annotations

from gguf_embed.model_pool.fair_line import FairLine
from gguf_embed.types import Caller, Priority

A, B = Caller("a"), Caller("b")


def taken(line: FairLine[str], n: int) -> str:
    return "".join(line.take() or "-" for _ in range(n))


def test_callers_share_by_cost_and_one_that_comes_late_goes_before_the_rest_of_others():
    line: FairLine[str] = FairLine()
    for letter in "ABCD":
        line.add(A, letter, 300)
    assert taken(line, 2) == "AB"
    for letter in "abcdef":
        line.add(B, letter, 100)
    assert taken(line, 9) == "abCcdeDf-"


def test_classes_share_by_weight_and_none_starves():
    line: FairLine[str] = FairLine()
    callers = {"h": Priority.HIGH, "n": Priority.NORMAL, "l": Priority.LOW, "b": Priority.BATCH}
    for letter, priority in callers.items():
        for n in range(100):
            line.add(Caller("one", priority), f"{letter}{n}", 10)
    first = [line.take()[0] for _ in range(85)]
    assert [first.count(letter) for letter in callers] == [64, 16, 4, 1]


def test_what_is_removed_or_cleared_does_not_count():
    line: FairLine[str] = FairLine()
    for letter in "abc":
        line.add(A, letter, 5)
    line.add(B, "x", 7)
    assert line.remove(A, "a")
    assert not line.remove(A, "a")
    assert not line.remove(B, "a")
    assert (len(line), line.cost) == (3, 17)
    assert line.take() == "b"
    assert line.clear() == ["c", "x"]
    assert (len(line), line.cost, line.take()) == (0, 0, None)
