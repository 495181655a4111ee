"""The same requests to both engines get the same answers: ids, usage, errors, truncation, rows, spans and scores.

Numbers may differ where llama.cpp itself differs from the original: in GELU, and in half floats of a decoder's memory.
By how much depends on the batches and threads that are measured at warm-up: up to 0.006 was seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("openvino", reason="OpenVINO has no package for this system")

from tests.reranker_models import write_reranker
from tests.server_process import Server, start_server, stop
from tests.test_exactness import row_cosines

TEXTS = ["hello world", "the cat sat on the mat", "é 中国 [SEP] x", "red"]
LONG = "the cat sat on the red mat " * 20
TOLERANCE = 1e-2
PASSING = re.compile("id|created|model|.*_ms|took|.*duration")
"""Keys whose values belong to one answer."""

EMBED = [
    {"input": TEXTS},
    {"input": "hello", "encoding_format": "base64"},
    {"input": TEXTS, "dimensions": 8},
    {"input": [5, 6, 7]},
    {"input": [[5, 6, 7], [8]]},
    {"input": [LONG, "hello"]},
    {"input": [LONG, "hello"], "truncate": True},
    {"input": [LONG], "long_input": "chunk_mean"},
    {"input": ["hello", ""], "on_error": "skip"},
    {"input": [""]},
    {"input": [[99999]]},
    {"input": TEXTS, "pooling": "none"},
    {"input": TEXTS, "pooling": "cls"},
    {"input": TEXTS, "pooling": "last"},
    {"input": TEXTS, "return_tokens": True},
    {"input": "the cat sat on the mat", "spans": [[0, 7], [8, 22]]},
    {"input": ["the cat", "sat on the mat"], "late_chunking": True},
    {"input": TEXTS, "pooling": "rank"},
    {"input": TEXTS, "output_dtype": "float", "embd_normalize": -1},
]
NATIVE = [
    {"content": TEXTS, "pooling": "none"},
    {"content": "hello world", "embd_normalize": -1},
    {"content": LONG},
]
TOKENS = [
    ("/tokenize", {"content": "é 中国 [SEP] cats ' s", "add_special": True, "with_pieces": True}),
    ("/tokenize", {"content": "a [SEP] b 한국어 " + "x" * 120, "parse_special": False}),
    ("/detokenize", {"tokens": [2, 6, 7, 3, 5, 9, 11]}),
    ("/detokenize", {"tokens": [123456]}),
]
RERANK = [
    {"query": "red cat", "documents": TEXTS},
    {"query": "red cat", "documents": [*TEXTS, LONG]},
    {"query": "red cat", "documents": [LONG], "truncate": True},
    {"query": "red cat", "texts": TEXTS, "raw_scores": True},
    {"query": "", "documents": TEXTS},
    {"query": "red cat", "documents": []},
]
REQUESTS = [
    *(("/v1/embeddings", body) for body in EMBED),
    *(("/embedding", body) for body in NATIVE),
    *TOKENS,
    *(("/v1/rerank", body) for body in RERANK),
]


@pytest.fixture(scope="module")
def servers(models, tmp_path_factory) -> Iterator[dict[str, Server]]:
    """One per engine, with the same models."""
    folder = tmp_path_factory.mktemp("agree")
    pairs = write_reranker("bert_reranker", folder)
    named = ("encoder", "decoder", "reranker")
    flags = [flag for name in named for flag in ("-m", f"{name}={models / f'{name}.gguf'}")]
    started: dict[str, Server] = {}
    try:
        for engine in ("llama", "openvino"):
            cache = tmp_path_factory.mktemp(engine)
            precision = ("--precision", "f32")
            started[engine] = start_server(cache, *flags, "-m", f"pairs={pairs}", "--engine", engine, *precision)
        yield started
    finally:
        for server in started.values():
            stop(server)


@pytest.mark.process
@pytest.mark.parametrize("model", ["encoder", "decoder", "reranker", "pairs"])
@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_both_engines_answer_alike(servers, model, path, body):
    one, two = (servers[name].post(path, {**body, "model": model}) for name in ("llama", "openvino"))
    assert one.status == two.status, (one.body, two.body)
    assert_alike(one.json(), two.json(), "reply")


@pytest.mark.process
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("model", ["encoder", "decoder"])
def test_each_text_has_the_same_vector(servers, model, pooling):
    """`tests/engines/test_cosines.py` does this for all architectures."""
    one, two = (servers[name].embed(TEXTS, model=model, pooling=pooling) for name in ("llama", "openvino"))
    assert row_cosines(one, two).min() >= 0.9999


@pytest.mark.process
def test_each_server_says_which_engine_it_runs(servers):
    for name, server in servers.items():
        server.post("/v1/embeddings", {"input": "hello", "model": "encoder"})
        props = server.get("/props?model=encoder").json()
        assert props["engine"] == name
        assert props["kernels"]
        assert props["tokenizer"] == "exact"


def assert_alike(one: Any, two: Any, where: str) -> None:
    """Equal but for small differences of numbers, and for what belongs to one answer."""
    assert type(one) is type(two), where
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            if not PASSING.fullmatch(key):
                assert_alike(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(two), where
        for number, (left, right) in enumerate(zip(one, two, strict=True)):
            assert_alike(left, right, f"{where}[{number}]")
    elif isinstance(one, float):
        assert one == pytest.approx(two, abs=TOLERANCE, rel=TOLERANCE), where
    elif not where.endswith(".embedding"):  # base64 is compared as numbers elsewhere
        assert one == two, where
