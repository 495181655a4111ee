"""No input makes a 500: a table of bad bodies per route, and every odd body on every route."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from gguf_embed.server.app import DIALECTS as ALL_DIALECTS
from gguf_embed.server.context import Dialect
from gguf_embed.server.dialects.cohere.dialect import COHERE
from gguf_embed.server.dialects.ollama.dialect import OLLAMA
from gguf_embed.server.dialects.ollama.version import refuse
from gguf_embed.server.dialects.openai.dialect import OPENAI
from gguf_embed.server.dialects.tei.dialect import TEI
from gguf_embed.server.dialects.vllm.dialect import VLLM
from tests.server.fake_service import serving
from tests.server.routes import with_model

DIALECTS = {
    route.path: dialect
    for dialect in ALL_DIALECTS
    for route in dialect.routes
    if route.method == "POST" and route.handler is not refuse
}
POSTS = list(DIALECTS)

MALFORMED = (
    b"",
    b" ",
    b"{",
    b"}",
    b"[]",
    b"null",
    b"true",
    b"1",
    b'"text"',
    b"input=a",
    b'{"input": "a",}',
    b'{"input": "\xff\xfe"}',
    b'{"input": NaN}',
    b'{"input"' + b":[" * 2000,
    b"[" * 100_000,
    b"{}",
    b"\x00",
    b'{"input": "\\x"}',
    b'{"input": "a\nb"}',
)
BAD_PROMPTS = (
    None,
    [],
    [[]],
    ["a", []],
    0,
    1.5,
    True,
    False,
    {},
    {"a": 1},
    {"prompt_string": None},
    [None],
    ["a", None],
    [True, False],
    [1, True],
    [1.5],
    [1, 2.5],
    [-1],
    [2**31],
    [2**63],
    [2**70],
    [[1], [-2]],
    [[1], ["a", "b"]],
    [[[1]]],
    [{}],
    [["a", None]],
    [1, [2]],
    [1, {"prompt_string": "a"}],
    ["a"] * 2049,
    "a" * 200,
    [7] * 17,
)
BAD_CUTTING: tuple[dict[str, object], ...] = (
    *({name: bad} for name in ("truncate", "truncation", "auto_truncate") for bad in ("middle", 1, "", [], {})),
    *({name: bad} for name in ("truncation_direction", "truncation_side") for bad in ("up", 1, True)),
    *({"truncate_prompt_tokens": bad} for bad in (0, 2, -2, 1.5, True, "3")),
    *({"max_tokens": bad} for bad in (0, 2, -1, "8", 1.5)),
    {"truncate": False, "truncate_prompt_tokens": 8},
    {"truncate": True, "truncation": False},
    {"truncate": "START", "truncation_direction": "Right"},
    {"truncate_prompt_tokens": 8, "max_tokens": 9},
)
"""Wrong on every route that embeds or ranks texts."""

BAD_FIELDS = (
    {"dimensions": 0},
    {"dimensions": -1},
    {"dimensions": 1.5},
    {"dimensions": True},
    {"dimensions": "4"},
    {"dimensions": 9},
    {"dimensions": 2**80},
    *BAD_CUTTING,
    {"truncate_dim": 0},
    {"dimensions": 4, "output_dimensionality": 5},
    {"texts": "b"},
    {"normalize": "no"},
    {"normalize": True, "normalized": False},
    {"messages": [{"role": "user", "content": "a"}]},
    {"instruction": "find"},
    {"add_special_tokens": False},
    {"return_sparse": "yes"},
    {"pool_factor": 2},
    {"return_multivector": True, "pool_factor": 0},
    {"return_multivector": True, "pool_factor": 65},
    {"output": ["sparse"], "pool_factor": 2},
    {"muvera": True},
    {"output": ["sparse"], "muvera": {}},
    {"return_multivector": True, "muvera": 5},
    {"return_multivector": True, "muvera": {"k_sim": 11}},
    {"return_multivector": True, "muvera": {"r_reps": 0}},
    {"return_multivector": True, "muvera": {"dim": 96}},
    {"return_multivector": True, "muvera": True, "output_dtype": "int8"},
    {"return_multivector": True, "pooling": "mean"},
    {"output": ["dense", "other"]},
    {"output": ["dense"], "return_sparse": True},
    {"model": 1},
    {"model": ["tiny"]},
    {"pooling": "max"},
    {"pooling": "rank"},
    {"pooling": 1},
    {"embd_normalize": -2},
    {"embd_normalize": True},
    {"embd_normalize": "2"},
    {"embd_normalize": 2.5},
    {"embd_normalize": 2**40},
)
OUTPUT_TYPE_FIELDS = ("output_dtype", "embedding_types", "embedding_type", "embed_dtype")
BAD_OPENAI_FIELDS = (
    *BAD_FIELDS,
    {"encoding_format": "int8"},
    {"encoding_format": 1},
    {"encoding_format": ["float"]},
    {"user": 1},
    {"embd_normalize": -1},
    *({name: bad} for name in OUTPUT_TYPE_FIELDS for bad in ("", "int4", 1, True, [], {}, [None], [["int8"]])),
    {"output_dtype": "int8", "embedding_types": ["uint8"]},
    {"output_dtype": "int8", "encoding_format": "int8"},
    {"output_dimension": 0},
    {"output_dimension": "4"},
    {"pooling": "none"},
)
BAD_TEI_FIELDS = (
    *({"dimensions": bad} for bad in (0, -1, 1.5, True, "4", 9, 2**80)),
    *BAD_CUTTING,
    {"pooling": "cls"},
    {"input": "b"},
    {"return_sparse": True},
    *({"normalize": bad} for bad in ("yes", 1)),
    *({"prompt_name": bad} for bad in (1, "", [])),
    {"model": 1},
)
BAD_COHERE_FIELDS = (
    *({"embedding_types": bad} for bad in ("int4", 1, [], {}, [None])),
    *({"output_dimension": bad} for bad in (0, -1, 1.5, True, "4", 9, 2**80)),
    *BAD_CUTTING,
    {"pooling": "cls"},
    {"input": ["b"]},
    {"instruct": "find"},
    *({"input_type": bad} for bad in (1, "", [])),
    {"model": 1},
)
BAD_DOCUMENTS = (None, [], "a", 1, True, {}, [None], [1], [True], [1.5], [[]], [["a"]], ["a", None], ["a"] * 2049)
BAD_RERANK_FIELDS = (
    *BAD_CUTTING,
    {"texts": ["b"]},
    {"max_chunks_per_doc": 2},
    {"pooling": "mean"},
    {"use_prompts": True},
    {"method": "embedding", "label": 0},
    {"method": "embedding", "raw_scores": False},
    {"on_error": "skip"},
    {"documents": None, "passages": [{"text": "a", "image": "data:image/png;base64,AA"}]},
    {"documents": None, "passages": [{"image": "data:image/png;base64,AA"}]},
)
BAD_QUERIES = (None, 1, 1.5, True, [], ["a"], {}, {"text": 1}, {"text": "a", "image": "data:image/png;base64,AA"})
BAD_TOKENIZE = (
    {"content": None},
    {"content": 1},
    {"content": {}},
    {"content": [None]},
    {"content": [[1]]},
    {"content": [1.5]},
    {"content": [True]},
    {"content": [-1]},
    {"content": [2**31]},
    {"content": "a", "add_special": 1},
    {"content": "a", "parse_special": "no"},
    {"content": "a", "with_pieces": []},
    {"content": [300], "with_pieces": True},
)
BAD_DETOKENIZE = (
    {"tokens": None},
    {"tokens": "1"},
    {"tokens": 1},
    {"tokens": ["a"]},
    {"tokens": [1, "a"]},
    {"tokens": [None]},
    {"tokens": [True]},
    {"tokens": [1.5]},
    {"tokens": [-1]},
    {"tokens": [2**70]},
    {"tokens": [[1]]},
    {"tokens": [300]},
)


NOT_A_NAME = (1, 1.5, True, [], ["a"], {}, {"a": 1})
NOT_A_DURATION = ("", "5", "10", "1x", "m", "five minutes", True, [], {}, "9" * 30 + "h")

BAD_OLLAMA_FIELDS: tuple[dict[str, object], ...] = (
    *({"model": bad} for bad in (*NOT_A_NAME, None, "", "unknown")),
    *({"keep_alive": bad} for bad in NOT_A_DURATION),
    *({"options": bad} for bad in ("a", 1, True, ["num_ctx"])),
    *({"options": {name: bad}} for name in ("num_ctx", "num_gpu") for bad in ("1", 1.5, True, [], -2, 2**40)),
    {"options": {"num_ctx": 0}},
    {"options": {"num_thread": -1}},
    {"options": {"num_batch": "big"}},
    *BAD_CUTTING,
    {"pooling": "cls"},
    {"texts": "b"},
    {"normalize": False},
    {"return_sparse": True},
)
BAD_OLLAMA_EMBED = (
    *({"input": bad} for bad in (1, True, {}, [1], [1, 2], [[1]], ["a", 1], ["a", None], [["a"]], ["a"] * 2049)),
    *({"dimensions": bad} for bad in ("8", 1.5, True, [])),
    *BAD_OLLAMA_FIELDS,
)


BAD_BATCH_FIELDS = (
    *({name: bad} for name in ("input_file_id", "endpoint", "completion_window") for bad in (None, 1, [], {})),
    {"input_file_id": "../key"},
    {"completion_window": ""},
    {"completion_window": "-24h"},
    {"completion_window": "721h"},
    *({"metadata": bad} for bad in (1, [], "a", {"a": 1}, {"a": None})),
    *({"output_expires_after": bad} for bad in (1, [], {}, {"anchor": "created_at"}, {"seconds": 3600})),
)


def dump(body: object) -> bytes:
    """JSON of anything, numbers beyond 64 bits included."""
    return json.dumps(body).encode()


def table() -> list[tuple[str, bytes]]:
    """(path, body) of every bad request."""
    rows: list[tuple[str, bytes]] = []
    for path, fields in (
        ("/v1/embeddings", BAD_OPENAI_FIELDS),
        ("/embedding", BAD_FIELDS),
        ("/embeddings", BAD_FIELDS),
    ):
        rows += [(path, dump({name: bad})) for name in ("input", "content") for bad in BAD_PROMPTS]
        rows += [(path, dump({"input": "a", **bad})) for bad in fields]
    rows += [("/tokenize", dump(bad)) for bad in BAD_TOKENIZE]
    rows += [("/detokenize", dump(bad)) for bad in BAD_DETOKENIZE]
    text = {"model": "tiny", "input": "a"}
    rows += [("/api/embed", dump(text | bad)) for bad in BAD_OLLAMA_EMBED]
    rows += [("/api/embeddings", dump({"model": "tiny", "prompt": "a", **bad})) for bad in BAD_OLLAMA_FIELDS]
    rows += [("/api/embeddings", dump({"model": "tiny", "prompt": bad})) for bad in NOT_A_NAME]
    for path in ("/api/show", "/api/pull"):
        rows += [(path, dump({name: bad})) for name in ("model", "name") for bad in (*NOT_A_NAME, "", None)]
    rows += [("/api/pull", dump({"model": "tiny", "stream": bad})) for bad in NOT_A_NAME if bad is not True]
    rows += [
        ("/api/copy", dump({"source": "tiny", "destination": "b", name: bad}))
        for name in ("source", "destination")
        for bad in (*NOT_A_NAME, "", None)
    ]
    rows += [*bad_tei(), *bad_cohere(), *bad_vllm(), *bad_voyage(), *bad_images()]
    batch = {"input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h"}
    rows += [("/v1/batches", dump(batch | bad)) for bad in BAD_BATCH_FIELDS]
    rows += [(AZURE, dump({"input": "a", **bad})) for bad in BAD_OPENAI_FIELDS if "model" not in bad]
    return rows + [(path, body) for path in POSTS for body in MALFORMED]


def bad_tei() -> Iterator[tuple[str, bytes]]:
    for path in ("/embed", "/embed_all", "/embed_sparse", "/"):
        yield from ((path, dump({"inputs": bad, "truncate": False})) for bad in BAD_PROMPTS)
        yield from ((path, dump({"inputs": "a", **bad})) for bad in BAD_TEI_FIELDS)
    for bad in BAD_PROMPTS:
        yield "/similarity", dump({"inputs": {"source_sentence": "a", "sentences": bad}})
    for field in ({"truncate": 1}, {"truncation_direction": "up"}, {"prompt_name": 1}):
        yield "/similarity", dump({"inputs": {"source_sentence": "a", "sentences": ["a"]}, "parameters": field})
    for body in BAD_DETOKENIZE:
        if body["tokens"] != [[1]]:
            yield "/decode", dump({"ids": body["tokens"]})
            yield "/decode", dump({"ids": [[7], body["tokens"]]})


def bad_cohere() -> Iterator[tuple[str, bytes]]:
    """And rerank in all its shapes."""
    for path in ("/v2/embed", "/v1/embed"):
        yield from ((path, dump({name: bad})) for name in ("texts", "inputs") for bad in BAD_PROMPTS)
        yield from ((path, dump({"texts": ["a"], **bad})) for bad in BAD_COHERE_FIELDS)
    for path in ("/rerank", "/reranking", "/v1/rerank", "/v1/reranking", "/v1/ranking", "/v2/rerank"):
        yield from ((path, dump({"query": "a", "documents": bad})) for bad in BAD_DOCUMENTS)
        yield from ((path, dump({"query": bad, "documents": ["a"]})) for bad in BAD_QUERIES)
        yield from ((path, dump({"query": "a", "documents": ["a"], **bad})) for bad in BAD_RERANK_FIELDS)


NOT_JSON = ("/v1/files", "/v1/batches/{batch_id}/cancel")
"""A form, and a body that is ignored: tests/batch has their faults."""

BAD_TEXTS = (None, [], {}, 1, True, 1.5, [None], [1], ["a", 1], [["a"]], [[]], [{}])
BAD_SHARED_FIELDS = (
    *BAD_CUTTING,
    *({"raw_scores": bad} for bad in ("yes", 1, [])),
    {"raw_scores": True, "use_activation": True},
    *({"model": bad} for bad in (1, [], {})),
    {"messages": [{"role": "user", "content": "a"}]},
    {"return_sparse": True},
    {"on_error": "skip"},
)


def bad_vllm() -> Iterator[tuple[str, bytes]]:
    """And TEI's /predict, which takes the same fields."""
    for path in ("/score", "/v1/score"):
        for name, other in (("queries", "documents"), ("text_1", "text_2"), ("data_1", "items")):
            yield from ((path, dump({other: "a", name: bad})) for bad in BAD_TEXTS)
        yield path, dump({"queries": ["a", "b"], "documents": ["a", "b", "c"]})
        yield path, dump({"queries": "a", "documents": ["a"] * 2049})
        bad_fields = (*BAD_SHARED_FIELDS, {"instruction": 1}, {"max_tokens_per_doc": 0})
        yield from ((path, dump({"queries": "a", "documents": "b", **bad})) for bad in bad_fields)
    yield from (("/classify", dump({"input": bad})) for bad in BAD_TEXTS)
    yield "/classify", dump({"input": ["a"] * 2049})
    yield from (("/classify", dump({"input": "a", **bad})) for bad in BAD_SHARED_FIELDS)
    yield from (("/pooling", dump({"input": bad})) for bad in (None, [], {}, 1.5, True, [None], ["a", 1]))
    bad_tasks = ({"task": "plugin"}, {"task": 1}, {"pooling": "mean"}, {"dimensions": 0}, {"normalize": "no"})
    yield from (
        ("/pooling", dump({"input": "a", **bad}))
        for bad in (*BAD_CUTTING, *bad_tasks, {"model": 1}, {"model": []}, {"return_sparse": True})
    )
    yield from (
        ("/predict", dump({"inputs": bad}))
        for bad in (None, [], {}, 1, True, [None], [1], ["a", 1], ["a", "b", "c"], [["a", "b", "c"]], [[]])
    )
    yield from (("/predict", dump({"inputs": "a", **bad})) for bad in BAD_SHARED_FIELDS)


