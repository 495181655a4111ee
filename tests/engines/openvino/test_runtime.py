"""How graphs are compiled: threads on processors, matrices that stay in float16, and marks that cannot be set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_embed.engines.base import ContextSpec
from gguf_embed.engines.cpu_count import n_in_affinity_mask
from gguf_embed.engines.openvino import precision, runtime, weights
from gguf_embed.engines.openvino.agreement import cosines
from gguf_embed.engines.openvino.build import ModelBuilder
from gguf_embed.engines.openvino.driver import open_codec
from gguf_embed.engines.openvino.engine import OpenVinoEngine
from gguf_embed.engines.openvino.network import build_network
from gguf_embed.engines.openvino.runtime import FULL, REDUCED, computes_bf16, pins_threads
from gguf_embed.engines.openvino.weights import GraphWeights
from gguf_embed.errors import EngineFailure
from gguf_embed.types import OutputSpec, Pooling
from tests.engines.openvino.graph_models import reference, write_gguf
from tests.engines.openvino.running import load_spec
from tests.gguf_models import CLS, SEP, write_tiny_encoder

TEXTS = [[CLS, 5, 6, 7, SEP], [CLS, 8, SEP]]


@pytest.mark.parametrize(
    ("n_streams", "n_threads", "n_usable", "pins"),
    [(1, 2, 2, True), (1, 16, 16, True), (2, 2, 2, False), (1, 2, 16, False), (1, 1, 1, False), (1, 4, 2, False)],
    ids=["both", "all", "two batches", "some of them", "one", "too many"],
)
def test_threads_stay_on_their_processors_if_one_batch_uses_all(n_streams, n_threads, n_usable, pins):
    assert pins_threads(n_streams, n_threads, n_usable) is pins


def compute(path: Path, precision: str) -> tuple[np.ndarray, Counter[str]]:
    """The vectors, and how many matrices are constants of each type in the compiled graph."""
    spec = load_spec(path, Pooling.MEAN)
    engine = ModelBuilder(spec, open_codec(spec).codec).compile(precision, 1)
    with closing(engine), closing(engine.open_context(ContextSpec(OutputSpec.of(Pooling.MEAN), 100, 8))) as context:
        vectors = context.embed(TEXTS, 1).matrix
        kinds: Counter[str] = Counter()
        for node in engine._compiled.shared.get_runtime_model().get_ops():
            facts = node.get_rt_info()
            shape = node.get_output_partial_shape(0)
            if facts["layerType"].astype(str) == "Const" and len(shape) == 2 and shape.to_shape()[0] > 1:
                kinds[facts["outputPrecisions"].astype(str)] += 1
        return vectors, kinds


@pytest.mark.skipif(not computes_bf16() or not weights.IS_X86, reason="this CPU keeps no float16")
def test_matrices_in_float16_stay_so_for_bf16_and_give_the_same_vectors(tmp_path, monkeypatch):
    path = write_tiny_encoder(tmp_path / "m.gguf", outtype="f16")
    vectors, kinds = compute(path, REDUCED)
    monkeypatch.setattr(weights, "keeps_float16", lambda name, tensor: False)
    unpacked, unpacked_kinds = compute(path, REDUCED)
    assert kinds["f16"] == unpacked_kinds["f32"] - kinds["f32"] > 0
    assert unpacked_kinds["f16"] == 0
    assert cosines(vectors, unpacked).min() > 0.99999  # equal where this was measured


def test_in_float32_matrices_are_float32(tmp_path):
    """OpenVINO's kernels for float16 ones are slower."""
    _, kinds = compute(write_tiny_encoder(tmp_path / "m.gguf", outtype="f16"), FULL)
    assert (kinds["f16"], kinds["f32"] > 0) == (0, True)


@pytest.mark.parametrize(("n_streams", "pinned"), [(1, n_in_affinity_mask() > 1), (2, False)])
def test_graphs_are_compiled_with_or_without_pinned_threads(tmp_path, n_streams, pinned):
    spec = load_spec(write_tiny_encoder(tmp_path / "m.gguf"), Pooling.MEAN)
    n_threads = n_in_affinity_mask()
    spec = replace(spec, config=replace(spec.config, compute=replace(spec.config.compute, n_threads=n_threads)))
    with closing(ModelBuilder(spec, open_codec(spec).codec).compile(FULL, n_streams)) as engine:
        assert engine._compiled.shared.get_property("ENABLE_CPU_PINNING") is pinned


def half_a_file(model: Any, xml: str, weights: str) -> None:
    runtime.serialize(model, xml, weights)
    Path(xml).write_bytes(Path(xml).read_bytes()[:1000])


def cannot_write(model: Any, xml: str, weights: str) -> None:
    raise RuntimeError("Exception from src/serialize.cpp:1:\nCan't open bin file")


def no_space(model: Any, xml: str, weights: str) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("serialize", [half_a_file, cannot_write, no_space])
def test_a_graph_that_cannot_be_marked_is_left_as_it_was(tmp_path, monkeypatch, serialize):
    stored = reference("bert")
    spec = load_spec(write_gguf("bert", tmp_path / "m.gguf", "f16"), Pooling.MEAN)
    n_vocab = len(open_codec(spec).codec.vocabulary().entries)
    network = build_network(GraphWeights(spec.header, for_bf16=True), n_vocab, rank_head=False)
    with monkeypatch.context() as patched:
        patched.setattr(precision, "serialize", serialize)
        with pytest.raises(EngineFailure, match="BF16 needs a folder for temporary files"):
            precision.keep_exact(network.model, network.marks)
    builder = ModelBuilder(spec, open_codec(spec).codec)
    monkeypatch.setattr(builder, "_networks", {"f32": network})
    with closing(builder.compile("f32", 1)) as engine:
        found = vectors_of(engine, stored.ids)
    with closing(ModelBuilder(spec, open_codec(spec).codec).compile("f32", 1)) as engine:
        assert cosines(found, vectors_of(engine, stored.ids)).min() > 0.999999


def vectors_of(engine: OpenVinoEngine, texts: Sequence[Sequence[int]]) -> np.ndarray:
    spec = ContextSpec(OutputSpec.of(Pooling.MEAN), sum(map(len, texts)), len(texts))
    with closing(engine.open_context(spec)) as context:
        return context.embed(texts, 1).matrix
