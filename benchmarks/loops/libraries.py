"""The best loops that a user would write with OpenVINO, ONNX Runtime and PyTorch.

This module imports only what its own loops need: it also runs in an interpreter without this project's packages.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.loops.batches import Matrix, Tokens, batches_by_length, fill, pad, pool
from benchmarks.loops.weights import Bert

BATCH_SIZES = (8, 32, 64)


def feeds(ids: Any, mask: Any) -> dict[str, Any]:
    """A BERT's inputs by the names that all exports give them."""
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0}


class OpenVinoLoop:
    """The exported ONNX file in OpenVINO: one batch at a time on all threads, or one on each thread at once.

    `precision` "default" is what comes: BF16 where the CPU has it.
    """

    def __init__(self, folder: Path, n_threads: int, precision: str) -> None:
        ov: Any = import_module("openvino")
        self._ov = ov
        self._pooling = Bert.load(folder / "bert.npz").sizes.pooling
        core = ov.Core()
        model = core.read_model(folder / "bert.onnx")
        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": n_threads}
        if precision != "default":
            settings["INFERENCE_PRECISION_HINT"] = precision
        self._compiled = {
            hint: core.compile_model(model, "CPU", {**settings, "PERFORMANCE_HINT": hint})
            for hint in ("LATENCY", "THROUGHPUT")
        }

    @property
    def variants(self) -> Sequence[str]:
        return [f"{hint} {size}" for hint in self._compiled for size in BATCH_SIZES]

    def run(self, texts: Tokens, variant: str) -> Matrix:
        hint, size = variant.split()
        parts: list[tuple[Sequence[int], Matrix]] = []
        queue = self._ov.AsyncInferQueue(self._compiled[hint])

        def finish(request: Any, batch: tuple[list[int], Any]) -> None:
            indexes, mask = batch
            parts.append((indexes, pool(request.get_output_tensor().data, mask, self._pooling)))

        queue.set_callback(finish)
        for indexes in batches_by_length(texts, int(size)):
            ids, mask = pad([texts[index] for index in indexes])
            queue.start_async(feeds(ids, mask), (indexes, mask))
        queue.wait_all()
        return fill(len(texts), parts)


class OnnxRuntimeLoop:
    """The exported ONNX file in ONNX Runtime with all of its optimizations, in float32: its CPU backend has no BF16."""

    def __init__(self, folder: Path, n_threads: int) -> None:
        ort: Any = import_module("onnxruntime")
        self._pooling = Bert.load(folder / "bert.npz").sizes.pooling
        options = ort.SessionOptions()
        options.intra_op_num_threads = n_threads
        self._session = ort.InferenceSession(str(folder / "bert.onnx"), options, providers=["CPUExecutionProvider"])

    @property
    def variants(self) -> Sequence[str]:
        return [str(size) for size in BATCH_SIZES]

    def run(self, texts: Tokens, variant: str) -> Matrix:
        parts: list[tuple[Sequence[int], Matrix]] = []
        for indexes in batches_by_length(texts, int(variant)):
            ids, mask = pad([texts[index] for index in indexes])
            (hidden,) = self._session.run(None, feeds(ids, mask))
            parts.append((indexes, pool(hidden, mask, self._pooling)))
        return fill(len(texts), parts)


class TorchLoop:
    """transformers' BertModel in PyTorch with its fused attention, in float32 or with BF16 autocast."""

    def __init__(self, folder: Path, n_threads: int, precision: str) -> None:
        self._torch: Any = import_module("torch")
        self._torch.set_num_threads(n_threads)
        bert = Bert.load(folder / "bert.npz")
        self._pooling = bert.sizes.pooling
        self._precision = precision
        self._model = torch_model(bert)

    @property
    def variants(self) -> Sequence[str]:
        return [str(size) for size in BATCH_SIZES]

    def run(self, texts: Tokens, variant: str) -> Matrix:
        torch = self._torch
        parts: list[tuple[Sequence[int], Matrix]] = []
        is_bf16 = self._precision == "bf16"
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            for indexes in batches_by_length(texts, int(variant)):
                ids, mask = pad([texts[index] for index in indexes])
                hidden = self._model(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state
                parts.append((indexes, pool(hidden.float().numpy(), mask, self._pooling)))
        return fill(len(texts), parts)


def torch_model(bert: Bert) -> Any:
    """transformers' BertModel with these weights, ready for inference. Needs torch and transformers."""
    torch: Any = import_module("torch")
    transformers: Any = import_module("transformers")
    sizes = bert.sizes
    config = transformers.BertConfig(
        vocab_size=len(bert.weights["token_embd.weight"]),
        hidden_size=sizes.n_embd,
        num_hidden_layers=sizes.n_layer,
        num_attention_heads=sizes.n_head,
        intermediate_size=sizes.n_ff,
        max_position_embeddings=sizes.n_ctx,
        layer_norm_eps=sizes.norm_eps,
        attn_implementation="sdpa",
    )
    model = transformers.BertModel(config, add_pooling_layer=False)
    tensors = {torch_name(name): torch.from_numpy(array) for name, array in bert.weights.items()}
    model.load_state_dict(tensors)
    return model.eval()


_OUTSIDE = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
}
_IN_LAYER = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}


def torch_name(name: str) -> str:
    """A GGUF tensor's name in transformers' BertModel."""
    stem, _, suffix = name.rpartition(".")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{suffix}"
    _, number, part = stem.split(".")
    return f"encoder.layer.{number}.{_IN_LAYER[part]}.{suffix}"
