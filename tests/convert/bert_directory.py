"""A tiny random BERT as a Hugging Face directory, written with only numpy and json, and its forward pass in numpy."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.gguf_models import TINY_VOCABULARY

N_EMBD, N_LAYER, N_HEAD, N_FF, N_CTX = 32, 2, 4, 64, 48
Weights = dict[str, NDArray[np.float32]]


def random_weights(seed: int = 0) -> Weights:
    """All tensors of a BertModel under Hugging Face's names, PyTorch's (out, in) order."""
    random = np.random.default_rng(seed)
    weights: Weights = {}

    def add(name: str, *shape: int, scale: float = 0.3, mean: float = 0.0) -> None:
        weights[name] = (mean + random.standard_normal(shape) * scale).astype(np.float32)

    def add_norm(name: str) -> None:
        add(f"{name}.weight", N_EMBD, scale=0.1, mean=1.0)
        add(f"{name}.bias", N_EMBD, scale=0.1)

    add("embeddings.word_embeddings.weight", len(TINY_VOCABULARY), N_EMBD)
    add("embeddings.position_embeddings.weight", N_CTX, N_EMBD)
    add("embeddings.token_type_embeddings.weight", 2, N_EMBD)
    add_norm("embeddings.LayerNorm")
    for layer in range(N_LAYER):
        at = f"encoder.layer.{layer}"
        parts = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
        shapes = {f"{at}.{part}": (N_EMBD, N_EMBD) for part in parts}
        shapes |= {f"{at}.intermediate.dense": (N_FF, N_EMBD), f"{at}.output.dense": (N_EMBD, N_FF)}
        for name, shape in shapes.items():
            add(f"{name}.weight", *shape)
            add(f"{name}.bias", shape[0], scale=0.1)
        add_norm(f"{at}.attention.output.LayerNorm")
        add_norm(f"{at}.output.LayerNorm")
    add("pooler.dense.weight", N_EMBD, N_EMBD)
    add("pooler.dense.bias", N_EMBD)
    return weights


def write_bert_directory(
    path: Path,
    weights: Weights,
    *,
    pooling: str | None = "pooling_mode_mean_tokens",
    dtype: str = "F32",
    prefix: str = "",
    fast_tokenizer: bool = True,
    **config: object,
) -> Path:
    """Write config, tokenizer, pooling and weights; `config` overrides entries of config.json (None removes one)."""
    path.mkdir(parents=True, exist_ok=True)
    settings: dict[str, object] = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": len(TINY_VOCABULARY) + 2,  # two ids without a token
        "hidden_size": N_EMBD,
        "num_hidden_layers": N_LAYER,
        "num_attention_heads": N_HEAD,
        "intermediate_size": N_FF,
        "max_position_embeddings": N_CTX,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    } | config
    _write_json(path / "config.json", {key: value for key, value in settings.items() if value is not None})
    _write_tokenizer(path, fast_tokenizer)
    if pooling is not None:
        _write_json(path / "modules.json", [{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}])
        (path / "1_Pooling").mkdir(exist_ok=True)
        _write_json(path / "1_Pooling" / "config.json", {"word_embedding_dimension": N_EMBD, pooling: True})
    (path / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# tiny\n")
    padded = dict(weights)
    table = weights["embeddings.word_embeddings.weight"]
    padded["embeddings.word_embeddings.weight"] = np.vstack([table, np.zeros((2, N_EMBD), np.float32)])
    write_safetensors(path / "model.safetensors", {prefix + name: value for name, value in padded.items()}, dtype)
    return path


def write_safetensors(path: Path, tensors: Weights, dtype: str) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    blob = b""
    for name, value in tensors.items():
        data = encode(value, dtype)
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [len(blob), len(blob) + len(data)]}
        blob += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + blob)


def encode(value: NDArray[np.float32], dtype: str) -> bytes:
    if dtype == "BF16":
        return (value.view(np.uint32) >> 16).astype("<u2").tobytes()
    return value.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def forward(weights: Weights, tokens: list[int]) -> NDArray[np.float64]:
    """Token rows float64[n, n_embd] of the last layer: BERT as its paper has it, GELU by its tanh formula."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    x = w["embeddings.word_embeddings.weight"][tokens] + w["embeddings.position_embeddings.weight"][: len(tokens)]
    x = _layer_norm(x + w["embeddings.token_type_embeddings.weight"][0], w, "embeddings.LayerNorm")
    for layer in range(N_LAYER):
        at = f"encoder.layer.{layer}"
        q, k, v = (_heads(_linear(x, w, f"{at}.attention.self.{part}")) for part in ("query", "key", "value"))
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(N_EMBD / N_HEAD)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ v
        joined = mixed.transpose(1, 0, 2).reshape(len(tokens), N_EMBD)
        x = _layer_norm(x + _linear(joined, w, f"{at}.attention.output.dense"), w, f"{at}.attention.output.LayerNorm")
        inner = _linear(x, w, f"{at}.intermediate.dense")
        inner = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
        x = _layer_norm(x + _linear(inner, w, f"{at}.output.dense"), w, f"{at}.output.LayerNorm")
    return x


def _linear(x: NDArray[np.float64], w: dict[str, NDArray[np.float64]], name: str) -> NDArray[np.float64]:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _layer_norm(x: NDArray[np.float64], w: dict[str, NDArray[np.float64]], name: str) -> NDArray[np.float64]:
    centerd = x - x.mean(axis=-1, keepdims=True)
    scaled = centerd / np.sqrt((centerd**2).mean(axis=-1, keepdims=True) + 1e-12)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def _heads(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x.reshape(len(x), N_HEAD, -1).transpose(1, 0, 2)


def _write_tokenizer(path: Path, fast: bool) -> None:
    if not fast:
        (path / "vocab.txt").write_text("\n".join(TINY_VOCABULARY) + "\n", encoding="utf-8")
        return
    added = [{"id": i, "content": text, "special": True} for i, text in enumerate(TINY_VOCABULARY[:5])]
    vocab = {text: i for i, text in enumerate(TINY_VOCABULARY)}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": vocab}
    normalizer = {"type": "BertNormalizer", "lowercase": True, "strip_accents": None}
    _write_json(path / "tokenizer.json", {"added_tokens": added, "normalizer": normalizer, "model": model})
    names = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": {"content": "[MASK]"}}
    _write_json(path / "tokenizer_config.json", {f"{role}_token": text for role, text in names.items()})


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
