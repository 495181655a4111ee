"""Decides which scenarios a run of the benchmark has. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.tasks import RERANK, TASKS, Task, task_of
from gguf_embed.errors import ConfigError

STATIC = "static"
INGEST = "ingest"
BUSY = "busy"
CACHE = "cache"
IN_PROCESS = "in-process"
IMAGES = "images"
NAMES = (*(scenario.name for scenario in SCENARIOS), IN_PROCESS, STATIC, IMAGES, INGEST, BUSY, CACHE)


@dataclass(frozen=True, slots=True)
class Choices:
    """The scenarios to run. Those that nobody named are skipped if something that they need is not installed."""

    names: tuple[str, ...]
    named: bool

    def of(self, task: Task) -> tuple[Scenario, ...]:
        """The ones over HTTP, of one task."""
        return tuple(scenario for scenario in SCENARIOS if scenario.name in self.names and task_of(scenario) is task)


def choose(named: Sequence[str] | None, is_reranker: bool | None) -> Choices:
    """The named scenarios, or all. `is_reranker` is about the given model file; None: there is none.

    A file that cannot run a scenario takes it out of all. Raises `ConfigError` if it was named.
    """
    unfit = _unfit(is_reranker)
    refused = [name for name in named or () if name in unfit]
    if refused:
        needed = "an embedding model" if is_reranker else "a rank head"
        raise ConfigError(f"the model has no use for the scenario {', '.join(refused)}, which needs {needed}")
    return Choices(tuple(name for name in NAMES if name in (named or NAMES) and name not in unfit), named is not None)


def _unfit(is_reranker: bool | None) -> set[str]:
    if is_reranker is None:
        return set()
    others = {task.name for task in TASKS if (task is RERANK) is not is_reranker}
    unfit = {scenario.name for scenario in SCENARIOS if task_of(scenario).name in others}
    return unfit | {IN_PROCESS, INGEST, BUSY, CACHE} if is_reranker else unfit
