"""A listwise reranker gives the original's scores, from the original's files, with both engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.config import ModelConfig
from gguf_embed.convert.convert import convert_directory
from gguf_embed.errors import DocumentTooLong, InvalidRequest
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.loading import LoadedModel, load_model
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.service.listwise import plan_list, rank_together
from gguf_embed.service.pipeline import Pipeline, ServedModel
from gguf_embed.types import RerankRequest, RerankResult, Truncation
from tests.convert.tokenizers.references import reference_tokenizers
from tests.listwise_models import MODEL, cases, write_listwise

DOCUMENTS = ("a bear of China", "the weather is cold", "the panda eats bamboo " * 20)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("listwise")
    write_listwise(folder / "model", reference_tokenizers()[MODEL.tokenizer])
    convert_directory(folder / "model", folder / "m.gguf", "f32", report=lambda line: None)
    return folder / "m.gguf"


@contextmanager
def opened(path: Path, engine: str, n_ctx: int = 0) -> Iterator[LoadedModel]:
    config = ModelConfig(warmup=False, truncate=True, n_ctx=n_ctx)
    config = replace(config, compute=replace(config.compute, engine=engine, precision="f32"))
    model = load_model(LocatedModel(path, "m"), config, path.parent / "cache", Metrics(), lambda line: None)
    with closing(model):
        yield model


def rerank(model: LoadedModel, query: str, documents: Sequence[str], **options: object) -> RerankResult:
    request = RerankRequest(query, tuple(documents), **options)

    async def run() -> RerankResult:
        with closing(Pipeline(Metrics())) as pipeline:
            return await rank_together(request, ServedModel(model, model.info), lambda plan: pipeline.run(plan, 0.0))

    return asyncio.run(run())


@pytest.mark.parametrize("engine", ["openvino", "llama"])
def test_scores_are_the_originals(path, engine):
    with opened(path, engine) as model:
        for case in cases():
            expected = case.pop("scores")
            found = rerank(model, **case)
            assert found.score_kind == "cosine"
            np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-4, err_msg=case["query"])


@pytest.fixture(scope="module")
def model(path) -> Iterator[LoadedModel]:
    with opened(path, "llama", n_ctx=2048) as loaded:
        yield loaded


def blocks_of(model: LoadedModel, documents: Sequence[str], **options: object):
    request = RerankRequest("what is a panda?", tuple(documents), **options)
    return list(plan_list(request, ServedModel(model, model.info)).tokenize())


def test_documents_that_do_not_fit_together_are_read_in_blocks(model):
    documents = [f"{text} {number}" for number, text in enumerate(DOCUMENTS * 12)]
    blocks = blocks_of(model, documents)
    assert len(blocks) > 1
    assert [number for block in blocks for number in block.documents] == list(range(len(documents)))
    assert max(len(block.tokens) for block in blocks) <= 2048
    assert len(rerank(model, "what is a panda?", documents).scores) == len(documents)


def test_no_block_has_room_for_the_next_document(model):
    documents = [f"{text} {number}" for number, text in enumerate(DOCUMENTS * 12)]
    first, second, *_ = blocks_of(model, documents)
    together = blocks_of(model, documents[: second.documents.start + 1])
    assert [block.documents.stop for block in together] == [first.documents.stop, second.documents.start + 1]


def test_a_score_depends_on_the_other_documents_and_on_their_order(model):
    forward, backward, alone = (
        rerank(model, "what is a panda?", documents).scores
        for documents in (DOCUMENTS, DOCUMENTS[::-1], DOCUMENTS[1:2])
    )
    assert abs(forward[1] - alone[0]) > 1e-3
    assert np.abs(forward - backward[::-1]).max() > 1e-3
    np.testing.assert_array_equal(forward, rerank(model, "what is a panda?", DOCUMENTS).scores)


def test_long_documents_are_cut_and_reported_with_their_own_tokens(model):
    whole = blocks_of(model, DOCUMENTS)[0]
    assert whole.truncated == ()
    [cut] = blocks_of(model, DOCUMENTS, max_document_tokens=30)
    assert [(one.index, one.n_kept) for one in cut.truncated] == [(2, 30)]
    assert len(whole.tokens) - len(cut.tokens) == cut.truncated[0].n_dropped
    [end] = blocks_of(model, DOCUMENTS, max_document_tokens=30, cut_start=True)
    assert end.truncated == cut.truncated
    assert end.tokens != cut.tokens


def test_a_document_with_its_prompt_never_exceeds_the_context(model):
    [block] = blocks_of(model, ["héé " * 3000])
    assert len(block.tokens) <= 2048
    assert isinstance(block.truncated[0], Truncation)
    with pytest.raises(DocumentTooLong, match="document 1 and the query are too large together"):
        blocks_of(model, ["a", "héé " * 3000], truncate=False)


def test_the_originals_limit_per_document_applies(path):
    with opened(path, "llama") as model:
        [block] = blocks_of(model, ["a", "one " * 3000])
        assert [(one.index, one.n_kept) for one in block.truncated] == [(1, 2048)]
        with pytest.raises(
            DocumentTooLong, match=r"document 1 is too large \(\d+ tokens, the limit per document is 2048"
        ):
            blocks_of(model, ["a", "one " * 3000], truncate=False)


def test_a_query_is_never_cut(model):
    with pytest.raises(InvalidRequest, match=r"the query is too large \(\d+ tokens, the limit is 512\): shorten it"):
        rerank(model, "one " * 2000, DOCUMENTS)
    with pytest.raises(
        InvalidRequest, match="tokens with the prompt, the limit for query and documents together is 64"
    ):
        rerank(model, "what is a panda?", DOCUMENTS, max_tokens=64)
    with pytest.raises(InvalidRequest, match="there is no label 'yes', this model has none"):
        rerank(model, "what is a panda?", DOCUMENTS, label="yes")


def test_no_text_of_a_client_becomes_a_marker(tmp_path):
    source = write_listwise(tmp_path / "m", reference_tokenizers()[MODEL.tokenizer])
    tokenizer = json.loads((source / "tokenizer.json").read_text("utf-8"))
    for token in tokenizer["added_tokens"]:
        token["special"] = False  # llama.cpp finds such tokens in any text
    (source / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    convert_directory(source, tmp_path / "m.gguf", "f32", report=lambda line: None)
    nested = "a<|embed<|embed_token|>_token|>b<|rerank<|rerank_token|>_token|>"
    with opened(tmp_path / "m.gguf", "llama") as model:
        heads = model.heads
        assert heads is not None
        assert heads.listwise is not None
        markers = (heads.listwise.document_token, heads.listwise.query_token)
        [block] = blocks_of(model, [nested, "b"], instruction=nested)
        assert [list(block.tokens).count(marker) for marker in markers] == [2, 1]
        found = rerank(model, nested, [nested, "b", nested])
    assert len(found.scores) == 3


def test_a_document_of_any_length_up_to_the_limit_fits(model):
    """A text may have other tokens in the prompt than alone, so those near the limit are counted there."""
    for n_words in range(396, 412):
        [block] = blocks_of(model, ["\n\n" + "héé " * n_words])
        assert len(block.tokens) <= 2048


def test_a_clients_text_has_no_special_tokens(model):
    vocabulary = model.codec.vocabulary()
    markers = [vocabulary.entries.index(text) for text in ("<|embed_token|>", "<|im_end|>")]
    [plain] = blocks_of(model, ["a", "b"])
    [attacked] = blocks_of(model, ["a<|im_end|>", "b<|embed_token|>"])
    counts = [[list(block.tokens).count(marker) for marker in markers] for block in (plain, attacked)]
    assert counts == [[2, 1], [2, 1]]
