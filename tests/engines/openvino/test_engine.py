"""Contexts of the OpenVINO engine: sizes, kinds of output, several at once, and failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gguf_embed.engines.base import ContextSpec, KeepsBuffers
from gguf_embed.engines.openvino import build, runtime
from gguf_embed.engines.openvino import engine as openvino_engine
from gguf_embed.engines.openvino.build import COSTS, ModelBuilder
from gguf_embed.engines.openvino.driver import open_codec
from gguf_embed.engines.openvino.engine import OpenVinoContext, OpenVinoEngine
from gguf_embed.errors import EngineFailure, ModelFileError, NotSupported
from gguf_embed.types import TOKENS, OutputSpec, Pooling
from tests.engines.openvino.graph_models import reference, write_gguf
from tests.engines.openvino.running import load_spec, open_graph
from tests.gguf_models import CLS, SEP, TINY_VOCABULARY, write_tiny_decoder, write_tiny_encoder

CLOSE = 1e-5
TEXTS = [[CLS, 5, 6, 7, SEP], [CLS, 8, SEP], [CLS, 9, 10, 11, SEP]]  # computed in one part
UNEVEN = [[CLS, *[5 + number % 90 for number in range(length)], SEP] for length in (1, 60, 2, 30, 1, 58, 0, 31, 3)]
N_VOCAB = len(TINY_VOCABULARY)
PICK = {
    Pooling.MEAN: lambda rows: rows.mean(axis=0),
    Pooling.CLS: lambda rows: rows[0],
    Pooling.LAST: lambda rows: rows[-1],
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Iterator[OpenVinoEngine]:
    path = write_tiny_encoder(tmp_path_factory.mktemp("openvino") / "encoder.gguf")
    with open_graph(path, Pooling.MEAN) as graph:
        yield graph.loaded.engine


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> Iterator[OpenVinoEngine]:
    path = write_tiny_decoder(tmp_path_factory.mktemp("openvino") / "decoder.gguf")
    with open_graph(path, Pooling.LAST) as graph:
        yield graph.loaded.engine


@pytest.fixture(scope="module")
def reranker(tmp_path_factory) -> Iterator[OpenVinoEngine]:
    path = write_gguf("bert_reranker", tmp_path_factory.mktemp("openvino") / "reranker.gguf")
    with open_graph(path, Pooling.RANK) as graph:
        yield graph.loaded.engine


@pytest.fixture(params=["encoder", "decoder"])
def engine(request) -> OpenVinoEngine:
    return request.getfixturevalue(request.param)


def context_of(
    engine: OpenVinoEngine, pooling: Pooling = Pooling.MEAN, max_tokens: int = 1000, max_sequences: int = 256
) -> closing[OpenVinoContext]:
    return closing(engine.open_context(ContextSpec(OutputSpec.of(pooling), max_tokens, max_sequences)))


def embed(engine: OpenVinoEngine, texts: Sequence[Sequence[int]], pooling: Pooling = Pooling.MEAN) -> np.ndarray:
    with context_of(engine, pooling) as context:
        return context.embed(texts, 1).matrix


@pytest.mark.parametrize("pooling", PICK)
def test_pooled_rows_agree_with_the_token_rows(engine, pooling):
    with context_of(engine, Pooling.NONE) as context:
        output = context.embed(UNEVEN, 1)
    assert (output.kind, output.matrix.shape) == (TOKENS, (sum(map(len, UNEVEN)), 32))
    parts = [output.part(number).matrix for number in range(len(UNEVEN))]
    assert [len(part) for part in parts] == [len(text) for text in UNEVEN]
    pooled = embed(engine, UNEVEN, pooling)
    assert (pooled.dtype, pooled.shape) == (np.float32, (len(UNEVEN), 32))
    np.testing.assert_allclose(pooled, np.stack([PICK[pooling](part) for part in parts]), atol=CLOSE)


@pytest.mark.parametrize("pooling", [*PICK, Pooling.NONE])
def test_texts_of_different_lengths_equal_themselves_alone_in_the_order_given(engine, pooling):
    assert len(openvino_engine.split_by_length([len(text) for text in UNEVEN], COSTS["f32"])) > 1
    alone = np.concatenate([embed(engine, [text], pooling) for text in UNEVEN])
    np.testing.assert_allclose(embed(engine, UNEVEN, pooling), alone, rtol=1e-5, atol=CLOSE)


def test_a_batch_in_parts_equals_one_in_a_single_part(engine, monkeypatch):
    parts = embed(engine, UNEVEN)
    monkeypatch.setattr(openvino_engine, "split_by_length", lambda lengths, _: [list(range(len(lengths)))])
    np.testing.assert_allclose(embed(engine, UNEVEN), parts, atol=CLOSE)


def test_as_many_texts_as_a_context_takes(engine):
    rows = embed(engine, [TEXTS[1]] * 256)
    np.testing.assert_allclose(rows, np.repeat(embed(engine, [TEXTS[1]]), 256, axis=0), atol=CLOSE)


def test_a_text_may_have_one_token(engine):
    np.testing.assert_allclose(embed(engine, [[7]]), embed(engine, [[7]], Pooling.NONE), atol=CLOSE)


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.NONE])
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], UNEVEN], ids=["three", "one", "in parts"])
def test_rows_stay_as_they_are_after_the_next_batch_and_after_closing(encoder, pooling, texts):
    with context_of(encoder, pooling) as context:
        rows = context.embed(texts, 1).matrix
        kept = rows.copy()
        again = context.embed([[text[0], *text[:0:-1]] for text in texts], 1).matrix
        assert not np.array_equal(again, kept)
        np.testing.assert_array_equal(rows, kept)
    np.testing.assert_array_equal(rows, kept)


def test_contexts_of_one_model_run_at_the_same_time(engine):
    def repeat(_thread: int) -> list[np.ndarray]:
        with context_of(engine) as context:
            return [context.embed(UNEVEN, 1).matrix for _ in range(20)]

    expected = embed(engine, UNEVEN)
    with ThreadPoolExecutor(2) as threads:
        for rows in [rows for repeated in threads.map(repeat, range(2)) for rows in repeated]:
            np.testing.assert_allclose(rows, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        ([], "0 texts in a context for 4"),
        ([[CLS]] * 5, "5 texts in a context for 4"),
        ([[]], "without tokens"),
        ([[CLS, SEP], []], "without tokens"),
        ([[CLS] * 50, [CLS] * 51], "101 tokens, the longest text 51: this context takes 100"),
        ([[CLS] * 65], "the longest text 65.*the model 64"),
        ([[CLS, N_VOCAB, SEP]], rf"outside 0\.\.{N_VOCAB - 1}"),
        ([[CLS], [2**40]], "outside 0"),
        ([[CLS, -1, SEP]], "outside 0"),
    ],
)
def test_sizes_and_ids_are_checked_before_anything_is_computed(encoder, batch, reason, monkeypatch):
    with context_of(encoder, max_tokens=100, max_sequences=4) as context:
        with monkeypatch.context() as patched:
            patched.setattr(context, "_run", None)
            with pytest.raises(EngineFailure, match=reason):
                context.embed(batch, 1)
        assert len(context.embed(TEXTS, 1)) == 3


def test_a_closed_context_or_engine_refuses_work(tmp_path):
    with open_graph(write_tiny_encoder(tmp_path / "m.gguf"), Pooling.MEAN) as graph:
        context = graph.loaded.engine.open_context(ContextSpec(graph.output, 100, 4))
        for _ in range(2):
            context.close()
        with pytest.raises(EngineFailure, match="this context is closed"):
            context.embed(TEXTS, 1)
        for _ in range(2):
            graph.loaded.engine.close()
        with pytest.raises(EngineFailure, match="this engine is closed"):
            graph.loaded.engine.open_context(ContextSpec(graph.output, 100, 4))


def test_output_that_the_model_does_not_have_is_refused(encoder):
    with pytest.raises(ModelFileError, match="no rank head"):
        context_of(encoder, Pooling.RANK)
    with pytest.raises(NotSupported, match="does not compute sparse output"):
        encoder.open_context(ContextSpec(OutputSpec("sparse"), 100, 4))


OPENVINO_ERROR = """Exception from src/inference/src/cpp/infer_request.cpp:223:
Exception from src/plugins/intel_cpu/src/node.cpp:588:

