"""The use cases on the fake engine: order, repetitions, limits, truncation, what clients may ask of one request."""

import asyncio
import math
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.config import ModelConfig, PoolConfig
from gguf_embed.engines.fake import FakeScript
from gguf_embed.errors import InputTooLong, InvalidRequest, ModelNotFound, PermissionDenied, Unavailable
from gguf_embed.model_pool.pool import ModelPool
from gguf_embed.model_pool.registry import ModelRegistry, RegistryConfig
from gguf_embed.model_store.catalog import Catalog
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.model_store.store import ModelStore
from gguf_embed.output_cache.cache import OutputCache
from gguf_embed.service.service import EmbedService
from gguf_embed.types import EmbedRequest, LoadOptions, OutputSpec, Pooling, PromptChoice
from tests.model_pool.fake_models import LIMIT, FakeLoader


class Running:
    """The service and the one event loop that it lives on."""

    def __init__(self, service: EmbedService, loader: FakeLoader, runner: asyncio.Runner) -> None:
        self.service = service
        self.loader = loader
        self.run = runner.run

    def embed(self, *inputs, pooling=None, **fields):
        output = None if pooling is None else OutputSpec.of(pooling)
        return self.run(self.service.embed(EmbedRequest(tuple(inputs), output=output, **fields)))

    @property
    def batches(self):
        return [batch for engine in self.loader.engines for batch in engine.batches]


@contextmanager
def serving(models, *names, pooling=Pooling.MEAN, script=None, prompts=None, folder=None, **config):
    """Models of these names (default: one, "encoder"), all of one tiny file, run by the fake engine."""
    strict, cache_bytes = config.pop("strict_name", False), config.pop("cache_bytes", None)
    base = ModelConfig(pooling=pooling, **config)
    loader = FakeLoader(script or FakeScript(pooling=pooling, n_cls_out=1), pooling=pooling)
    named = tuple((LocatedModel(models / "reranker.gguf", name), base) for name in names or ("encoder",))
    store = ModelStore(Path("/nonexistent"), folder)
    with asyncio.Runner() as runner:
        registry = ModelRegistry(RegistryConfig(named, base, prompts or {}, strict), store, Catalog(()))
        pool = ModelPool(loader, PoolConfig(keep_alive_s=math.inf), loader.metrics)
        cache = None if cache_bytes is None else OutputCache(cache_bytes, loader.metrics)
        service = EmbedService(registry, pool, store, loader.metrics, cache)
        try:
            yield Running(service, loader, runner)
        finally:
            runner.run(service.close())


def test_rows_come_in_the_order_of_the_inputs_and_unit_length(models):
    with serving(models) as running:
        together = running.embed("one", "two", "three")
        alone = [running.embed(text).output.matrix[0] for text in ("one", "two", "three")]
    np.testing.assert_allclose(together.output.matrix, alone, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together.output.matrix, axis=1), 1.0, rtol=1e-6)
    assert together.output.offsets == (0, 1, 2, 3)


def test_equal_inputs_are_computed_once_and_counted_as_sent(models):
    with serving(models) as running:
        result = running.embed("same", "other", "same")
    assert sum(len(batch.texts) for batch in running.batches) == 2
    np.testing.assert_array_equal(result.output.matrix[0], result.output.matrix[2])
    assert result.usage.prompt_tokens == 2 * len(running.batches[0].texts[0]) + len("other") + 2
    assert b"gguf_embed_duplicate_texts_total 1.0" in running.loader.metrics.render()


def test_a_text_that_is_too_long_is_named_with_its_length_and_the_limit(models):
    with serving(models) as running, pytest.raises(InputTooLong) as caught:
        running.embed("short", "x" * 40)
    assert (caught.value.index, caught.value.n_tokens, caught.value.limit) == (1, 42, LIMIT)


@pytest.mark.parametrize(("server", "request_says"), [(False, True), (True, None)])
def test_truncation_is_visible_and_keeps_the_closing_token(models, server, request_says):
    with serving(models, truncate=server) as running:
        result = running.embed("short", "x" * 40, truncate=request_says)
    (cut,) = result.truncated
    assert (cut.index, cut.n_tokens, cut.n_kept, cut.n_dropped) == (1, 42, LIMIT, 26)
    longest = max((text for batch in running.batches for text in batch.texts), key=len)
    assert longest[-1] == running.loader.engines[0].codec.vocabulary().eos_id


def test_a_request_may_refuse_the_servers_truncation(models):
    with serving(models, truncate=True) as running, pytest.raises(InputTooLong):
        running.embed("x" * 40, truncate=False)


def test_token_rows_are_one_per_token_and_never_normalized(models):
    with serving(models) as running:
        result = running.embed("ab", "c", pooling=Pooling.NONE, embd_normalize=2)
    assert result.output.offsets == (0, 4, 7)
    assert result.output.matrix.shape == (7, 8)
    assert not np.allclose(np.linalg.norm(result.output.matrix, axis=1), 1.0)


@pytest.mark.parametrize("dimensions", [0, -1, 9])
def test_dimensions_beyond_the_model_are_refused(models, dimensions):
    with serving(models) as running, pytest.raises(InvalidRequest, match=rf"{dimensions}\b.*\b8\b") as caught:
        running.embed("text", dimensions=dimensions)
    assert caught.value.param == "dimensions"


