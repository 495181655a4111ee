"""Whose work is next for a few threads. No clock, no lock, no thread."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gguf_embed.scheduler.batching import PRIORITY_WEIGHTS
from gguf_embed.types import Caller

_T = TypeVar("_T", bound=Hashable)


@dataclass(slots=True, eq=False)
class _Flow(Generic[_T]):
    """What one client has waiting in one class, in the order of arrival."""

    weight: float
    number: int  # of arrival, to break ties
    start: float  # in virtual time, of its next item
    costs: dict[_T, int] = field(default_factory=dict)

    def turn(self) -> tuple[float, int]:
        """When its next item would be finished."""
        return self.start + next(iter(self.costs.values())) / self.weight, self.number


class FairLine(Generic[_T]):
    """Weighted fair queueing of callers. Each item is taken alone, and a caller weighs what its class does.

    `FairQueue` has the same virtual time for texts, but takes batches, weighs requests by their sizes, and shares a
    caller's part among its requests.

    Virtual time is what a caller of weight 1 that always waits would have got. One that has nothing waiting is
    forgotten, and starts anew later. Nobody starves, because virtual time passes every turn.
    """

    def __init__(self) -> None:
        self._flows: dict[Caller, _Flow[_T]] = {}
        self._virtual_time = 0.0
        self._n_flows_seen = 0
        self.cost = 0
        """Of all items together."""

    def __len__(self) -> int:
        return sum(len(flow.costs) for flow in self._flows.values())

    def add(self, caller: Caller, item: _T, cost: int) -> None:
        """`cost`: at least 1, in any unit."""
        flow = self._flows.get(caller)
        if flow is None:
            weight = PRIORITY_WEIGHTS[caller.priority]
            flow = self._flows[caller] = _Flow(weight, self._n_flows_seen, self._virtual_time)
            self._n_flows_seen += 1
        flow.costs[item] = cost
        self.cost += cost

    def take(self) -> _T | None:
        """Remove the item whose turn it is; None if there is none."""
        if not self._flows:
            return None
        caller, flow = min(self._flows.items(), key=lambda entry: entry[1].turn())
        flow.start, _ = flow.turn()
        item, cost = next(iter(flow.costs.items()))
        self._virtual_time += cost / sum(flow.weight for flow in self._flows.values())
        self.remove(caller, item)
        return item

    def remove(self, caller: Caller, item: _T) -> bool:
        """Returns whether it was there."""
        flow = self._flows.get(caller)
        if flow is None or item not in flow.costs:
            return False
        self.cost -= flow.costs.pop(item)
        if not flow.costs:
            del self._flows[caller]
        return True

    def clear(self) -> Sequence[_T]:
        """Remove everything, and return it."""
        everything = [item for flow in self._flows.values() for item in flow.costs]
        self._flows.clear()
        self.cost = 0
        return everything
