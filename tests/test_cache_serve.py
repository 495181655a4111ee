"""Real servers with a cache: the same bytes as computed, never those of another file or another key."""

from __future__ import annotations

import importlib.util
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from gguf_embed.output_cache.disk import FILE_NAME
from tests.gguf_models import write_tiny_encoder
from tests.server_process import Server, clean_environment, started, stop, wait_until

ENGINES = [
    "llama",
    pytest.param(
        "openvino", marks=pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="no OpenVINO here")
    ),
]
FLAGS = ("--cache-size", "8M", "--precision", "f32")
TEXTS = ["hello world", "the cat sat on the mat", "red"]
BODIES = [
    ("/v1/embeddings", {"input": TEXTS, "encoding_format": "base64"}),
    ("/v1/embeddings", {"input": TEXTS, "dimensions": 8}),
    ("/v1/embeddings", {"input": TEXTS, "output_dtype": "int8"}),
    ("/embedding", {"content": TEXTS, "embd_normalize": -1}),
    ("/api/embed", {"model": "encoder", "input": TEXTS}),
    ("/embed", {"inputs": TEXTS, "normalize": False}),
]

START = """
from functools import partial
import gguf_embed.service.open as opening
from gguf_embed.__main__ import main

opening.DiskRows = partial(opening.DiskRows, patience_s=60.0)
main()
"""
"""A server that waits for the disk, however busy the machine is. Others wait 50 ms, and compute what was not there."""


@pytest.fixture
def launch_patient(cache_dir) -> Iterator[Callable[..., Server]]:
    """Starts servers that wait for the disk, for one test."""
    servers: list[Server] = []

    def start(*flags: str | Path) -> Server:
        words = [sys.executable, "-c", START, "serve", "--port", "0", *map(str, flags)]
        servers.append(started(words, clean_environment(cache_dir)))
        return servers[-1]

    yield start
    for server in servers:
        stop(server)


def n_stored(folder: Path) -> int:
    """Rows in the cache on the disk."""
    with closing(sqlite3.connect(folder / FILE_NAME, timeout=60)) as database:
        return database.execute("SELECT count(*) FROM outputs").fetchone()[0]


def count(server: Server, outcome: str) -> float:
    line = f'gguf_embed_cache_texts_total{{outcome="{outcome}"}} '
    found = [row for row in server.get("/metrics").body.decode().splitlines() if row.startswith(line)]
    return float(found[0].removeprefix(line)) if found else 0.0


def answer(server: Server, path: str, body: object, **headers: str) -> object:
    """The reply without its times."""
    reply = server.post(path, body, **headers)
    assert reply.status == 200, reply.body
    found = reply.json()
    if isinstance(found, dict):
        return {key: value for key, value in found.items() if not key.endswith("_duration")}
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_every_dialect_gets_the_bytes_that_are_computed_without_it(launch, models, engine):
    server = launch("-m", models / "encoder.gguf", "--engine", engine, *FLAGS)
    computed = [answer(server, path, body, Cache_Control="no-store") for path, body in BODIES]
    assert [count(server, outcome) for outcome in ("hit", "miss")] == [0, 0]
    for _ in range(2):
        assert [answer(server, path, body) for path, body in BODIES] == computed
    assert count(server, "miss") == len(TEXTS)
    assert count(server, "hit") == (2 * len(BODIES) - 1) * len(TEXTS)


@pytest.mark.parametrize("engine", ENGINES)
def test_scores_are_the_bytes_that_are_computed_without_it(launch, models, engine):
    server = launch("-m", models / "reranker.gguf", "--engine", engine, *FLAGS)
    body = {"query": "cat", "documents": [*TEXTS, TEXTS[0]]}
    computed = answer(server, "/v1/rerank", body, Cache_Control="max-age=0, no-cache")
    for _ in range(2):
        assert answer(server, "/v1/rerank", body) == computed
    assert [count(server, outcome) for outcome in ("miss", "hit")] == [len(TEXTS), len(TEXTS)]


