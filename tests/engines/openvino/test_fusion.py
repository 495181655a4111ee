"""What OpenVINO computes in one operation, and writes in another precision than it multiplies in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from gguf_embed.engines.openvino.build import ModelBuilder
from gguf_embed.engines.openvino.driver import open_codec
from gguf_embed.engines.openvino.precision import Marks, keep_exact
from gguf_embed.engines.openvino.runtime import REDUCED, compile_graph, computes_bf16, constant, model_of, op
from gguf_embed.engines.openvino.weights import IS_X86
from tests.engines.openvino.graph_models import RUNNABLE, reference, write_gguf
from tests.engines.openvino.running import GraphNode, load_spec, nodes_of

needs_bf16 = pytest.mark.skipif(not computes_bf16() or not IS_X86, reason="this CPU has no BF16 instructions of x86")

ROTARY = ("nomic", "gte", "modern", "qwen", "gemma", "jina_v3")
"""Beginnings of the names of those with rotary positions."""


@dataclass(frozen=True)
class Compiled:
    """A model's graph as OpenVINO runs it."""

    nodes: tuple[GraphNode, ...]
    unrounded: frozenset[str]  # operations that are marked to be written in float32
    rounded: frozenset[str]  # and in BF16
    n_layer: int

    @property
    def kinds(self) -> Counter[str]:
        return Counter(node.kind for node in self.nodes)

    def running(self, names: frozenset[str]) -> list[GraphNode]:
        """What runs these operations."""
        return [node for node in self.nodes if node.names & names]


@contextmanager
def builder_of(name: str, outtype: str = "f32") -> Iterator[ModelBuilder]:
    with TemporaryDirectory() as folder:
        spec = load_spec(write_gguf(name, Path(folder) / "m.gguf", outtype), reference(name).pooling)
        yield ModelBuilder(spec, open_codec(spec).codec)


@cache
def compiled(name: str, precision: str, outtype: str = "f32") -> Compiled:
    """Once for all tests."""
    with builder_of(name, outtype) as builder, closing(builder.compile(precision, 1)) as engine:
        marks = builder._network(precision, ()).marks
        nodes = tuple(nodes_of(engine._compiled.shared))
        return Compiled(nodes, names_of(marks.unrounded), names_of(marks.rounded), builder.n_layer)


def names_of(operations: list) -> frozenset[str]:
    return frozenset(operation.get_friendly_name() for operation in operations)


@needs_bf16
@pytest.mark.parametrize("outtype", ["f32", "f16"])
@pytest.mark.parametrize("name", RUNNABLE)
def test_products_for_residuals_are_written_in_float32(name, outtype):
    """Two in each layer, but where RMS norms or adapters follow."""
    model = compiled(name, REDUCED, outtype)
    found = model.running(model.unrounded)
    assert {(node.kind, node.precision, node.written) for node in found} <= {("FullyConnected", "bf16", "f32")}
    is_other = name.startswith("gemma") or name == "jina_v3"
    assert len(found) == len(model.unrounded) == (0 if is_other else 2 * model.n_layer)


@needs_bf16
@pytest.mark.parametrize("name", RUNNABLE)
def test_nothing_is_marked_in_layers_that_keep_float32(name):
    with builder_of(name) as builder:
        marks = builder._network(REDUCED, tuple(range(builder.n_layer))).marks
    assert (marks.unrounded, marks.rounded) == ([], [])


@needs_bf16
@pytest.mark.parametrize("name", RUNNABLE)
def test_what_only_products_read_is_written_in_bf16(name):
    model = compiled(name, REDUCED)
    assert {node.written for node in model.running(model.rounded)} == ({"bf16"} if model.rounded else set())
    assert bool(model.rounded) or not name.startswith(("nomic", "modern", "qwen", "gemma"))  # they have gates


@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.parametrize("precision", ["f32", pytest.param(REDUCED, marks=needs_bf16)])
def test_rotary_positions_are_one_operation(name, precision):
    model = compiled(name, precision)
    assert model.kinds["RoPE"] == (2 * model.n_layer if name.startswith(ROTARY) else 0)
    assert model.kinds["VariadicSplit"] == 0 or not name.startswith(ROTARY)


@needs_bf16
@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.parametrize("precision", ["f32", REDUCED])
def test_attention_is_one_operation(name, precision):
    """So that the scores of a long text are never all in memory."""
    model = compiled(name, precision)
    assert model.kinds["Softmax"] == 0
    assert model.kinds["Subgraph"] == model.n_layer


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