def test_dimensions_cut_and_renormalize(models):
    with serving(models) as running:
        whole, cut = running.embed("text").output.matrix[0], running.embed("text", dimensions=3).output.matrix[0]
    np.testing.assert_allclose(cut, whole[:3] / np.linalg.norm(whole[:3]), rtol=1e-5)


def test_a_model_with_a_rank_head_gives_scores_and_vectors(models):
    for served, asked, width in [(Pooling.MEAN, Pooling.RANK, 1), (Pooling.RANK, Pooling.MEAN, 8)]:
        with serving(models, pooling=served) as running:
            assert running.embed("text", pooling=asked).output.matrix.shape == (1, width)
            with pytest.raises(InvalidRequest, match=rf"\b9\b.*\b{width}\b"):
                running.embed("text", pooling=asked, dimensions=9)


def test_one_model_answers_to_any_name_unless_names_are_strict(models):
    with serving(models) as running:
        assert running.service.resolve("anything").info.name == "encoder"
        with pytest.raises(ModelNotFound, match=r"'anything'.*'encoder'"):
            running.service.resolve("anything", strict=True)
    with serving(models, strict_name=True) as running:
        for name in (None, "encoder", "ENCODER:latest"):
            assert running.service.resolve(name).info.name == "encoder"
        with pytest.raises(ModelNotFound, match=r"'wrong'.*'encoder'"):
            running.service.resolve("wrong")


def test_several_models_are_never_mixed_up(models):
    with serving(models, "one", "two") as running:
        assert running.embed("text", model="two").model.name == "two"
        assert running.embed("text").model.name == "one"  # the first that was named
        assert running.loader.loads == ["two", "one"]
        with pytest.raises(ModelNotFound, match=r"'three'.*'one', 'two'"):
            running.embed("text", model="three")


def test_only_strict_requests_refuse_unknown_names_of_a_single_model(models):
    with serving(models) as running:
        assert running.embed("text", model="gpt-4").model.name == "encoder"
        with pytest.raises(ModelNotFound):
            running.embed("text", model="gpt-4", strict_name=True)


def test_a_prefix_is_added_when_asked_for_and_counted(models):
    with serving(models, prompts={"query": "q: "}) as running:
        asked = running.embed("text", prompt=PromptChoice("query"))
        by_hand = running.embed("q: text")
        plain = running.embed("text")
    np.testing.assert_array_equal(asked.output.matrix, by_hand.output.matrix)
    assert asked.usage.prompt_tokens == plain.usage.prompt_tokens + len("q: ")
    assert (asked.prompt.name, asked.prompt.text) == ("query", "q: ")
    assert plain.prompt is None


@pytest.mark.parametrize(("n_ctx", "kept"), [(8, 8), (400, LIMIT)])
def test_a_request_may_shorten_its_texts_further(models, n_ctx, kept):
    with serving(models, n_ctx=LIMIT) as running:
        result = running.embed("x" * 40, truncate=True, load=LoadOptions(n_ctx=n_ctx))
    assert result.truncated[0].n_kept == kept


def test_a_limit_that_leaves_no_room_for_a_text_is_refused(models):
    with serving(models) as running, pytest.raises(InvalidRequest, match=r"\b2 tokens.*\b1\b") as caught:
        running.embed("x", load=LoadOptions(n_ctx=1))
    assert caught.value.param == "options"


def test_a_model_that_was_not_pulled_is_not_deleted(models):
    with serving(models) as running, pytest.raises(PermissionDenied, match="'encoder'"):
        running.run(running.service.delete("encoder"))


def test_looking_at_models_loads_none(models):
    with serving(models, "one", "two") as running:
        assert [(status.info.name, status.state) for status in running.service.models()] == [
            ("one", "unloaded"),
            ("two", "unloaded"),
        ]
        assert running.service.state().status == "ok"
        assert running.loader.loads == []


def test_load_and_unload_by_name(models):
    with serving(models, "one", "two") as running:
        assert running.run(running.service.load("two")) > 0
        assert running.service.resolve("two").state == "loaded"
        running.run(running.service.unload("two"))
        assert running.service.resolve("two").state == "unloaded"


def test_too_many_token_rows_are_refused_before_they_are_computed(models, monkeypatch):
    monkeypatch.setattr("gguf_embed.service.embed_checks.MAX_TOKEN_ROW_BYTES", 100)
    with serving(models) as running, pytest.raises(InvalidRequest, match=r"bytes.*\b100\b"):
        running.embed("abcdef", pooling=Pooling.NONE)
    assert not running.batches


def test_a_dead_worker_shows_in_the_state(models):
    with serving(models, script=FakeScript(deadly=frozenset({ord("!")}))) as running:
        with pytest.raises(Unavailable, match="SystemExit"):
            running.embed("!")
        assert running.service.state().status == "failed"
        assert "restart" in running.service.state().detail


def test_unknown_ids_are_an_invalid_request(models):
    with serving(models) as running:
        service, run = running.service, running.run
        assert run(service.token_pieces([ord("a")], model=None)) == [b"a"]
        assert run(service.detokenize([], model=None)) == ""
        with pytest.raises(InvalidRequest, match=r"token id 258\b") as caught:
            run(service.token_pieces([258], model=None))
        assert caught.value.param == "tokens"
        with pytest.raises(InvalidRequest, match=r"token id -1\b"):
            run(service.detokenize([97, -1], model=None))