def bad_voyage() -> Iterator[tuple[str, bytes]]:
    path = "/v1/contextualizedembeddings"
    for bad in (None, [], "a", 1, {}, ["a"], [[]], [[1]], [["a", ""]], [["a"], None], [["a"]] * 2049, [["a"] * 10_001]):
        yield path, dump({"inputs": bad})
    bad_fields = (
        {"enable_auto_chunking": True},
        {"output_dtype": "int4"},
        {"encoding_format": "int8"},
        {"spans": [[0, 1]]},
    )
    yield from (
        (path, dump({"inputs": [["a"]], **bad})) for bad in (*BAD_CUTTING, *bad_fields, {"model": 1}, {"dimensions": 0})
    )


def bad_images() -> Iterator[tuple[str, bytes]]:
    """Shapes of images, on a model that reads none: what is wrong with them is said first, if it is no image."""
    voyage, text = "/v1/multimodalembeddings", {"type": "text", "text": "a"}
    yield from ((voyage, dump({"inputs": bad})) for bad in (None, [], {}, "a", 1, ["a"], [[]], [None], [{}], [text]))
    parts: tuple[object, ...] = (None, [], {}, "a", [None], ["a"], [{}], [{"type": "text"}], [text, {"type": "smell"}])
    yield from ((voyage, dump({"inputs": [{"content": bad}]})) for bad in parts)
    fields = ({"output_encoding": "int8"}, {"output_encoding": 1}, {"output_dimension": 0}, {"model": 1}, *BAD_CUTTING)
    yield from ((voyage, dump({"inputs": [{"content": [text]}], **bad})) for bad in fields)
    messages = ("a", [], {}, [None], [{}], [{"role": "user"}], [{"role": "system", "content": "a"}])
    yield from (("/v1/embeddings", dump({"messages": bad})) for bad in messages)
    yield from (
        ("/v1/embeddings", dump({"messages": [{"role": "user", "content": bad}]})) for bad in parts if bad != "a"
    )
    yield from (("/v1/embeddings", dump({"input": ["a"], "modality": bad})) for bad in ("smell", 1, [], ""))
    yield from (("/v1/embeddings", dump({"input": [{"text": bad}]})) for bad in (1, [], {}, True))


