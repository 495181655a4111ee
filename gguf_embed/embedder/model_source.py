"""What the arguments of `Embedder` mean, and the fingerprint of a model's file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from gguf_embed.config import ComputeConfig, ModelConfig, OffloadConfig, QueueConfig
from gguf_embed.engines.select import engine_names, may_use_gpu, supports_gpu
from gguf_embed.errors import ConfigError
from gguf_embed.model_store.locate import ModelSource, source_named
from gguf_embed.model_store.names import split_parts
from gguf_embed.types import ModelInfo, Pooling

GpuLayers = int | Literal["auto", "all"]
Precision = Literal["auto", "f32", "bf16"]

UNLIMITED_TOKENS, UNLIMITED_S = 2**62, 1e6  # callers wait for the queue; they are not refused


def source_of(model: str | os.PathLike[str] | None, *, offline: bool = False) -> ModelSource:
    """What the name means; a path object is always a file, and None the default model."""
    if isinstance(model, str):
        return source_named(model, offline=offline)
    return ModelSource(path=None if model is None else Path(model), offline=offline)


def config_of(pooling: str | None, n_ctx: int, *, normalize: bool, compute: ComputeConfig) -> ModelConfig:
    """`n_ctx`: tokens; 0: what the model was trained for. Raises `ConfigError` for an unknown pooling."""
    if pooling is not None:
        check_choice("pooling", pooling, tuple(Pooling))
    return ModelConfig(
        pooling=Pooling(pooling) if pooling is not None else None,
        n_ctx=n_ctx,
        embd_normalize=2 if normalize else -1,
        queue=QueueConfig(max_tokens=UNLIMITED_TOKENS, max_wait_s=UNLIMITED_S),
        compute=compute,
    )


def compute_of(threads: int | None, engine: str, precision: Precision, layers: GpuLayers) -> ComputeConfig:
    """Raises `ConfigError` for an unknown engine or precision, and for layers that no GPU can take."""
    check_choice("engine", engine, ("auto", *engine_names()))
    check_choice("precision", precision, get_args(Precision))
    offload = OffloadConfig(n_gpu_layers=gpu_layers(layers, engine))
    return ComputeConfig(n_threads=threads, engine=engine, precision=precision, offload=offload)


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
