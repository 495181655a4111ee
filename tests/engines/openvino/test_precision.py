"""BF16: how near its vectors are to float32's, and which operations compute in it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.engines.base import ContextSpec
from gguf_embed.engines.openvino.agreement import cosines
from gguf_embed.engines.openvino.build import ModelBuilder
from gguf_embed.engines.openvino.driver import open_codec
from gguf_embed.engines.openvino.engine import OpenVinoEngine
from gguf_embed.engines.openvino.runtime import REDUCED, computes_bf16
from gguf_embed.types import OutputSpec, Pooling
from tests.engines.openvino.graph_models import MODELS, RUNNABLE, reference, write_gguf
from tests.engines.openvino.running import load_spec, nodes_of

pytestmark = pytest.mark.skipif(not computes_bf16(), reason="this CPU has no BF16 instructions")

ROOT = Path(__file__).parents[3]
TEXTS_FILE = ROOT / "tests" / "data" / "reference_texts.json"

LEAST_COSINES = {  # measured on AMX
    "bert": 0.99998,  # 0.999994
    "bert_fused_qkv": 0.99998,  # 0.999994
    "nomic_bert": 0.99995,  # 0.999988
    "modern_bert": 0.9999,  # 0.999972
    "jina_bert_v2": 0.999,  # 0.99951
    "jina_bert_v2_code": 0.9995,  # 0.99986
    "qwen2_last": 0.998,  # 0.99926
    "qwen3_embedding": 0.9995,  # 0.99981
    "gemma_embedding": 0.9999,  # 0.999972
}
"""Tiny random models are harsher than trained ones."""

MOST_OFF = {  # of the scores, relative for those over 1
    "bert_reranker": 0.01,  # 0.003
    "roberta_reranker": 0.02,  # 0.009
    "modern_bert_reranker": 0.01,  # 0.004
    "jina_bert_v2_rank": 0.06,  # 0.037
}


@dataclass
class Compiled:
    """One model in both precisions, and its builder."""

    builder: ModelBuilder
    full: OpenVinoEngine
    reduced: OpenVinoEngine


def compiled(path: Path, pooling: Pooling) -> Compiled:
    spec = load_spec(path, pooling)
    builder = ModelBuilder(spec, open_codec(spec).codec)
    return Compiled(builder, builder.compile("f32", 1), builder.compile("bf16", 1))


def rows(engine: OpenVinoEngine, texts: Sequence[Sequence[int]], pooling: Pooling) -> np.ndarray:
    spec = ContextSpec(OutputSpec.of(pooling), sum(map(len, texts)), len(texts))
    with closing(engine.open_context(spec)) as context:
        return context.embed(texts, 1).matrix


@pytest.mark.parametrize(("name", "least"), LEAST_COSINES.items())
def test_vectors_of_tiny_models_are_near_float32(tmp_path, name, least):
    stored = reference(name)
    model = compiled(write_gguf(name, tmp_path / "m.gguf"), stored.pooling)
    full, reduced = (rows(engine, stored.ids, stored.pooling) for engine in (model.full, model.reduced))
    near = cosines(full, reduced)
    assert near.min() >= least
    assert not np.array_equal(full, reduced)


@pytest.mark.parametrize(("name", "most"), MOST_OFF.items())
def test_scores_of_tiny_models_are_near_float32(tmp_path, name, most):
    stored = reference(name)
    model = compiled(write_gguf(name, tmp_path / "m.gguf"), stored.pooling)
    full, reduced = (rows(engine, stored.ids, stored.pooling) for engine in (model.full, model.reduced))
    off = np.abs(full - reduced) / np.maximum(1, np.abs(full))
    assert off.max() <= most


@pytest.fixture(scope="module")
def default(default_model) -> Iterator[Compiled]:
    model = compiled(default_model, Pooling.MEAN)
    yield model
    model.full.close()
    model.reduced.close()


@pytest.fixture(scope="module")
def default_ids(default_model) -> list[list[int]]:
    codec = open_codec(load_spec(default_model, Pooling.MEAN)).codec
    texts = [entry["text"] for entry in json.loads(TEXTS_FILE.read_text("utf-8"))]
    return [codec.tokenize(text, add_special=True, parse_special=True)[:512] for text in texts]


def test_vectors_of_the_default_model_are_near_float32(default, default_ids):
    near = cosines(rows(default.full, default_ids, Pooling.MEAN), rows(default.reduced, default_ids, Pooling.MEAN))
    assert near.min() >= 0.9999


@pytest.mark.parametrize(("precision", "least"), [("full", 0.9999999), ("reduced", 0.99999)])
def test_vectors_of_the_default_model_alone_and_in_a_batch(default, default_ids, precision, least):
    engine = getattr(default, precision)
    alone = np.concatenate([rows(engine, [text], Pooling.MEAN) for text in default_ids])
    near = cosines(rows(engine, default_ids, Pooling.MEAN), alone)
    assert near.min() >= least


def precisions(engine: OpenVinoEngine) -> dict[str, set[str]]:
    """By type of node."""
    found: dict[str, set[str]] = defaultdict(set)
    for node in nodes_of(engine._compiled.shared):
        found[node.kind].add(node.precision)
    return found


@pytest.mark.parametrize("name", ["bert", "bert_reranker", "nomic_bert", "modern_bert", "jina_bert_v2", "qwen2_last"])
def test_products_run_in_bf16_and_norms_and_additions_in_f32(tmp_path, name):
    found = precisions(compiled(write_gguf(name, tmp_path / "m.gguf"), reference(name).pooling).reduced)
    assert "bf16" in found["FullyConnected"]
    for kind in ("MVN", "Math", "Reduce"):
        assert "bf16" not in found.get(kind, set()), kind


def of_last_products(model: Compiled) -> set[str]:
    """Precisions of what should be exact: pooling and Dense modules. Conversions of whole numbers are tested below."""
    ops = {op.get_friendly_name(): op for op in model.builder._networks[REDUCED, ()].marks.exact}
    readers = {
        reader.get_node().get_friendly_name() for op in ops.values() for reader in op.output(0).get_target_inputs()
    }
    found = [
        node.precision
        for node in nodes_of(model.reduced._compiled.shared)
        if node.names & (set(ops) | readers) and node.kind != "Convert"
    ]
    return set(found)


RERANKERS = [name for name in MODELS if "rerank" in name or name.endswith("_rank")]


@pytest.mark.parametrize("name", ["bert", "qwen2_last", "gemma_embedding", *RERANKERS])
def test_pooling_dense_modules_and_rank_heads_run_in_f32(tmp_path, name):
    assert of_last_products(compiled(write_gguf(name, tmp_path / "m.gguf"), reference(name).pooling)) == {"f32"}


def n_products(engine: OpenVinoEngine) -> int:
    """Linear layers that are computed in BF16."""
    counts = Counter(node.kind for node in nodes_of(engine._compiled.shared) if node.precision == "bf16")
    return counts["FullyConnected"]


"""OpenVINO runs them all."""


@pytest.mark.parametrize("name", RUNNABLE)
def test_all_matrices_of_layers_that_keep_float32_run_in_it(tmp_path, name):
    """Also those with a bias, whose product loses its mark if it is fused with it."""
    stored = reference(name)
    spec = load_spec(write_gguf(name, tmp_path / "m.gguf"), stored.pooling)
    builder = ModelBuilder(spec, open_codec(spec).codec)
    with closing(builder.compile("bf16", 1)) as reduced:
        n_reduced = n_products(reduced)
    with closing(builder.compile("bf16", 1, (0,))) as mixed:
        n_mixed = n_products(mixed)
    with closing(builder.compile("bf16", 1, tuple(range(builder.n_layer)))) as exact:
        n_left = n_products(exact)
    n_in_layers = n_reduced - n_left
    assert n_in_layers > 0
    assert n_reduced - n_mixed == n_in_layers / builder.n_layer
    assert n_left == 0


WITH_DISTANCES = ("nomic", "modern", "jina", "qwen", "gemma", "gte")
"""Beginnings of the names of those with rotary positions or ALiBi."""


@pytest.mark.parametrize("name", RUNNABLE)
def test_whole_numbers_become_float32(tmp_path, name):
    """Positions and distances: BF16 has no odd numbers over 256."""
    spec = load_spec(write_gguf(name, tmp_path / "m.gguf"), Pooling.MEAN)
    with closing(ModelBuilder(spec, open_codec(spec).codec).compile("bf16", 1)) as engine:
        nodes = [node for node in nodes_of(engine._compiled.shared) if node.kind == "Convert"]
    found = {node.written for node in nodes if node.precision == "i32"}
    assert found == ({"f32"} if name.startswith(WITH_DISTANCES) else set())


@pytest.mark.parametrize("name", ["modern_bert", "gemma_embedding", "qwen2_bidirectional"])
def test_vectors_of_long_texts_are_as_near_to_float32_as_those_of_short_ones(tmp_path, name):
    """With positions in BF16, ModernBERT's are 0.9995 and Qwen2's 0.97."""
    model = compiled(write_gguf(name, tmp_path / "m.gguf"), Pooling.MEAN)
    random = np.random.default_rng(0)
    off = []
    for n_tokens in (100, 700, 1500):
        text = random.integers(0, model.full.info.n_vocab, n_tokens).tolist()
        found = []
        for engine in (model.full, model.reduced):
            engine.info = replace(engine.info, n_ctx_train=2048)
            found.append(rows(engine, [text], Pooling.MEAN))
        off.append(1 - float(cosines(*found).min()))
    assert max(off[1:]) < 2 * off[0]


@pytest.mark.parametrize("name", ["bert", "modern_bert", "jina_bert_v2", "gemma_embedding"])
def test_vectors_are_nearer_to_float32_with_layers_that_keep_it(tmp_path, name):
    stored = reference(name)
    model = compiled(write_gguf(name, tmp_path / "m.gguf"), stored.pooling)
    with closing(model.builder.compile("bf16", 1, tuple(range(model.builder.n_layer)))) as mixed:
        full, reduced, near = (
            rows(engine, stored.ids, stored.pooling) for engine in (model.full, model.reduced, mixed)
        )
    assert 1 - cosines(full, near).min() < (1 - cosines(full, reduced).min()) / 2


@pytest.mark.parametrize("name", ["bert", "bert_reranker", "jina_bert_v2", "modern_bert", "qwen3_embedding"])
def test_the_marks_do_not_change_float32(tmp_path, name):
    stored = reference(name)
    model = compiled(write_gguf(name, tmp_path / "m.gguf"), stored.pooling)
    before = rows(model.full, stored.ids, stored.pooling)
    again = model.builder.compile("f32", 1)
    np.testing.assert_allclose(rows(again, stored.ids, stored.pooling), before, rtol=1e-5, atol=1e-6)
    assert precisions(again) == precisions(model.full)


def test_an_engine_compiled_before_the_marks_still_works(tmp_path):
    stored = reference("bert")
    spec = load_spec(write_gguf("bert", tmp_path / "m.gguf"), Pooling.MEAN)
    builder = ModelBuilder(spec, open_codec(spec).codec)
    with closing(builder.compile("f32", 1)) as full:
        before = rows(full, stored.ids, Pooling.MEAN)
        with closing(builder.compile("bf16", 1)), closing(builder.compile("bf16", 2)):
            np.testing.assert_array_equal(rows(full, stored.ids, Pooling.MEAN), before)


COMPILE = """
import sys
from pathlib import Path
from gguf_embed.types import Pooling
from tests.engines.openvino.graph_models import MODELS, write_gguf
from tests.engines.openvino.running import load_spec
from gguf_embed.engines.openvino.build import ModelBuilder
from gguf_embed.engines.openvino.driver import open_codec
for name in MODELS:
    if name != "qwen3_yarn":
        spec = load_spec(write_gguf(name, Path(sys.argv[1], name + ".gguf")), Pooling.MEAN)
        ModelBuilder(spec, open_codec(spec).codec).compile("bf16", 2)
        print(name, flush=True)
"""


def test_every_graph_compiles_for_one_thread(tmp_path):
    """In a process of its own: OpenVINO 2026.4 divides by zero in a block that it fuses for AMX (`pieces.product`)."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, (done.stdout.split()[-1:], done.stderr)
