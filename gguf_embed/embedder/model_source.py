"""What the arguments of `Embedder` mean, and the fingerprint of a model's file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from gguf_embed.engines.select import may_use_gpu, supports_gpu
from gguf_embed.errors import ConfigError
from gguf_embed.model_store.locate import ModelSource, source_named
from gguf_embed.model_store.names import split_parts
from gguf_embed.types import ModelInfo, Pooling

GpuLayers = int | Literal["auto", "all"]


def source_of(model: str | os.PathLike[str] | None, *, offline: bool = False) -> ModelSource:
    """What the name means; a path object is always a file, and None the default model."""
    if isinstance(model, str):
        return source_named(model, offline=offline)
    return ModelSource(path=None if model is None else Path(model), offline=offline)


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raises `ConfigError` that names what is allowed."""
    if value not in allowed:
        listed = ", ".join(f'"{choice}"' for choice in allowed)
        raise ConfigError(f"{name}={value!r}: it must be one of {listed}")


def gpu_layers(asked: GpuLayers, engine: str) -> int:
    """llama.cpp's number of layers; -1: all. Raises `ConfigError` if some are asked for and there is no GPU."""
    if asked == "auto":
        return -1 if supports_gpu() and may_use_gpu(engine) else 0
    layers = -1 if asked == "all" else asked
    if not isinstance(layers, int) or layers < -1:
        raise ConfigError(f'n_gpu_layers={asked!r}: give a number of layers, "all" or "auto"')
    if layers and not supports_gpu():
        raise ConfigError(
            f'n_gpu_layers={asked!r}: there is no GPU to use with this build of llama-cpp-python: use "auto"'
        )
    return layers


def check_pooling(model: ModelInfo) -> None:
    """Raises `ConfigError` for a model that only gives one vector per token, and has no head for them."""
    if model.pooling is Pooling.NONE and not model.head_outputs:
        raise ConfigError(
            f"model {model.name!r} has no pooling of its own, so it gives one vector per token: name the pooling, "
            "mean, cls or last"
        )


def file_digest(path: Path) -> str:
    """ "sha256:…" over the file, or over all parts of a split one in order. Raises `ConfigError` if it is gone."""
    digest = hashlib.sha256()
    for name in split_parts(path.name):
        part = path.with_name(name)
        try:
            with part.open("rb") as file:
                while block := file.read(2**22):
                    digest.update(block)
        except OSError as exc:
            raise ConfigError(f"{part} cannot be read any more: {exc.strerror}") from exc
    return f"sha256:{digest.hexdigest()}"
