"""Ollama's request bodies: what each field becomes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gguf_embed.errors import InputTooLong, InvalidRequest, ModelLoadFailed, ModelNotFound, Overloaded, PullFailed
from gguf_embed.server.dialects.ollama.embed import legacy_normalize, parse_embed, parse_embeddings
from gguf_embed.server.dialects.ollama.errors import ERRORS
from gguf_embed.server.dialects.ollama.model_names import with_tag
from gguf_embed.server.dialects.ollama.models import format_parameter_size
from gguf_embed.server.dialects.ollama.options import parse_keep_alive, parse_load_options
from gguf_embed.server.dialects.ollama.version import plain_version
from gguf_embed.server.http.errors import format_error
from gguf_embed.server.http.same_site import is_local_host, is_own_page
from gguf_embed.types import NO_LOAD_OPTIONS, EmbedRequest, LoadOptions, PromptChoice
from tests.server.fake_service import MODEL


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0.0),
        (-0.0, 0.0),
        ("0", 0.0),
        ("0s", 0.0),
        (30, 30.0),
        (1.5, 1.5),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("300ms", 0.3),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("+2s", 2.0),
        ("1µs", 1e-6),
        (-1, math.inf),
        (-0.5, math.inf),
        ("-1", math.inf),
        ("-1s", math.inf),
        ("-5m", math.inf),
        (1e300, math.inf),
        (2**60, math.inf),
    ],
)
def test_keep_alive_is_seconds_or_a_go_duration_and_negative_means_forever(value, seconds):
    found = parse_keep_alive(value)
    assert found == (seconds if seconds is None else pytest.approx(seconds, rel=1e-12))


@pytest.mark.parametrize(
    "value", ["", "10", "-10", "5 m", "5M", "m", "1h30", "5d", "forever", True, False, [], {}, [1]]
)
def test_any_other_keep_alive_is_refused_by_name(value):
    with pytest.raises(InvalidRequest, match=r'^"keep_alive" must be') as caught:
        parse_keep_alive(value)
    assert caught.value.param == "keep_alive"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, LoadOptions()),
        ({}, LoadOptions()),
        ({"num_ctx": None, "temperature": 0.8, "stop": ["a"], "use_mmap": True, "nonsense": {}}, LoadOptions()),
        ({"num_ctx": 512}, LoadOptions(n_ctx=512)),
        ({"num_ctx": 512.0}, LoadOptions(n_ctx=512)),
        ({"num_ctx": 1}, LoadOptions(n_ctx=4)),
        ({"num_thread": 0, "num_batch": 0}, LoadOptions()),
        ({"num_thread": 3, "num_batch": 256}, LoadOptions(n_threads=3, batch_tokens=256)),
        ({"num_gpu": -1}, LoadOptions(n_gpu_layers=-1)),
        ({"num_gpu": 0}, LoadOptions(n_gpu_layers=0)),
        ({"num_gpu": 99}, LoadOptions(n_gpu_layers=99)),
    ],
)
def test_load_options_are_read_and_others_ignored(options, expected):
    found = parse_load_options(options)
    assert found == expected
    assert (found is NO_LOAD_OPTIONS) == (expected == NO_LOAD_OPTIONS)  # the service compares with `is`


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_ctx": 0}, "num_ctx"),
        ({"num_ctx": -1}, "num_ctx"),
        ({"num_ctx": "512"}, "num_ctx"),
        ({"num_ctx": 512.5}, "num_ctx"),
        ({"num_ctx": True}, "num_ctx"),
        ({"num_ctx": 2**31}, "num_ctx"),
        ({"num_thread": -1}, "num_thread"),
        ({"num_batch": []}, "num_batch"),
        ({"num_gpu": -2}, "num_gpu"),
        (["num_ctx"], "options"),
        ("num_ctx", "options"),
    ],
)
def test_a_wrong_option_is_refused_by_name(options, named):
    with pytest.raises(InvalidRequest, match=f'"{named}"'):
        parse_load_options(options)


BASE = EmbedRequest((), model="tiny", embd_normalize=2, truncate=True, strict_name=True)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {}),
        ({"input": None}, {}),
        ({"input": ""}, {}),
        ({"input": []}, {}),
        ({"input": "a"}, {"inputs": ("a",)}),
        ({"input": ["a", ""]}, {"inputs": ("a", "")}),
        ({"input": [""]}, {"inputs": ("",)}),
        ({"input": "a", "truncate": None}, {"inputs": ("a",)}),
        ({"input": "a", "truncate": False}, {"inputs": ("a",), "truncate": False}),
        ({"input": "a", "dimensions": 4}, {"inputs": ("a",), "dimensions": 4}),
        ({"input": "a", "dimensions": 0}, {"inputs": ("a",)}),
        ({"input": "a", "dimensions": -4}, {"inputs": ("a",)}),
        ({"input": "a", "keep_alive": "1m"}, {"inputs": ("a",), "keep_alive_s": 60.0}),
        ({"input": "a", "options": {"num_ctx": 8}}, {"inputs": ("a",), "load": LoadOptions(n_ctx=8)}),
        ({"input": "a", "num_ctx": 8}, {"inputs": ("a",)}),
        ({"input": "a", "prompt": "b: "}, {"inputs": ("a",), "prompt": PromptChoice(text="b: ", param="prompt")}),
        ({"input": "a", "input_type": "query"}, {"inputs": ("a",), "prompt": PromptChoice("query")}),
    ],
)
def test_an_embed_body_is_read(body, expected):
    parsed = parse_embed({"model": "tiny", **body}, 10)
    assert (parsed.name, parsed.as_prompt) == ("tiny", False)
    assert parsed.request == replace(BASE, **expected)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"prompt": "a"}, {"inputs": ("a",)}),
        ({"prompt": ["a", "b"]}, {"inputs": ("a", "b")}),
        ({"prompt": "a", "num_ctx": 8, "temperature": 1}, {"inputs": ("a",), "load": LoadOptions(n_ctx=8)}),
        (
            {"prompt": "a", "num_ctx": 8, "num_thread": 2, "options": {"num_ctx": 9}},
            {"inputs": ("a",), "load": LoadOptions(n_ctx=9, n_threads=2)},
        ),
        ({"prompt": "a", "input_type": "query"}, {"inputs": ("a",), "prompt": PromptChoice("query")}),
        ({"prompt": "a", "input": "a"}, {"inputs": ("a",)}),
        ({"prompt": "a", "input": ["a"]}, {"inputs": ("a",)}),
        ({"prompt": "", "input": ""}, {}),
    ],
)
def test_prompt_without_another_input_is_the_text_and_options_may_be_top_level_fields(body, expected):
    parsed = parse_embed({"model": "tiny", **body}, 10)
    assert parsed.as_prompt
    assert parsed.request == replace(BASE, **expected)


@pytest.mark.parametrize("given", [[1, 2], [[1, 2]], ["a", 1], 5, True, {"text": "a"}, [["a"]]])
def test_anything_but_texts_is_an_invalid_input_type(given):
    with pytest.raises(InvalidRequest, match=r"^invalid input type: "):
        parse_embed({"model": "tiny", "input": given}, 10)


def test_the_number_of_texts_has_a_limit():
    with pytest.raises(InvalidRequest, match=r"\b11 entries.*\b10\b"):
        parse_embed({"model": "tiny", "input": ["a"] * 11}, 10)


def test_a_body_without_a_model_is_a_404_on_one_route_and_a_400_on_the_other():
    for body in ({"input": "a"}, {"input": "a", "model": ""}, {"input": "a", "model": None}):
        with pytest.raises(ModelNotFound):
            parse_embed(body, 10)
        with pytest.raises(InvalidRequest, match=r"^model is required"):
            parse_embeddings(body)


def test_the_older_endpoint_reads_one_prompt():
    request = replace(BASE, embd_normalize=None)
    assert parse_embeddings({"model": "tiny"}).request == request
    assert parse_embeddings({"model": "tiny", "prompt": ""}).request == request
    for body in ({"input": "b"}, {"input": ["b"]}, {"input": "b", "prompt": ""}, {"input": "b", "prompt": "b"}):
        assert parse_embeddings({"model": "tiny", **body}).request == replace(request, inputs=("b",))
    for body in ({"input": ["a", "b"]}, {"input": 7}, {"input": "a", "prompt": "b"}, {"texts": ["a", "b"]}):
        with pytest.raises(InvalidRequest, match=r'"input"|"texts"'):
            parse_embeddings({"model": "tiny", **body})
    assert parse_embeddings({"model": "tiny", "prompt": "a"}).request == replace(request, inputs=("a",))
    with pytest.raises(InvalidRequest, match=r'^"prompt" must be a string'):
        parse_embeddings({"model": "tiny", "prompt": ["a"]})


@pytest.mark.parametrize(
    ("architecture", "vocab_type", "normalize"),
    [
        ("bert", 3, 2),  # all-minilm, mxbai-embed-large
        ("bert", 4, -1),  # bge-m3
        ("bert", 2, -1),
        ("nomic-bert", 3, -1),
        ("nomic-bert-moe", 4, -1),
        ("gemma-embedding", 1, 2),
        ("qwen3", 2, 2),
        ("modern-bert", 2, 2),
    ],
)
def test_the_older_endpoint_normalizes_what_ollama_did(architecture, vocab_type, normalize):
    assert legacy_normalize(replace(MODEL, architecture=architecture, vocab_type=vocab_type)) == normalize


@pytest.mark.parametrize(
    ("n_params", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1_500, "2K"),
        (22_565_376, "22.57M"),
        (137_000_000, "137M"),
        (566_700_000, "566.70M"),
        (1_000_000_000, "1B"),
        (7_615_616_512, "7.6B"),
    ],
)
def test_parameter_sizes_are_written_as_ollamas(n_params, text):
    assert format_parameter_size(n_params) == text


@pytest.mark.parametrize(
    ("name", "tagged"),
    [
        ("all-minilm", "all-minilm:latest"),
        ("all-minilm:22m", "all-minilm:22m"),
        ("hf.co/org/repo", "hf.co/org/repo:latest"),
        ("hf.co/org/repo:Q8_0", "hf.co/org/repo:Q8_0"),
        ("host:5000/org/repo", "host:5000/org/repo:latest"),
    ],
)
def test_names_are_listed_with_their_tag(name, tagged):
    assert with_tag(name) == tagged


@pytest.mark.parametrize(
    ("version", "plain"),
    [("0.1.0", "0.1.0"), ("1.2.3.dev4+local", "1.2.3"), ("2.0rc1", "2.0.0"), ("3", "3.0.0"), ("unknown", "0.0.0")],
)
def test_a_version_is_three_numbers(version, plain):
    assert plain_version(version) == plain


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("", True),
        ("localhost", True),
        ("LOCALHOST:11434", True),
        ("127.0.0.1:8080", True),
        ("[::1]:8080", True),
        ("0.0.0.0", True),
        ("192.168.1.5:8080", True),
        ("box:8080", True),
        ("ollama.localhost", True),
        ("nas.local", True),
        ("host.docker.internal:11434", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("8.8.8.8", False),
        ("[::1", False),
    ],
)
def test_which_hosts_are_this_machine(host, is_local):
    assert is_local_host(host, own_name="Box") == is_local


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        ("http://localhost:3000", True),
        ("https://127.0.0.1", True),
        ("http://[::1]:3000", True),
        ("http://nas.example:8080", True),
        ("https://nas.example", True),
        ("chrome-extension://abcdef", True),
        ("app://obsidian.md", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("null", False),
        ("", False),
        ("http://[", False),
    ],
)
def test_which_pages_may_use_the_server(origin, may):
    assert is_own_page(origin, "nas.example:11434") == may


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            InputTooLong(3, 700, 512),
            400,
            "the input length exceeds the context length: input 3 is too large (700 tokens, ",
        ),
        (Overloaded("12 wait", 7), 503, "server busy, please try again.  maximum pending requests exceeded: 12 wait"),
        (ModelNotFound("model 'x' not found"), 404, "model 'x' not found"),
        (ModelLoadFailed("x cannot be loaded"), 500, "x cannot be loaded"),
        (PullFailed("no room"), 500, "no room"),
    ],
)
def test_errors_have_ollamas_shape_status_and_words(error, status, message):
    reply = format_error(error, ERRORS)
    assert reply.status == status
    assert reply.body.startswith(b'{"error":"' + message.encode())
    assert reply.headers.get("Retry-After") == ("7" if status == 503 else None)


@pytest.mark.parametrize(
    ("parse", "field"), [(lambda body: parse_embed(body, 9), "input"), (parse_embeddings, "prompt")]
)
@pytest.mark.parametrize(
    "name", ["output_dtype", "embedding_types", "spans", "return_tokens", "on_error", "late_chunking", "long_input"]
)
def test_fields_of_other_routes_are_refused_instead_of_ignored(parse, field, name):
    with pytest.raises(InvalidRequest, match=f'"{name}"') as caught:
        parse({"model": "m", field: "a", name: "skip"})
    assert caught.value.param == name
