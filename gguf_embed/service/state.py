"""The state of all loaded models together, for health checks and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from gguf_embed.model_pool.loading import LoadedModel
from gguf_embed.scheduler.queue import QueueState
from gguf_embed.types import EngineProcessState, QueueLoad, ServiceState


def service_state(models: Sequence[LoadedModel]) -> ServiceState:
    """A snapshot."""
    queues = [model.scheduler.state() for model in models]
    plans = [model.scheduler.plan for model in models]
    processes = {model.info.name: process for model in models if (process := model.process_state()) is not None}
    status, detail = _health([queue.failure or "" for queue in queues], processes)
    return ServiceState(
        status=status,
        detail=detail,
        queued_texts=sum(queue.n_texts for queue in queues),
        queued_tokens=sum(queue.n_tokens for queue in queues),
        running_texts=sum(queue.n_running_texts for queue in queues),
        queued_s=max((queue.n_tokens / queue.tokens_per_s for queue in queues), default=0.0),
        n_workers=sum(plan.n_workers for plan in plans),
        n_threads=max((plan.n_threads for plan in plans), default=0),
        processes=processes,
        queues=tuple(map(_queue_load, models, queues)),
    )


def _health(
    failures: Sequence[str], processes: Mapping[str, EngineProcessState]
) -> tuple[Literal["ok", "loading", "failed"], str]:
    """The state of all loaded models together, and why it is not "ok". `failures` has one entry for each model."""
    failure = next(filter(None, failures), "")
    if failure:
        return "failed", f"a worker has failed ({failure}): restart the server"
    restarting = [name for name, process in processes.items() if process.state == "restarting"]
    if restarting and len(restarting) == len(failures):
        return "loading", f"the engine of {restarting[0]} is being restarted, and no other model is loaded"
    return "ok", ""


def _queue_load(model: LoadedModel, queue: QueueState) -> QueueLoad:
    return QueueLoad(
        model.info.name,
        queue.n_outside,
        queue.limit_tokens,
        queue.tokens_per_s,
        queue.interactive_tokens,
        model.threads.n_waiting,
    )
