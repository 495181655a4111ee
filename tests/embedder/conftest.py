"""Tiny models in this process, and clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gguf_embed.embedder.client import Client
from gguf_embed.embedder.embedder import Embedder

QUICK = {"engine": "llama", "precision": "f32"}
"""Nothing is measured twice for these tests."""


@pytest.fixture
def open_model(models: Path, cache_dir: Path) -> Iterator[Callable[..., Embedder]]:
    """Opens one of the tiny models in this process; closed after the test."""
    opened: list[Embedder] = []

    def open_(name: str = "encoder", **arguments: Any) -> Embedder:
        opened.append(Embedder(models / f"{name}.gguf", cache=cache_dir, **{**QUICK, **arguments}))
        return opened[-1]

    yield open_
    for model in opened:
        model.close()


@pytest.fixture(scope="session")
def tiny(models: Path, cache_dir: Path) -> Iterator[Embedder]:
    """The tiny encoder: 32 dimensions, pooling mean, 64 tokens per text."""
    with Embedder(models / "encoder.gguf", cache=cache_dir, **QUICK) as model:
        yield model


@pytest.fixture
def client() -> Iterator[Callable[..., Client]]:
    """Opens clients for one test."""
    opened: list[Client] = []

    def open_(url: str, **arguments: Any) -> Client:
        opened.append(Client(url, **arguments))
        return opened[-1]

    yield open_
    for model in opened:
        model.close()