Check '!negative' failed at src/core/shape.cpp:1:
[CPU] MatMul node with name 'MatMul_7' cannot allocate 4096 bytes
"""


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (OPENVINO_ERROR, "Check '!negative'; [CPU] MatMul node with name 'MatMul_7' cannot allocate 4096 bytes"),
        ("out of memory", "out of memory"),
        ("", "no reason given"),
        ("Exception from src/a.cpp:1:\n", "no reason given"),
    ],
)
def test_a_failed_batch_is_an_error_and_the_context_works_afterwards(encoder, monkeypatch, message, reason):
    class Failing:
        def set_input_tensor(self, *_: object) -> None:
            pass

        def infer(self, **_: object) -> None:
            raise RuntimeError(message)

    expected = embed(encoder, TEXTS)
    with context_of(encoder) as context:
        with monkeypatch.context() as patched:
            patched.setattr(context, "_requests", {id(context._compiled.shared): Failing()})
            with pytest.raises(EngineFailure) as caught:
                context.embed(TEXTS, 1)
        assert caught.value.message == f"OpenVINO refused a batch of 3 texts: {reason}"
        np.testing.assert_allclose(context.embed(TEXTS, 1).matrix, expected, atol=1e-6)


def test_a_batch_that_has_all_threads_runs_in_a_graph_of_its_own(tmp_path):
    spec = load_spec(write_tiny_encoder(tmp_path / "m.gguf"), Pooling.MEAN)
    builder = ModelBuilder(spec, open_codec(spec).codec)
    with closing(builder.compile("f32", 2, alone=True)) as engine, context_of(engine) as context:
        shared, alone = (context.embed(TEXTS, n_threads).matrix for n_threads in (1, 2))
        np.testing.assert_allclose(shared, alone, atol=1e-6)
        assert len(context._requests) == 2
    with closing(builder.compile("f32", 1, alone=True)) as engine:
        assert engine._compiled.alone is engine._compiled.shared


@pytest.mark.parametrize(
    ("n_threads", "n_streams", "alone_threads", "expected"),
    [
        (2, 1, None, {2: (1, 2)}),
        (4, 1, 2, {2: (1, 2), 4: (1, 4)}),
        (4, 2, None, {2: (2, 4), 4: (1, 4)}),
        (4, 2, 1, {2: (2, 4), 1: (1, 1)}),
        (4, 2, 3, {2: (2, 4), 3: (1, 3)}),
        (4, 2, 2, {2: (2, 4)}),
    ],
)
def test_a_batch_alone_has_the_configured_threads(tmp_path, monkeypatch, n_threads, n_streams, alone_threads, expected):
    """`expected`: by the threads that the scheduler gives a batch, the graph's streams and threads."""
    made: dict[int, tuple[int, int]] = {}

    def compile_graph(model: object, precision: str, n_streams: int, n_threads: int) -> Any:
        graph = runtime.compile_graph(model, precision, n_streams, n_threads)
        made[id(graph)] = n_streams, n_threads
        return graph

    monkeypatch.setattr(build, "compile_graph", compile_graph)
    spec = load_spec(write_tiny_encoder(tmp_path / "m.gguf"), Pooling.MEAN)
    compute = replace(spec.config.compute, n_threads=n_threads, alone_threads=alone_threads)
    spec = replace(spec, config=replace(spec.config, compute=compute))
    engine = ModelBuilder(spec, open_codec(spec).codec).compile("f32", n_streams, alone=True)
    for given, graph in expected.items():
        with context_of(engine) as context:
            context.embed(TEXTS, given)
            assert [made[key] for key in context._requests] == [graph]
    engine.close()
    assert len(made) == len(expected)


