"""What OpenVINO computes in one operation, and writes in another precision than it multiplies in."""

from __future__ import annotations

from collections import Counter
from contextlib import closing

import numpy as np
import pytest

from gguf_embed.engines.openvino.build import ModelBuilder
from gguf_embed.engines.openvino.driver import open_codec
from gguf_embed.engines.openvino.precision import Marks, keep_exact
from gguf_embed.engines.openvino.runtime import REDUCED, compile_graph, computes_bf16, constant, model_of, op
from gguf_embed.engines.openvino.weights import IS_X86
from tests.engines.openvino.graph_models import RUNNABLE, reference, write_gguf
from tests.engines.openvino.running import load_spec, nodes_of

needs_bf16 = pytest.mark.skipif(not computes_bf16() or not IS_X86, reason="this CPU has no BF16 instructions of x86")

ROTARY = ("nomic", "gte", "modern", "qwen", "gemma", "jina_v3")
"""Beginnings of the names of those with rotary positions."""


def builder_of(name: str, folder, outtype: str = "f32") -> ModelBuilder:
    spec = load_spec(write_gguf(name, folder / "m.gguf", outtype), reference(name).pooling)
    return ModelBuilder(spec, open_codec(spec).codec)


@needs_bf16
@pytest.mark.parametrize("outtype", ["f32", "f16"])
@pytest.mark.parametrize("name", RUNNABLE)
def test_products_for_residuals_are_written_in_float32(tmp_path, name, outtype):
    """Two in each layer, but where RMS norms or adapters follow."""
    builder = builder_of(name, tmp_path, outtype)
    with closing(builder.compile("bf16", 1)) as engine:
        marked = {node.get_friendly_name() for node in builder._networks[REDUCED, ()].marks.unrounded}
        found = [node for node in nodes_of(engine._compiled.shared) if node.names & marked]
    assert {(node.kind, node.precision, node.written) for node in found} <= {("FullyConnected", "bf16", "f32")}
    is_other = name.startswith("gemma") or name == "jina_v3"
    assert len(found) == len(marked) == (0 if is_other else 2 * builder.n_layer)


@needs_bf16
@pytest.mark.parametrize("name", RUNNABLE)
def test_nothing_is_marked_in_layers_that_keep_float32(tmp_path, name):
    builder = builder_of(name, tmp_path)
    layers = tuple(range(builder.n_layer))
    builder.compile("bf16", 1, layers).close()
    marks = builder._networks[REDUCED, layers].marks
    assert (marks.unrounded, marks.rounded) == ([], [])


@needs_bf16
@pytest.mark.parametrize("name", RUNNABLE)
def test_what_only_products_read_is_written_in_bf16(tmp_path, name):
    builder = builder_of(name, tmp_path)
    with closing(builder.compile("bf16", 1)) as engine:
        marked = {node.get_friendly_name() for node in builder._networks[REDUCED, ()].marks.rounded}
        found = {node.written for node in nodes_of(engine._compiled.shared) if node.names & marked}
    assert found == ({"bf16"} if marked else set())
    assert bool(marked) or not name.startswith(("nomic", "modern", "qwen", "gemma"))  # they have gates


@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.parametrize("precision", ["f32", pytest.param("bf16", marks=needs_bf16)])
def test_rotary_positions_are_one_operation(tmp_path, name, precision):
    builder = builder_of(name, tmp_path)
    with closing(builder.compile(precision, 1)) as engine:
        kinds = Counter(node.kind for node in nodes_of(engine._compiled.shared))
    assert kinds["RoPE"] == (2 * builder.n_layer if name.startswith(ROTARY) else 0)
    assert kinds["VariadicSplit"] == 0 or not name.startswith(ROTARY)


@needs_bf16
def test_products_written_in_float32_keep_what_is_not_finite():
    """So that a model whose numbers overflow fails, and gives no wrong vectors."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((4, 64)).astype(np.float32)
    rows[1, 3], rows[2, 5] = np.nan, np.inf
    matrix = random.standard_normal((64, 64)).astype(np.float32)
    x = op.parameter([-1, 64], np.float32)
    product = op.clamp(op.matmul(x, constant(matrix), False, True), -np.inf, np.inf)
    total = op.add(constant(np.ones((1, 64), np.float32)), product)
    model = keep_exact(model_of([total], [x], "m"), Marks(unrounded=[product]))
    found = compile_graph(model, REDUCED, 1, 1)([rows])[0]
    assert np.isfinite(found).all(axis=1).tolist() == [True, False, False, True]
    assert not np.isfinite(found[1:3]).any()


@needs_bf16
@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_attention_is_one_operation(tmp_path, name, precision):
    """So that the scores of a long text are never all in memory."""
    builder = builder_of(name, tmp_path)
    with closing(builder.compile(precision, 1)) as engine:
        kinds = Counter(node.kind for node in nodes_of(engine._compiled.shared))
    assert kinds["Softmax"] == 0
    assert kinds["Subgraph"] == builder.n_layer