@pytest.mark.process
def test_a_changed_file_is_never_answered_from_what_the_old_one_gave(launch_patient, tmp_path):
    """Not even one with the same size and the same time of change."""
    folder = tmp_path / "models"
    folder.mkdir()
    path = write_tiny_encoder(folder / "model.gguf", seed=1)
    before = path.stat()
    flags = ("--models-dir", folder, "--engine", "llama", "--cache-size", "8M", "--cache-disk", "8M")
    flags += ("--weights", "file")  # a copy in BF16 is known by its source's size and time
    server = launch_patient(*flags)
    first = server.embed(TEXTS, model="model").tobytes()
    assert server.embed(TEXTS, model="model").tobytes() == first
    server.end(signal.SIGTERM)
    other = write_tiny_encoder(tmp_path / "other.gguf", seed=2)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert other.stat().st_size == before.st_size
    other.replace(path)
    server = launch_patient(*flags)
    second = server.embed(TEXTS, model="model").tobytes()
    assert second != first
    write_tiny_encoder(tmp_path / "again.gguf", seed=1).replace(path)  # while it runs: the first one's content again
    wait_until(lambda: server.embed(TEXTS, model="model").tobytes() != second)
    assert server.embed(TEXTS, model="model").tobytes() == first
    assert count(server, "disk_hit") == len(TEXTS)


@pytest.mark.process
def test_servers_find_on_the_disk_what_was_computed_before_a_kill(launch_patient, cache_dir, models):
    flags = ("-m", models / "encoder.gguf", "--cache-disk", "16M")
    one, other = launch_patient(*flags), launch_patient(*flags)
    n_before = n_stored(cache_dir)
    first = one.embed(TEXTS).tobytes()
    wait_until(lambda: n_stored(cache_dir) == n_before + len(TEXTS))
    assert other.embed(TEXTS).tobytes() == first
    assert [count(other, outcome) for outcome in ("disk_hit", "miss")] == [len(TEXTS), 0]
    for server in (one, other):
        server.end(signal.SIGKILL)
    again = launch_patient(*flags)
    assert again.embed(TEXTS).tobytes() == first
    assert [count(again, outcome) for outcome in ("disk_hit", "miss")] == [len(TEXTS), 0]


def test_the_disk_usually_answers_in_the_time_that_a_request_waits_for_it(launch, models):
    flags = ("-m", models / "encoder.gguf", "--cache-disk", "16M")
    texts = [f"the cat {number}" for number in range(50)]
    one = launch(*flags)
    computed = [one.embed(text).tobytes() for text in texts]
    one.end(signal.SIGTERM)  # it writes what waits
    other = launch(*flags)
    assert [other.embed(text).tobytes() for text in texts] == computed
    assert count(other, "disk_hit") > len(texts) / 2


def test_each_key_finds_its_own_only(launch, models):
    server = launch("-m", models / "encoder.gguf", "--api-key", "one,other", *FLAGS)
    for key, n_hits in (("one", 0), ("other", 0), ("one", 1), ("other", 2)):
        assert server.post("/v1/embeddings", {"input": "red"}, X_Api_Key=key).status == 200
        metrics = server.get("/metrics", **{"X-Api-Key": key}).body.decode()
        assert (f'texts_total{{outcome="hit"}} {n_hits}.0' in metrics) == (n_hits > 0)


def test_equal_requests_at_once_are_computed_once(launch, models):
    server = launch("-m", models / "encoder.gguf", *FLAGS)
    with ThreadPoolExecutor(32) as clients:
        rows = list(clients.map(lambda n: server.embed(TEXTS).tobytes(), range(64)))
    assert len(set(rows)) == 1
    assert count(server, "miss") == len(TEXTS)
    assert count(server, "hit") + count(server, "joined") == 63 * len(TEXTS)
