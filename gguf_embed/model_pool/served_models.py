"""The models that can be served, by name, and in words what has changed about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gguf_embed.config import ModelConfig
from gguf_embed.model_store.names import model_key
from gguf_embed.types import ModelInfo

MAX_NAMES_SHOWN = 5

Identity = tuple[str, int, int]
"""Path, size and modification time: a changed file under the same name is a different model."""

Origin = Literal["named", "pulled", "folder"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model that can be served."""

    key: str  # the name in its normalized form, see `model_key`
    path: Path
    identity: Identity
    config: ModelConfig  # how to load it
    info: ModelInfo  # from its header
    digest: str
    modified_unix_s: float
    origin: Origin
    memory_bytes: int  # estimate while loaded


@dataclass(frozen=True, slots=True)
class ServedModels:
    """Models by name, those named at startup first, and the files that cannot be served."""

    specs: tuple[ModelSpec, ...] = ()
    by_name: Mapping[str, ModelSpec] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)  # names of files in their normalized form, each with why


def served_models(specs: Iterable[ModelSpec], refused: Mapping[str, str]) -> ServedModels:
    """Names take precedence over aliases, and earlier models over later ones."""
    specs = tuple(specs)
    found: dict[str, ModelSpec] = {}
    for spec in specs:
        found.setdefault(spec.key, spec)
    for spec in specs:
        for alias in spec.info.aliases:
            found.setdefault(model_key(alias), spec)
    return ServedModels(specs, found, {name: why for name, why in refused.items() if name not in found})


def changes(before: Sequence[ModelSpec], after: Sequence[ModelSpec], *, pulled: bool) -> list[str]:
    """A line for what has come, changed or gone each. `pulled`: pulled models are served on every route."""
    old, new = ({spec.key: spec for spec in specs} for specs in (before, after))
    came = [spec for key, spec in new.items() if key not in old]
    changed = [spec for key, spec in new.items() if key in old and old[key].identity != spec.identity]
    gone = [spec for key, spec in old.items() if key not in new]
    lines = {
        "now served: {}": [spec for spec in came if pulled or spec.origin != "pulled"],
        "pulled: {}; served in Ollama's API only, and on every route with --pulled": [
            spec for spec in came if spec.origin == "pulled" and not pulled
        ],
        "changed: {}, loaded again on its next use": changed,
        "no longer served: {}": gone,
    }
    return [text.format(_listed(specs)) for text, specs in lines.items() if specs]


def _listed(specs: Sequence[ModelSpec]) -> str:
    names = ", ".join(spec.info.name for spec in specs[:MAX_NAMES_SHOWN])
    n_more = len(specs) - MAX_NAMES_SHOWN
    return f"{names} and {n_more:,} more" if n_more > 0 else names
