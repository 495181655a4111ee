"""Linear layers, as OpenVINO operations over a GGUF's weights: in float32 where it is asked for, with task adapters."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from gguf_embed.engines.openvino.precision import Marks
from gguf_embed.engines.openvino.runtime import Node, constant, float32_constant, op
from gguf_embed.engines.openvino.weights import GraphWeights, layer_of
from gguf_embed.gguf_file.adapters import TensorParts, read_adapters
from gguf_embed.types import FloatMatrix


class LinearPieces:
    """The part of `GraphPieces` that multiplies by the file's matrices. Shapes as there."""

    def __init__(self, weights: GraphWeights, float32_layers: Collection[int]) -> None:
        self.weights = weights
        self.n_embd = weights.integer("embedding_length")
        self.marks = Marks()
        self._float32_layers = float32_layers
        self.adapters = read_adapters(weights.header)
        width = self.adapters.width if self.adapters is not None else 0
        self._columns = op.parameter(
            [-1, width], np.float32, name="columns"
        )  # [N, width], 1 for those of a token's task

    def linear(self, x: Node, name: str, n_out: int, n_in: int | None = None, *, exact: bool = False) -> Node:
        """[…, n_in] → […, n_out]; n_in is D if not given. With `exact`, computed in float32 whatever the precision."""
        return self.linears(x, name, [n_out], n_in, exact=exact)[0]

    def add_linear(self, residual: Node, x: Node, name: str, n_in: int | None = None) -> Node:
        """residual + linear(x), which has D numbers.

        In BF16, OpenVINO would round the product, and read it again to convert it to float32. So it is fused with an
        operation that writes float32 and changes no number: a clamp to ±infinity. NaN becomes -infinity.
        """
        product = self.linear(x, name, self.n_embd, n_in)
        if self.weights.may_write_float32 and not (self._is_exact(name) or self._has_adapter(name)):
            product = op.clamp(product, -math.inf, math.inf)
            self.marks.unrounded.append(product)
        return op.add(residual, product)

    def linears(
        self, x: Node, name: str, widths: Sequence[int], n_in: int | None = None, *, exact: bool = False
    ) -> list[Node]:
        """Linear layers that share a tensor [sum of widths, n_in], each with so many of its rows."""
        n_rows = sum(widths)
        exact = exact or self._is_exact(name)
        matrix = self.weights.matrix(f"{name}.weight", (n_rows, n_in or self.n_embd))
        bias = self.weights.array(f"{name}.bias", (n_rows,)) if self.weights.has(f"{name}.bias") else None
        adapter = self._adapter(x, name, n_rows, n_in or self.n_embd, exact=exact)
        results, start = [], 0
        for width in widths:
            part = slice(start, start := start + width)
            product = self._product(x, float32_constant(matrix[part]), exact=exact)
            if adapter is not None:
                lowered, raising = adapter
                product = op.add(product, self._product(lowered, constant(raising[part]), exact=exact))
            results.append(product if bias is None else op.add(product, self.bias(bias[part], x, exact=exact)))
        return results

    def stacked(self, x: Node, names: Sequence[str], n_out: int) -> Node:
        """Linear layers of D → n_out each as one: [N, n_out of the first, of the second, …]. They have no adapters."""
        exact = self._is_exact(names[0])
        matrices = [self.weights.matrix(f"{name}.weight", (n_out, self.n_embd)) for name in names]
        product = self._product(x, float32_constant(np.concatenate(matrices)), exact=exact)
        if not any(self.weights.has(f"{name}.bias") for name in names):
            return product
        biases = [
            self.weights.array(f"{name}.bias", (n_out,))
            if self.weights.has(f"{name}.bias")
            else np.zeros(n_out, np.float32)
            for name in names
        ]
        return op.add(product, self.bias(np.concatenate(biases), x, exact=exact))

    def rounded(self, node: Node, layer: str) -> Node:
        """The same operation, whose result only products of the layer read, so that it need not be exact.

        `layer`: its prefix, or the name of one of its tensors.
        """
        if not self._is_exact(layer):
            self.marks.rounded.append(node)
        return node

    def kept_exact(self, node: Node) -> Node:
        """The same operation, computed in float32 whatever the precision."""
        self.marks.exact.append(node)
        return node

    def _product(self, x: Node, matrix: Node, *, exact: bool) -> Node:
        """x · matrixᵀ."""
        product = op.matmul(x, matrix, False, True)
        return self.kept_exact(product) if exact else product

    def bias(self, values: FloatMatrix, x: Node, *, exact: bool) -> Node:
        """[n_out], to be added to a product of `x`.

        If that is exact, the bias is read by an index that is always 0 and depends on `x`: OpenVINO would fuse the
        product with a constant bias, and lose the mark that it is exact.
        """
        if not exact:
            return constant(values)
        n_rows = op.gather(op.shape_of(x, "i32"), constant(np.int32(0)), constant(np.int32(0)))
        zero = op.minimum(n_rows, constant(np.int32(0)))
        return op.gather(constant(values[np.newaxis]), zero, constant(np.int32(0)))

    def _adapter(self, x: Node, name: str, n_out: int, n_in: int, *, exact: bool) -> tuple[Node, FloatMatrix] | None:
        """[N, width], in which only the columns of each token's task are not 0, and the matrix [n_out, width] for it.

        None for a matrix without an adapter.
        """
        if self.adapters is None or not self._has_adapter(name):
            return None
        lowering = self.weights.array(f"{name}.{TensorParts.LOWERING}.weight", (self.adapters.width, n_in))
        raising = self.weights.array(f"{name}.{TensorParts.RAISING}.weight", (n_out, self.adapters.width))
        lowered = op.multiply(self._product(x, constant(lowering), exact=exact), self._columns)
        return lowered, raising * np.float32(self.adapters.scale)

    def _has_adapter(self, name: str) -> bool:
        return self.adapters is not None and self.weights.has(f"{name}.{TensorParts.LOWERING}.weight")

    def _is_exact(self, name: str) -> bool:
        return layer_of(name) in self._float32_layers