AZURE = next(path for path in POSTS if path.startswith("/openai/deployments/"))


def dialect_of(path: str, body: bytes) -> Dialect:
    """That of the route; on /embeddings, a body with a model and an input is OpenAI's."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        given = {}
    is_openai = isinstance(given, dict) and None not in (given.get("model"), given.get("input"))
    return OPENAI if path == "/embeddings" and is_openai and given.get("content") is None else DIALECTS[path]


def check_shape(dialect: Dialect, reply) -> None:
    """The error is in this dialect."""
    if dialect in (OLLAMA, TEI, COHERE):
        key = "message" if dialect is COHERE else "error"
        assert reply.json[key]
        assert isinstance(reply.json[key], str)
        assert set(reply.json) == ({"error", "error_type"} if dialect is TEI else {key})
        return
    error = reply.json["error"]
    assert error["message"]
    assert isinstance(error["type"], str)
    if dialect in (OPENAI, VLLM):
        assert isinstance(error["code"], str)
        assert "param" in error
    else:
        assert error["code"] == reply.status


def test_every_bad_body_is_a_4xx_in_the_routes_dialect(tmp_path):
    async def scenario():
        async with serving(batches=tmp_path) as running:
            for path, body in table():
                reply = await running.post(with_model(path), body)
                assert 400 <= reply.status < 500, (path, body[:200], reply)
                check_shape(dialect_of(path, body), reply)

    asyncio.run(scenario())


def test_the_table_is_not_small():
    rows = table()
    for post in POSTS:
        assert post in NOT_JSON or sum(path == post for path, _ in rows) >= 30


ODD_VALUES = (*BAD_PROMPTS, "a", ["a"], [1], [[1]], "\x00", "\u202e", {"prompt_string": "a"}, {"content": []})
ODD_BODIES = tuple(
    dump({**base, name: value})
    for names, bases in (
        (
            (
                *("input", "content", "tokens", "pooling", "dimensions", "model", "truncate", "encoding_format"),
                *("prompt", "options", "keep_alive", "stream", "output_dtype"),
            ),
            ({}, {"input": "a", "content": "a", "tokens": [97]}, {"model": "tiny", "input": "a", "prompt": "a"}),
        ),
        (
            ("inputs", "texts", "ids", "query", "documents", "parameters", "normalize"),
            ({"inputs": "a", "texts": ["a"], "ids": [97], "query": "a", "documents": ["a"]},),
        ),
    )
    for value in ODD_VALUES
    for name in names
    for base in bases
)


@pytest.mark.parametrize("path", POSTS)
def test_no_odd_body_makes_a_500(tmp_path, path):
    async def scenario():
        async with serving(batches=tmp_path) as running:
            for body in ODD_BODIES:
                reply = await running.post(with_model(path), body)
                expected = (200, 400, 404, 413, 422, 424) if DIALECTS[path] is TEI else (200, 400, 404, 501)
                assert reply.status in expected, (body[:200], reply)
                assert reply.json is not None or path == "/api/pull"  # lines of JSON
                if reply.status != 200:
                    check_shape(dialect_of(path, body), reply)

    asyncio.run(scenario())
