"""What an error says about the models of this server that could answer instead."""

from __future__ import annotations

from gguf_embed.errors import NotSupported, WayOut
from gguf_embed.model_pool.registry import ModelRegistry
from gguf_embed.service.head_outputs import MODELS_WITH
from gguf_embed.types import SCORES

MAX_NAMES_SHOWN = 20
MAX_RERANKERS_SHOWN = 3


def served_names(registry: ModelRegistry, *, pulled: bool = False) -> str:
    """The models' names, or how to get some."""
    names = [spec.info.name for spec in registry.specs(pulled=pulled)]
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    listed = ", ".join(map(repr, names[:MAX_NAMES_SHOWN])) + more
    return listed or "no models yet; pull one, or put a GGUF into its models folder"


def embedding_models(registry: ModelRegistry) -> str:
    """In parentheses; "" if there are none."""
    names = [spec.info.name for spec in registry.specs() if spec.info.output.kind != SCORES]
    shown = ", ".join(map(repr, names[:MAX_NAMES_SHOWN]))
    return f" (embedding models on this server: {shown})" if names else ""


def models_with(registry: ModelRegistry, kind: str) -> str:
    """Those that have an output of this kind, or which models of the world have it, in parentheses."""
    names = [spec.info.name for spec in registry.specs() if kind in spec.info.head_outputs]
    shown = ", ".join(map(repr, names[:MAX_NAMES_SHOWN]))
    return f" (models on this server that have: {shown})" if names else f" (models that have: {MODELS_WITH[kind]})"


def no_rank_head(registry: ModelRegistry, name: str) -> NotSupported:
    """The error for a rerank request to a model that cannot rerank."""
    names = [spec.info.name for spec in registry.specs() if spec.info.reranks]
    known = registry.known_rerankers()[:MAX_RERANKERS_SHOWN]
    hint = ""
    if names:
        hint = f" (rerankers on this server: {', '.join(map(repr, names[:MAX_NAMES_SHOWN]))})"
    elif known:
        hint = f" (rerankers that can be pulled: {', '.join(known)})"
    return NotSupported(f"model {name!r} has no rank head, so it cannot rerank{hint}", [WayOut.COMPARE_VECTORS])
