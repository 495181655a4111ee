"""The pieces that encoders are made of, as OpenVINO operations over a GGUF's weights.

Shapes: B texts, N tokens of all of them (packed), T slots per text (as wide as the longest), D dimensions, H heads,
S pooled rows per text. Only attention and pooling have slots; see `packing.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import numpy as np

from gguf_embed.engines.openvino.linear import LinearPieces
from gguf_embed.engines.openvino.runtime import Node, constant, op
from gguf_embed.engines.openvino.weights import GraphWeights
from gguf_embed.gguf_file.crisp_layout import FIRST_POSITION

MASKED = -1e9
"""Added to the attention scores of what a token must not see; finite, because an empty slot may see nothing."""

ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "silu", "relu", "tanh")


class GraphPieces(LinearPieces):
    """Builds one graph. Methods with a tensor's name read `<name>.weight` and, if the file has it, `<name>.bias`."""

    def __init__(self, weights: GraphWeights, float32_layers: Collection[int] = ()) -> None:
        """`float32_layers` are those, from 0, whose matrices are multiplied in float32 whatever the precision."""
        super().__init__(weights, float32_layers)
        self.n_layer = weights.n_layer()
        self.n_head = weights.integer("attention.head_count")
        self.n_head_kv = weights.integer("attention.head_count_kv", self.n_head)
        self._check_heads()
        self.head_size = weights.integer("attention.key_length", self.n_embd // self.n_head)
        self.tokens = op.parameter([-1, self.n_embd], np.float32, name="tokens")  # [N, D], rows of the token table
        self.lengths = op.parameter([-1, 1], np.int32, name="lengths")  # [B, 1], tokens per text
        self.slots = op.parameter([-1, -1], np.int32, name="slots")  # [B, T], the token in each slot
        self.places = op.parameter([-1], np.int32, name="places")  # [N], the slot of each token
        self.positions = op.parameter([-1], np.int32, name="positions")  # [N], of each token in its text
        self.pooling = op.parameter([-1, -1, -1], np.float32, name="pooling")  # [B, S, T], see `pooled`
        n_slots = op.gather(op.shape_of(self.slots, "i32"), constant(np.int32(1)), constant(np.int32(0)))
        self._slot_numbers = op.range(constant(np.int32(0)), n_slots, constant(np.int32(1)), "i32")
        parts = constant(np.arange(3, dtype=np.int32).reshape(3, 1, 1))
        self._slots_of_parts = op.add(op.multiply(self.slots, constant(np.int32(3))), parts)  # [3, B, T], see `heads`

    @property
    def inputs(self) -> list[Node]:
        inputs = [self.tokens, self.lengths, self.slots, self.places, self.positions, self.pooling]
        return inputs if self.adapters is None else [*inputs, self._columns]

    def _check_heads(self) -> None:
        if self.n_head % self.n_head_kv or (not self._has_key_length() and self.n_embd % self.n_head):
            raise self.weights.error(
                f"{self.n_embd} dimensions and {self.n_head_kv} key heads cannot be divided among {self.n_head} heads"
            )

    def _has_key_length(self) -> bool:
        return self.weights.header.get(f"{self.weights.architecture}.attention.key_length", int) is not None

    def layers(self) -> Iterator[str]:
        """The prefixes of the layers' tensors."""
        return (f"blk.{number}" for number in range(self.n_layer))

    # Embeddings

    def row(self, name: str, number: int, n_rows: int) -> Node:
        """One row of a matrix [n_rows, D], the same for every token."""
        return constant(self.weights.array(f"{name}.weight", (n_rows, self.n_embd))[number])

    def position_rows(self, name: str) -> Node:
        """[N, D] from a table with a row per position."""
        first = self.weights.header.get(f"{self.weights.architecture}.{FIRST_POSITION}", int) or 0
        n_rows = self.weights.integer("context_length") + max(first, 0)
        table = self.weights.array(f"{name}.weight", (n_rows, self.n_embd))[max(first, 0) :]
        return op.gather(constant(table), self.positions, constant(np.int32(0)))

    # Layers

    def query_key_value(self, x: Node, layer: str) -> tuple[Node, Node, Node]:
        """[N, D] → three of [N, heads · head size], from separate matrices or a fused one."""
        n_q, n_kv = self.n_head * self.head_size, self.n_head_kv * self.head_size
        if not self.weights.has(f"{layer}.attn_qkv.weight"):
            q = self.linear(x, f"{layer}.attn_q", n_q)
            return q, self.linear(x, f"{layer}.attn_k", n_kv), self.linear(x, f"{layer}.attn_v", n_kv)
        q, k, v = self.linears(x, f"{layer}.attn_qkv", [n_q, n_kv, n_kv])
        return q, k, v

    def layer_norm(
        self, x: Node, name: str, size: int | None = None, eps: float | None = None, *, for_products: bool = False
    ) -> Node:
        """Mean 0 and variance 1, times a weight, plus a bias where the file has one.

        With `for_products`, only linear layers of the same layer read the result.
        """
        size = size or self.n_embd
        eps = self.weights.number("attention.layer_norm_epsilon") if eps is None else eps
        scaled = op.mvn(x, constant(np.array([-1], np.int32)), True, eps, "inside_sqrt")
        normed = op.multiply(scaled, constant(self.weights.array(f"{name}.weight", (size,))))
        if self.weights.has(f"{name}.bias"):
            normed = op.add(normed, constant(self.weights.array(f"{name}.bias", (size,))))
        return self.rounded(normed, name) if for_products else normed

    def rms_norm(self, x: Node, name: str, size: int | None = None) -> Node:
        """Divided by the root of the mean square, times a weight."""
        eps = constant(np.float32(self.weights.number("attention.layer_norm_rms_epsilon")))
        square = op.reduce_mean(op.power(x, constant(np.float32(2))), constant(np.array([-1], np.int32)), True)
        scale = op.divide(constant(np.float32(1)), op.sqrt(op.add(square, eps)))
        weight = self.weights.array(f"{name}.weight", (size or self.n_embd,))
        return op.multiply(op.multiply(x, scale), constant(weight))

    # Attention

    def heads(self, x: Node, layer: str) -> tuple[Node, Node, Node]:
        """[N, D] → queries, keys and values, each [B, heads, T, head size], for as many key heads as query heads.

        By one product, and brought into slots together: a text alone takes 4 % less time than with three of each. Its
        rows are read as three rows each, so that the slots of the three are apart in memory and need not be copied.
        """
        width = self.n_head * self.head_size
        if self.weights.has(f"{layer}.attn_qkv.weight"):
            together = self.linear(x, f"{layer}.attn_qkv", 3 * width)
        else:
            together = self.stacked(x, [f"{layer}.attn_{part}" for part in ("q", "k", "v")], width)
        rows = op.reshape(together, constant(np.array([-1, width], np.int32)), False)  # [3 N, width]
        in_slots = op.gather(rows, self._slots_of_parts, constant(np.int32(0)))  # [3, B, T, width]
        first = constant(np.int32(0))
        q, k, v = (self.by_head(op.squeeze(part, first)) for part in op.split(in_slots, first, 3).outputs())
        return q, k, v

    def split_heads(self, x: Node, n_head: int | None = None) -> Node:
        """[N, heads · head size] → [B, heads, T, head size]."""
        return self.by_head(self._in_slots(x), n_head)

    def by_head(self, x: Node, n_head: int | None = None) -> Node:
        """[B, T, heads · head size] → [B, heads, T, head size]."""
        shape = np.array([0, 0, n_head or self.n_head, self.head_size], np.int32)
        return op.transpose(op.reshape(x, constant(shape), True), constant(np.array([0, 2, 1, 3], np.int32)))

    def _in_slots(self, x: Node) -> Node:
        """[N, n] → [B, T, n]."""
        return op.gather(x, self.slots, constant(np.int32(0)))

    def attention(self, q: Node, k: Node, v: Node, mask: Node, scale: float | None = None) -> Node:
        """Softmax attention of [B, heads, T, head size] → [N, heads · head size]. See `attended` for `scale`."""
        if self.n_head_kv != self.n_head:
            k, v = self._repeat_heads(k), self._repeat_heads(v)
        merged = op.transpose(self.attended(q, k, v, mask, scale), constant(np.array([0, 2, 1, 3], np.int32)))
        rows = op.reshape(merged, constant(np.array([-1, self.n_head * self.head_size], np.int32)), False)
        return op.gather(rows, self.places, constant(np.int32(0)))

    def attended(self, q: Node, k: Node, v: Node, mask: Node | None = None, scale: float | None = None) -> Node:
        """Softmax attention of [B, heads, T, head size] → the same shape. `mask` is added to the scores.

        `scale` is the factor for the products of queries and keys, by default 1 / √head size. OpenVINO fuses these
        operations as it does its own one for attention, but without transposing all keys in memory before.
        """
        factor = constant(np.float32(1 / math.sqrt(self.head_size) if scale is None else scale))
        scores = op.multiply(op.matmul(q, k, False, True), factor)
        weights = op.softmax(scores if mask is None else op.add(scores, mask), -1)
        return op.matmul(weights, v, False, False)

    def _repeat_heads(self, x: Node) -> Node:
        """Every key head serves the same number of neighboring query heads."""
        numbers = np.arange(self.n_head, dtype=np.int32) // (self.n_head // self.n_head_kv)
        return op.gather(x, constant(numbers), constant(np.int32(1)))

    def padding_mask(self) -> Node:
        """[B, 1, 1, T]: every token sees all tokens of its text."""
        return self._mask(self.is_token())

    def window_mask(self, reach: int | None) -> Node:
        """[B, 1, T, T]: every token sees those at most `reach` before and after it; None: all of its text."""
        if reach is None:
            return self.padding_mask()
        near = op.less_equal(op.abs(self.distances()), constant(np.int32(reach)))
        return self._mask(op.logical_and(self.is_token(), op.unsqueeze(near, constant(np.array([0, 1], np.int32)))))

    def causal_mask(self) -> Node:
        """[1, 1, T, T]: every token sees itself and those before it, so none sees the slots after its text."""
        seen = op.less_equal(self.distances(), constant(np.int32(0)))
        return self._mask(op.unsqueeze(seen, constant(np.array([0, 1], np.int32))))

    def is_token(self) -> Node:
        """[B, 1, 1, T]: false for the slots after a text's end."""
        inside = op.less(op.unsqueeze(self._slot_numbers, constant(np.int32(0))), self.lengths)
        return op.unsqueeze(inside, constant(np.array([1, 2], np.int32)))

    def distances(self) -> Node:
        """[T, T]: the seen token's position minus the seeing one's."""
        columns = op.unsqueeze(self._slot_numbers, constant(np.int32(0)))
        return op.subtract(columns, op.unsqueeze(self._slot_numbers, constant(np.int32(1))))

    def _mask(self, seen: Node) -> Node:
        return op.select(seen, constant(np.float32(0)), constant(np.float32(MASKED)))

    def rope(self, *, local: bool = False) -> tuple[Node, Node]:
        """cos and sin [1, 1, T, R] of the rotary position embedding of R dimensions, both halves of them alike.

        `local`: for layers with local attention, which may have another base, and whose positions are not scaled.
        """
        half = self.weights.rope_dimensions(self.head_size) // 2
        freq_base = self.weights.number("rope.freq_base_swa" if local else "rope.freq_base", 10_000.0)
        scaling_factor = 1.0 if local else self.weights.rope_factor()
        frequencies = (freq_base ** -(np.arange(half, dtype=np.float64) / half) / scaling_factor).astype(np.float32)
        numbers = op.unsqueeze(self._slot_numbers, constant(np.int32(1)))
        positions = self.kept_exact(op.convert(numbers, "f32"))  # BF16 has no odd numbers over 256
        angles = op.multiply(positions, constant(np.concatenate([frequencies, frequencies]).reshape(1, -1)))
        angles = op.unsqueeze(angles, constant(np.array([0, 1], np.int32)))
        return op.cos(angles), op.sin(angles)

    def rotate(self, x: Node, rope: tuple[Node, Node]) -> Node:
        """Rotate the first R dimensions of [B, heads, T, head size] by position, one half paired with the other.

        OpenVINO fuses this into one operation, if it is written with this axis and with four dimensions of `rope`.
        """
        cos, sin = rope
        axis, half = constant(np.int64(3)), cos.get_output_partial_shape(0)[3].get_length() // 2
        others: list[Node] = []
        if 2 * half < self.head_size:
            sizes = constant(np.array([2 * half, self.head_size - 2 * half], np.int64))
            x, *others = op.variadic_split(x, axis, sizes).outputs()
        halves = op.variadic_split(x, axis, constant(np.array([half, half], np.int64)))
        turned = op.concat([op.multiply(halves.output(1), constant(np.float32(-1))), halves.output(0)], -1)
        rotated = op.add(op.multiply(x, cos), op.multiply(turned, sin))
        return op.concat([rotated, *others], -1) if others else rotated

    # Feed-forward

    def activation(self, x: Node, kind: str) -> Node:
        """gelu is the exact form with erf, gelu_tanh its approximation. Raises `ModelFileError` for others."""
        match kind:
            case "gelu":
                return op.gelu(x, "erf")
            case "gelu_tanh":
                return op.gelu(x, "tanh")
            case "quick_gelu":
                return op.swish(x, constant(np.float32(1.702)))
            case "silu":
                return op.swish(x)
            case "relu":
                return op.relu(x)
            case "tanh":
                return op.tanh(x)
        raise self.weights.error(f"activation {kind!r} is unknown, expected one of {', '.join(ACTIVATIONS)}")

    def gated(self, x: Node, layer: str, kind: str, n_ff: int) -> Node:
        """activation(gate) · up, from `ffn_gate` and `ffn_up`, or from `ffn_up` with the gate's rows first."""
        if self.weights.has(f"{layer}.ffn_gate.weight"):
            gate, up = self.linear(x, f"{layer}.ffn_gate", n_ff), self.linear(x, f"{layer}.ffn_up", n_ff)
        else:
            gate, up = self.linears(x, f"{layer}.ffn_up", [n_ff, n_ff])
        return self.product(self.activation(gate, kind), up, layer, n_ff)

    def product(self, gate: Node, up: Node, layer: str, n_ff: int) -> Node:
        """gate · up, [N, n_ff], for another linear layer.

        The reshaping changes nothing, but keeps OpenVINO from fusing the block into one operation for AMX, which
        divides by zero with one thread (2026.4).
        """
        product = self.rounded(op.multiply(gate, up), layer)
        return op.reshape(product, constant(np.array([0, n_ff], np.int32)), True)

    # After the encoder

    def pooled(self, rows: Node) -> Node:
        """[B, S, D]: weighted sums of a text's rows. The weights make them a mean, one token's row or a span's mean.

        Not as a product of matrices, because OpenVINO would keep 0.3 MB for each shape of one.
        """
        weights = self.kept_exact(op.unsqueeze(self.pooling, constant(np.array([3], np.int32))))
        in_slots = self.kept_exact(self._in_slots(rows))
        of_texts = self.kept_exact(op.unsqueeze(in_slots, constant(np.array([1], np.int32))))
        weighted = op.multiply(of_texts, weights)
        return self.kept_exact(op.reduce_sum(weighted, constant(np.array([2], np.int32)), False))