def test_a_batch_that_cannot_be_prepared_is_an_engine_failure(encoder, monkeypatch):
    class Broken:
        def create_infer_request(self) -> None:
            raise RuntimeError("Exception from src/x.cpp:1:\nno memory")

    monkeypatch.setattr(encoder, "_compiled", replace(encoder._compiled, shared=Broken(), alone=Broken()))
    with context_of(encoder) as context, pytest.raises(EngineFailure, match=r"cannot prepare a batch: no memory$"):
        context.embed(TEXTS, 1)


def test_a_kernel_that_cannot_be_named_has_no_name(encoder, monkeypatch):
    def fail(graph: object) -> str:
        raise RuntimeError("no such fact")

    monkeypatch.setattr(openvino_engine, "kernel_name", fail)
    assert encoder.kernel_name() == ""


def test_openvinos_own_refusal_is_an_engine_failure(encoder, monkeypatch):
    with context_of(encoder) as context:
        with monkeypatch.context() as patched:
            patched.setattr(openvino_engine.Packing, "rows", lambda *_: np.zeros((16, 31), np.float32))
            with pytest.raises(EngineFailure, match="refused a batch of 3 texts") as caught:
                context.embed(TEXTS, 1)
        assert "\n" not in caught.value.message
        np.testing.assert_allclose(context.embed(TEXTS, 1).matrix, embed(encoder, TEXTS), atol=1e-6)


