"""Writes a BERT as ONNX, operation by operation as transformers' models are exported: what users get from optimum."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loops.weights import Array, Bert

_OPSET = 17


def write_onnx(bert: Bert, path: Path) -> Path:
    """Inputs `input_ids`, `attention_mask` and `token_type_ids`, int64[batch, length]; output `last_hidden_state`.

    Needs the package onnx.
    """
    graph = _Graph(bert)
    hidden = graph.embeddings()
    bias = graph.attention_bias()
    for layer in range(bert.sizes.n_layer):
        hidden = graph.layer(f"blk.{layer}", hidden, bias)
    graph.save(hidden, path)
    return path


class _Graph:
    """Collects nodes; each method returns the name of its result."""

    def __init__(self, bert: Bert) -> None:
        self._onnx: Any = import_module("onnx")
        self._bert = bert
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def _node(self, kind: str, *inputs: str, **attributes: object) -> str:
        output = f"{kind}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def _constant(self, value: object, dtype: type[Any] = np.float32) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def _weight(self, name: str) -> Array:
        return self._bert.weights[name]

    def _norm(self, name: str, x: str) -> str:
        scale, bias = (self._constant(self._weight(f"{name}.{part}")) for part in ("weight", "bias"))
        return self._node("LayerNormalization", x, scale, bias, axis=-1, epsilon=self._bert.sizes.norm_eps)

    def _linear(self, name: str, x: str) -> str:
        product = self._node("MatMul", x, self._constant(self._weight(f"{name}.weight").T))
        return self._node("Add", self._constant(self._weight(f"{name}.bias")), product)

    def embeddings(self) -> str:
        words = self._node("Gather", self._constant(self._weight("token_embd.weight")), "input_ids")
        types = self._node("Gather", self._constant(self._weight("token_types.weight")), "token_type_ids")
        length = self._node("Shape", "input_ids", start=1, end=2)
        table = self._constant(self._weight("position_embd.weight")[np.newaxis])
        positions = self._node("Slice", table, self._constant([0], np.int64), length, self._constant([1], np.int64))
        return self._norm("token_embd_norm", self._node("Add", self._node("Add", words, types), positions))

    def attention_bias(self) -> str:
        """0 for tokens and a very negative number for padding, [batch, 1, 1, length]."""
        mask = self._node("Unsqueeze", "attention_mask", self._constant([1, 2], np.int64))
        padding = self._node("Sub", self._constant(1.0), self._node("Cast", mask, to=self._onnx.TensorProto.FLOAT))
        return self._node("Mul", padding, self._constant(np.finfo(np.float32).min))

    def layer(self, at: str, hidden: str, bias: str) -> str:
        attended = self._linear(f"{at}.attn_output", self._attention(at, hidden, bias))
        hidden = self._norm(f"{at}.attn_output_norm", self._node("Add", attended, hidden))
        inner = self._gelu(self._linear(f"{at}.ffn_up", hidden))
        return self._norm(f"{at}.layer_output_norm", self._node("Add", self._linear(f"{at}.ffn_down", inner), hidden))

    def _attention(self, at: str, hidden: str, bias: str) -> str:
        sizes = self._bert.sizes
        n_per_head = sizes.n_embd // sizes.n_head
        scale = self._constant(n_per_head**-0.25)  # on both sides, as PyTorch's exporter writes it
        split = self._constant([0, -1, sizes.n_head, n_per_head], np.int64)

        def heads(name: str, order: list[int]) -> str:
            return self._node("Transpose", self._node("Reshape", self._linear(name, hidden), split), perm=order)

        query = self._node("Mul", heads(f"{at}.attn_q", [0, 2, 1, 3]), scale)
        key = self._node("Mul", heads(f"{at}.attn_k", [0, 2, 3, 1]), scale)
        weights = self._node("Softmax", self._node("Add", self._node("MatMul", query, key), bias), axis=-1)
        mixed = self._node("MatMul", weights, heads(f"{at}.attn_v", [0, 2, 1, 3]))
        joined = self._node("Transpose", mixed, perm=[0, 2, 1, 3])
        return self._node("Reshape", joined, self._constant([0, -1, sizes.n_embd], np.int64))

    def _gelu(self, x: str) -> str:
        erf = self._node("Erf", self._node("Div", x, self._constant(2**0.5)))
        product = self._node("Mul", x, self._node("Add", erf, self._constant(1.0)))
        return self._node("Mul", product, self._constant(0.5))

    def save(self, output: str, path: Path) -> None:
        helper, types = self._onnx.helper, self._onnx.TensorProto
        self._nodes.append(helper.make_node("Identity", [output], ["last_hidden_state"], name="last_hidden_state"))
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = [helper.make_tensor_value_info(name, types.INT64, ["batch", "length"]) for name in names]
        shape = ["batch", "length", self._bert.sizes.n_embd]
        outputs = [helper.make_tensor_value_info("last_hidden_state", types.FLOAT, shape)]
        graph = helper.make_graph(self._nodes, "bert", inputs, outputs, self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
        model.ir_version = 8
        self._onnx.save(model, str(path))
