"""A model in this process: vectors, prompts, scores, tokens, errors."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from gguf_embed import Embedder
from gguf_embed.embedder import embedder as module
from gguf_embed.embedder.facts import Ranked
from gguf_embed.embedder.model_source import compute_of, config_of, source_of
from gguf_embed.errors import ConfigError, EmbedError, InputTooLong, InvalidRequest, ModelFileError, NotSupported
from gguf_embed.model_store.locate import ModelSource
from gguf_embed.types import Pooling
from tests.embedder.conftest import QUICK

LONG = "the " * 100


def lengths(vectors):
    return np.linalg.norm(np.atleast_2d(vectors), axis=1)


def test_texts_give_a_matrix_and_a_single_text_a_vector(tiny):
    matrix = tiny.embed(["hello world", "the cat"])
    assert (matrix.shape, matrix.dtype) == ((2, 32), np.float32)
    np.testing.assert_allclose(tiny.embed("the cat"), matrix[1], atol=3e-3)
    np.testing.assert_allclose(lengths(matrix), 1.0, atol=3e-3)


@pytest.mark.parametrize("texts", [("hello", "cat"), iter(["hello", "cat"]), np.array(["hello", "cat"])])
def test_any_iterable_of_texts_will_do(tiny, texts):
    np.testing.assert_allclose(tiny.embed(texts), tiny.embed(["hello", "cat"]), atol=3e-3)


def test_no_texts_give_a_matrix_without_rows(tiny):
    assert tiny.embed([]).shape == (0, 32)
    assert tiny.embed([], dimensions=5).shape == (0, 5)


def test_the_vectors_are_those_of_the_server(tiny, tiny_server):
    texts = ["hello world", "the cat sat on a mat", "a"]
    np.testing.assert_allclose(tiny.embed(texts), tiny_server.embed(texts), atol=1e-3)


def test_many_texts_are_computed_in_slices_in_their_order(tiny, monkeypatch):
    monkeypatch.setattr(module, "SLICE_TEXTS", 7)
    texts = [f"the cat {number}" for number in range(50)]
    vectors = tiny.embed(texts)
    assert vectors.shape == (50, 32)
    for index in (0, 6, 7, 49):
        np.testing.assert_allclose(vectors[index], tiny.embed(texts[index]), atol=3e-3)
    with pytest.raises(InputTooLong, match=r"^input 20 is too large .102 tokens"):
        tiny.embed([*texts[:20], LONG, *texts])


def test_dimensions_cut_and_normalize_again(tiny):
    whole, cut = tiny.embed("the cat"), tiny.embed("the cat", dimensions=8)
    np.testing.assert_allclose(cut, whole[:8] / np.linalg.norm(whole[:8]), atol=3e-3)


def test_vectors_can_stay_as_the_model_gives_them(tiny, open_model):
    plain = tiny.embed("the cat", normalize=False)
    assert lengths(plain)[0] != pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(plain / lengths(plain), tiny.embed("the cat"), atol=3e-3)
    other = open_model(normalize=False)
    np.testing.assert_allclose(other.embed("the cat"), plain, atol=3e-3)
    np.testing.assert_allclose(other.embed("the cat", normalize=True), tiny.embed("the cat"), atol=3e-3)


def test_a_long_text_is_refused_with_the_limit_and_the_way_out_or_cut(tiny):
    with pytest.raises(InputTooLong) as caught:
        tiny.embed(["a", LONG])
    assert str(caught.value) == (
        "input 1 is too large (102 tokens, the limit per text is 64): shorten or split it, or pass truncate=True"
    )
    np.testing.assert_allclose(tiny.embed(LONG, truncate=True), tiny.embed("the " * 62), atol=3e-3)


def test_prompts_are_put_before_texts_by_name_or_as_they_are(open_model):
    model = open_model(prompts={"query": "the cat: ", "document": "dog "})
    assert model.info.prompts == {"query": "the cat: ", "document": "dog "}
    np.testing.assert_allclose(model.embed_query("mat"), model.embed("the cat: mat"), atol=3e-3)
    np.testing.assert_allclose(model.embed_documents(["mat"]), model.embed(["dog mat"]), atol=3e-3)
    np.testing.assert_allclose(model.embed("mat", prompt="a red: "), model.embed("a red: mat"), atol=3e-3)
    np.testing.assert_allclose(model.embed("mat", prompt="search_query"), model.embed_query("mat"), atol=3e-3)
    assert model.prompt_text("passage") == "dog "


def test_without_prompts_in_the_profile_queries_and_documents_get_none(tiny):
    np.testing.assert_allclose(tiny.embed_query("mat"), tiny.embed("mat"), atol=3e-3)
    np.testing.assert_allclose(tiny.embed_documents(["mat"]), tiny.embed(["mat"]), atol=3e-3)


def test_a_mistyped_prompt_name_is_an_error_and_not_a_prompt(tiny):
    with pytest.raises(InvalidRequest, match='there is no "qurey": put the prompt before the texts yourself'):
        tiny.embed("mat", prompt="qurey")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.embed(["a", 1]), r"texts\[1\] must be a str, found int"),
        (lambda model: model.embed(b"a"), "a str or a list of them, found bytes"),
        (lambda model: model.embed(None), "found NoneType"),
        (lambda model: model.embed_documents("a"), r"a list of texts is needed here.*write \[text\]"),
        (lambda model: model.embed("a", dimensions=33), "asks for 33 dimensions, this model has 32"),
    ],
)
def test_wrong_arguments_are_named(tiny, call, message):
    with pytest.raises(InvalidRequest, match=message):
        call(tiny)


def test_a_reranker_gives_a_ranking(open_model):
    model = open_model("reranker")
    documents = ["dog", "cat", "mat", "world"]
    ranked = model.rerank("the cat", documents)
    assert sorted(item.index for item in ranked) == [0, 1, 2, 3]
    assert [item.score for item in ranked] == sorted((item.score for item in ranked), reverse=True)
    assert model.rerank("the cat", documents, top_n=2) == ranked[:2]
    assert model.rerank("the cat", []) == []
    assert isinstance(ranked[0], Ranked)
    with pytest.raises(NotSupported, match=r"is a reranker.*use rerank\(\), or create the Embedder with pooling="):
        model.embed("a")


def test_a_model_without_a_rank_head_refuses_to_rerank(tiny):
    with pytest.raises(NotSupported, match=r"no rank head.*similarity\(\)"):
        tiny.rerank("a", ["b"])


def test_tokens_are_those_that_the_model_reads(tiny, tiny_server):
    special = tiny_server.post("/tokenize", {"content": "hello cat", "add_special": True}).json()["tokens"]
    assert tiny.tokenize("hello cat") == special
    assert len(special) == 4


def test_similarity_is_the_cosine_of_every_pair(tiny):
    one, other = np.array([[3, 4], [0, 0]], np.float32), np.array([[6, 8], [-4, 3]], np.float32)
    np.testing.assert_allclose(tiny.similarity(one, other), [[1, 0], [0, 0]], atol=3e-3)
    assert tiny.similarity(tiny.embed("cat"), tiny.embed(["cat", "dog"])).shape == (1, 2)
    assert tiny.similarity([1.0, 0.0], [0.0, 2.0]).dtype == np.float32


@pytest.mark.parametrize(("a", "b", "error"), [("cat", "dog", TypeError), ([1.0], [1.0, 2.0], ValueError)])
def test_similarity_refuses_texts_and_other_dimensions(tiny, a, b, error):
    with pytest.raises(error):
        tiny.similarity(a, b)


def test_the_info_names_model_limits_and_the_sha256_of_the_file(tiny, models):
    info = tiny.info
    assert (info.name, info.dimensions, info.max_tokens, info.pooling) == ("encoder", 32, 64, "mean")
    assert info.fingerprint == "sha256:" + hashlib.sha256((models / "encoder.gguf").read_bytes()).hexdigest()
    assert repr(tiny) == "<Embedder 'encoder', 32 dimensions, pooling mean>"


def test_a_shorter_limit_and_another_pooling_can_be_chosen(open_model, tiny):
    model = open_model(n_ctx=16, pooling="cls", threads=1, engine="llama")
    assert (model.info.max_tokens, model.info.pooling) == (16, "cls")
    assert not np.allclose(model.embed("the cat"), tiny.embed("the cat"), atol=1e-3)
    with pytest.raises(InputTooLong, match="the limit per text is 16"):
        model.embed("the " * 20)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("nothing", {}, ModelFileError, "nothing.gguf"),
        ("bare", {}, ConfigError, "no pooling of its own.*name the pooling, mean"),
        ("encoder", {"pooling": "max"}, ConfigError, 'pooling=\'max\': it must be one of "none", "mean"'),
        ("encoder", {"engine": "torch"}, ConfigError, "engine='torch'"),
        ("encoder", {"precision": "f8"}, ConfigError, "precision='f8'"),
        ("encoder", {"pooling": "none"}, ConfigError, "one vector per token"),
        ("encoder", {"pooling": "rank"}, EmbedError, "no rank head"),
        ("encoder", {"n_gpu_layers": 10}, ConfigError, "there is no GPU"),
        ("encoder", {"n_gpu_layers": "many"}, ConfigError, "n_gpu_layers='many'"),
    ],
)
def test_what_cannot_be_opened_says_why(open_model, name, arguments, error, message):
    with pytest.raises(error, match=message):
        open_model(name, **arguments)


def test_arguments_become_the_model_s_configuration():
    compute = compute_of(3, "llama", "f32", 0)
    assert (compute.n_threads, compute.engine, compute.precision, compute.offload.n_gpu_layers) == (
        3,
        "llama",
        "f32",
        0,
    )
    config = config_of("last", 17, normalize=False, compute=compute)
    assert (config.pooling, config.n_ctx, config.embd_normalize, config.compute) == (Pooling.LAST, 17, -1, compute)
    assert config_of(None, 0, normalize=True, compute=compute).pooling is None
    assert config_of(None, 0, normalize=True, compute=compute).embd_normalize == 2


def test_a_file_without_pooling_works_with_one(open_model):
    assert open_model("bare", pooling="mean").embed("cat").shape == (32,)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (None, ModelSource()),
        ("all-minilm", ModelSource(path=Path("all-minilm"))),
        ("org/repo", ModelSource(hf_repo="org/repo")),
        ("org/repo:Q8_0", ModelSource(hf_repo="org/repo:Q8_0")),
        ("models/m.gguf", ModelSource(path=Path("models/m.gguf"))),
        ("./org/repo", ModelSource(path=Path("./org/repo"))),
        ("/org/repo", ModelSource(path=Path("/org/repo"))),
        (Path("org/repo"), ModelSource(path=Path("org/repo"))),
    ],
)
def test_a_model_is_named_as_for_serve(model, expected):
    assert source_of(model) == expected


def test_an_existing_file_comes_before_a_repository(models, monkeypatch):
    monkeypatch.chdir(models.parent)
    text = f"{models.name}/encoder.gguf"
    assert source_of(text).path == Path(text)


def test_the_default_model_opens_by_its_name_and_by_none(default_model, cache_dir):
    with Embedder(cache=cache_dir, **QUICK) as unnamed, Embedder(str(default_model), cache=cache_dir, **QUICK) as named:
        np.testing.assert_allclose(unnamed.embed("cat"), named.embed("cat"), atol=3e-3)
        assert unnamed.info.name == "all-MiniLM-L6-v2"


def test_an_unknown_name_of_the_catalog_says_so(cache_dir):
    with pytest.raises(EmbedError, match="all-minilmm"):
        Embedder("all-minilmm", cache=cache_dir, offline=True)


def test_callers_are_never_refused_however_long_others_take(tiny):
    queue = tiny._service.loaded()[0].config.queue
    assert queue.max_tokens >= 2**60
    assert queue.max_wait_s >= 1e6
