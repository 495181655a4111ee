"""Which engine runs a file: chosen by its architecture, imported when first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from gguf_embed.config import ComputeConfig
from gguf_embed.engines.base import Engine
from gguf_embed.gguf_file.facts import has_rank_head, rank_labels
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.static_format import ARCHITECTURE as STATIC_ARCHITECTURE
from gguf_embed.gguf_file.token_rows import PairRows, has_token_types

_Opener = Callable[[Path, GgufHeader, ComputeConfig], Engine]


def open_engine(path: Path, header: GgufHeader, compute: ComputeConfig) -> Engine:
    """Load the weights of `path`: the file of `header`, or a copy of it in another type.

    Raises `ModelFileError` with one clear reason.
    """
    return _OPENERS.get(header.architecture, _open_llama)(path, header, compute)


def runs_in_llama(header: GgufHeader) -> bool:
    """Whether llama.cpp runs it, so that its kernels, contexts and measurements matter."""
    return header.architecture not in _OPENERS


def _open_llama(path: Path, header: GgufHeader, compute: ComputeConfig) -> Engine:
    from gguf_embed.engines.llama.engine import LlamaEngine, LlamaEngineConfig

    if not has_rank_head(header):
        return LlamaEngine(LlamaEngineConfig(path, compute.offload))
    pair_rows = PairRows(header) if has_token_types(header) else None
    return LlamaEngine(
        LlamaEngineConfig(path, compute.offload, rank_head=True, labels=rank_labels(header), pair_rows=pair_rows)
    )


def _open_static(path: Path, header: GgufHeader, compute: ComputeConfig) -> Engine:
    from gguf_embed.engines.static.engine import StaticEngine

    return StaticEngine(header)


_OPENERS: Mapping[str, _Opener] = {STATIC_ARCHITECTURE: _open_static}
"""By general.architecture; llama.cpp runs all others."""