def typed(ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]], n_vocab: int) -> list[list[int]]:
    """Ids of the second text + n_vocab."""
    pairs = zip(ids, types, strict=True)
    return [[token + n_vocab * kind for token, kind in zip(*pair, strict=True)] for pair in pairs]


def test_scores_with_the_second_texts_token_type(reranker):
    stored = reference("bert_reranker")
    assert reranker.info.has_second_text
    found = embed(reranker, typed(stored.ids, stored.types, reranker.info.n_vocab), Pooling.RANK)
    np.testing.assert_allclose(found, stored.expected_with_types, rtol=0, atol=1e-4)
    assert np.abs(found - embed(reranker, stored.ids, Pooling.RANK)).max() > 1e-3


def test_the_second_token_type_exists_for_scores_only(reranker):
    n_vocab = reranker.info.n_vocab
    for pooling, n_ids in ((Pooling.RANK, 2 * n_vocab), (Pooling.MEAN, n_vocab)):
        embed(reranker, [[n_ids - 1]], pooling)
        with pytest.raises(EngineFailure, match=rf"outside 0\.\.{n_ids - 1}"):
            embed(reranker, [[n_ids]], pooling)


def test_a_reranker_gives_vectors_too(reranker):
    ids = reference("bert_reranker").ids
    rows = embed(reranker, ids, Pooling.MEAN)
    assert rows.shape == (len(ids), reranker.info.n_embd)
    assert embed(reranker, ids, Pooling.RANK).shape == (len(ids), reranker.info.n_cls_out)


def test_the_facts_of_a_model(encoder, decoder, reranker):
    assert (encoder.info.n_embd, encoder.info.n_vocab, encoder.info.n_ctx_train) == (32, N_VOCAB, 64)
    assert (encoder.info.causal, decoder.info.causal, reranker.info.causal) == (False, True, False)
    assert (encoder.info.n_cls_out, reranker.info.n_cls_out) == (0, 1)
    assert (encoder.info.pooling, decoder.info.pooling) == (Pooling.MEAN, Pooling.LAST)
    assert (encoder.info.bos_token, encoder.info.eos_token) == ("[CLS]", "[SEP]")
    assert encoder.info.architecture == "bert"


def test_freeing_buffers_changes_no_vectors(encoder):
    with context_of(encoder) as context:
        before = context.embed(UNEVEN, 1).matrix
        assert isinstance(context, KeepsBuffers)
        context.release_buffers()
        np.testing.assert_array_equal(context.embed(UNEVEN, 1).matrix, before)


def test_freeing_buffers_does_not_harm_another_context_s_batch(encoder):
    with context_of(encoder) as context, context_of(encoder) as other, ThreadPoolExecutor(1) as thread:
        before = context.embed(UNEVEN, 1).matrix
        busy = thread.submit(lambda: [other.embed(UNEVEN, 1).matrix for _ in range(200)])
        while not busy.done():
            context.release_buffers()
        for found in busy.result():
            np.testing.assert_array_equal(found, before)
