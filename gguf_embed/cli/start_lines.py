"""What `serve` says when it is ready: what is served, where, what to be careful about, and a command to try it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguf_embed.model_pool.loading import LoadedModel
    from gguf_embed.server.listen import ListenAddress
    from gguf_embed.types import ModelStatus

MAX_NAMES_SHOWN = 10
OPEN_TO_ALL = (
    "warning  without --api-key, everyone who reaches this address can embed, and also pull, unload and delete models"
)


def model_lines(loaded: Sequence[LoadedModel], served: Sequence[ModelStatus], *, facts: bool) -> list[str]:
    """The models, loaded or not. `facts`: all about how the loaded ones are computed."""
    others = [status.info.name for status in served if status.state == "unloaded"]
    shown = ", ".join(others[:MAX_NAMES_SHOWN]) + (", …" if len(others) > MAX_NAMES_SHOWN else "")
    return [
        *(
            line
            for model in loaded
            for line in (model_line(model), *image_lines(model), *(fact_lines(model) if facts else engine_lines(model)))
        ),
        *([f"more     {counted(len(others), 'model')}, loaded on first use: {shown}"] if others else []),
    ]


def model_line(loaded: LoadedModel) -> str:
    from gguf_embed.types import LISTWISE

    info = loaded.info
    scores = f"reranker, {counted(info.n_scores, 'score')} per document"
    vectors = f"{info.n_embd} dimensions" if info.n_embd else f"{' and '.join(info.head_outputs)} vectors"
    gives = scores if info.n_scores else vectors
    gives = f"listwise reranker, {gives}" if LISTWISE in info.head_outputs else gives
    return f"model    {info.name}: {gives}, up to {info.max_input_tokens:,} tokens per text"


def image_lines(loaded: LoadedModel) -> list[str]:
    """What reads images; towers that give each its own vector are not experimental."""
    tower = loaded.config.mmproj.name if loaded.config.mmproj is not None else "the tower in its file"
    line = f"images   {tower}{'' if loaded.loaded.images_alone else ', experimental'}"
    return [line] if loaded.images is not None else []


def engine_lines(loaded: LoadedModel) -> list[str]:
    """What computes a model."""
    from gguf_embed.model_pool.computed_by import ComputedBy

    where = "" if loaded.process_state() is None else ", in a process of its own"
    return [f"engine   {ComputedBy.of(loaded.info, loaded.scheduler.plan)}{where}"]


def fact_lines(loaded: LoadedModel) -> list[str]:
    """How a model is computed, in the terms of docs/architecture.md."""
    info, chosen, queue = loaded.info, loaded.scheduler.plan, loaded.scheduler.state()
    weights = info.file_type if info.weights_type == info.file_type else f"{info.file_type} run as {info.weights_type}"
    how = "measured at warm-up" if chosen.measured else "not measured"
    where = "" if loaded.process_state() is None else ", in a process of its own"
    return [
        f"engine   {info.engine}, {chosen.kernels} kernels, weights {weights}, tokenizer {info.tokenizer}, pooling "
        f"{info.pooling}{where}",
        f"compute  {counted(chosen.n_workers, 'worker')} on {counted(chosen.n_threads, 'thread')}, "
        f"{counted(chosen.alone_threads, 'thread')} for a batch running alone",
        f"batches  {', '.join([f'{chosen.limits.max_tokens} tokens', *chosen.details])} ({how})",
        f"queue    {queue.limit_tokens:,} tokens, {queue.limit_tokens / queue.tokens_per_s:.1f} s of work; while short "
        f"requests come, batches of {queue.interactive_tokens} tokens, "
        f"{queue.interactive_tokens * chosen.n_workers / queue.tokens_per_s * 1e3:.0f} ms",
    ]


def place_lines(addresses: Sequence[ListenAddress], urls: Sequence[str], prefix: str, *, needs_key: bool) -> list[str]:
    """Where it is served, and where the page is. `urls`: one for each address."""
    from gguf_embed.server.listen import is_local

    pairs = list(zip(addresses, urls, strict=True))
    page = next((url_to_open(url, prefix) for one, url in pairs if one.socket_path is None), None)
    is_open = not needs_key and not all(map(is_local, addresses))
    return [
        *(f"{'ollama ' if one.flag == '--ollama-port' else 'serving'}  {url}" for one, url in pairs),
        *([f"page     open {page} in a browser to try it"] if page else []),
        *([OPEN_TO_ALL] if is_open else []),
    ]


def counted(n: int, noun: str, plural: str | None = None) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {plural or noun + 's'}"


def url_to_open(url: str, prefix: str) -> str:
    from gguf_embed.server.listen import url_to_try

    return f"{url_to_try(url, prefix).removeprefix('-k ').removesuffix('/')}/"


def try_line(
    url: str, loaded: Sequence[LoadedModel], served: Sequence[ModelStatus], folder: Path | None, *, needs_key: bool
) -> str:
    """A curl command; without any model, how to get one."""
    if not served:
        where = f"put a GGUF into {folder}" if folder is not None else "pull one with gguf-embed pull NAME"
        return f"ready    there is no model yet: {where}, which is then served without a restart"
    from gguf_embed.server.admin.index import example

    key = " -H 'Authorization: Bearer YOUR_KEY'" if needs_key else ""
    return example(url, served[0].info, named=not loaded, headers=key)
