"""Tiny random decoders as Hugging Face directories, with the same weights on every machine.

Used by the tests and by `tests/data/make_decoder_reference.py`, so it needs numpy and the standard library only, and
the weights come from numpy's legacy generator, whose numbers never change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.bert_directory import Weights, write_safetensors

N_EMBD, N_HEAD, N_HEAD_KV, HEAD_DIM, N_FF, N_CTX = 64, 4, 2, 32, 96, 512
VECTOR_TEXTS = ("plain", "space_runs", "accents", "chinese", "korean", "hindi", "emoji", "code", "long_word", "mixed")


@dataclass(frozen=True)
class DecoderModel:
    """One model: its config, its tokenizer's name in the references, and what follows the transformer."""

    architecture: str
    tokenizer: str
    pooling: str = ""  # sentence-transformers' flag; empty: no modules.json
    config: Mapping[str, Any] = field(default_factory=dict)
    dense: tuple[tuple[int, int], ...] = ()  # (in, out) of each Dense module
    rerank: bool = False
    prefix: str = ""  # before the names of all tensors but the head's
    scale: float = 0.25  # of the random matrices


_QWEN = {"rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_theta": 1000000.0, "attention_bias": False}
_GEMMA = {
    "model_type": "gemma3_text",
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "query_pre_attn_scalar": HEAD_DIM,
    "sliding_window": 16,  # most texts are longer
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    "num_hidden_layers": 4,
    "use_bidirectional_attention": True,
}
MODELS = {
    "qwen3_embedding": DecoderModel(
        "Qwen3ForCausalLM",
        "qwen3_embedding",
        "pooling_mode_lasttoken",
        _QWEN | {"model_type": "qwen3", "tie_word_embeddings": True},
    ),
    "qwen2_embedding": DecoderModel(
        "Qwen2Model",
        "qwen3_embedding",
        "pooling_mode_mean_tokens",
        _QWEN | {"model_type": "qwen2", "head_dim": N_EMBD // N_HEAD, "use_sliding_window": False},
    ),
    "qwen3_reranker": DecoderModel(
        "Qwen3ForCausalLM",
        "qwen3_embedding",
        config=_QWEN | {"model_type": "qwen3", "tie_word_embeddings": True, "num_hidden_layers": 2},
        rerank=True,
        prefix="model.",
    ),
    "gemma_embedding": DecoderModel(
        "Gemma3TextModel", "gemma", "pooling_mode_mean_tokens", _GEMMA, dense=((N_EMBD, 160), (160, N_EMBD))
    ),
    "gemma_plain": DecoderModel("Gemma3TextModel", "gemma_trained", "pooling_mode_mean_tokens", _GEMMA),
}


def n_vocab_of(tokenizer: Mapping[str, Any]) -> int:
    """Rows of the embeddings: a few more than there are tokens."""
    fast = tokenizer["tokenizer.json"]
    ids = [token["id"] for token in fast["added_tokens"]]
    vocab = fast["model"]["vocab"]
    ids += list(vocab.values()) if isinstance(vocab, dict) else range(len(vocab))
    return max(ids) + 4


def random_weights(model: DecoderModel, n_vocab: int, seed: int = 7) -> Weights:
    """All tensors under Hugging Face's names, PyTorch's (out, in) order."""
    random = np.random.RandomState(seed)
    gemma = model.architecture.startswith("Gemma")
    weights: Weights = {}

    def matrix(name: str, *shape: int, scale: float = model.scale) -> None:
        weights[name] = (random.standard_normal(shape) * scale).astype(np.float32)

    def norm(name: str, n: int) -> None:
        weights[name] = (random.standard_normal(n) * 0.1 + (0.0 if gemma else 1.0)).astype(np.float32)

    head_dim = model.config.get("head_dim", HEAD_DIM)
    matrix("embed_tokens.weight", n_vocab, N_EMBD, scale=0.1 if gemma else 1.0)
    for layer in range(model.config.get("num_hidden_layers", 3)):
        at = f"layers.{layer}"
        for part, n_out in (("q", N_HEAD), ("k", N_HEAD_KV), ("v", N_HEAD_KV)):
            matrix(f"{at}.self_attn.{part}_proj.weight", n_out * head_dim, N_EMBD)
            if model.architecture.startswith("Qwen2"):
                matrix(f"{at}.self_attn.{part}_proj.bias", n_out * head_dim)
            elif part != "v":
                norm(f"{at}.self_attn.{part}_norm.weight", head_dim)
        matrix(f"{at}.self_attn.o_proj.weight", N_EMBD, N_HEAD * head_dim)
        for part in ("gate", "up"):
            matrix(f"{at}.mlp.{part}_proj.weight", N_FF, N_EMBD)
        matrix(f"{at}.mlp.down_proj.weight", N_EMBD, N_FF)
        norms = ("input", "post_attention") + (("pre_feedforward", "post_feedforward") if gemma else ())
        for part in norms:
            norm(f"{at}.{part}_layernorm.weight", N_EMBD)
    norm("norm.weight", N_EMBD)
    return {model.prefix + name: value for name, value in weights.items()}


def write_decoder_directory(
    path: Path,
    model: DecoderModel,
    tokenizer: Mapping[str, Any],
    *,
    extra: Weights | None = None,
    **config: object,
) -> Path:
    """Write config, tokenizer, modules and weights; `config` overrides entries of config.json (None removes one)."""
    path.mkdir(parents=True, exist_ok=True)
    n_vocab = n_vocab_of(tokenizer)
    settings = {
        "architectures": [model.architecture],
        "vocab_size": n_vocab,
        "hidden_size": N_EMBD,
        "num_hidden_layers": 3,
        "num_attention_heads": N_HEAD,
        "num_key_value_heads": N_HEAD_KV,
        "head_dim": HEAD_DIM,
        "intermediate_size": N_FF,
        "max_position_embeddings": N_CTX,
        **model.config,
        **config,
    }
    _write_json(path / "config.json", {key: value for key, value in settings.items() if value is not None})
    write_tokenizer(path, tokenizer)
    write_safetensors(path / "model.safetensors", random_weights(model, n_vocab) | (extra or {}), "F32")
    if model.pooling:
        _write_modules(path, model)
    return path


def write_tokenizer(path: Path, tokenizer: Mapping[str, Any]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    _write_json(path / "tokenizer.json", tokenizer["tokenizer.json"])
    # else transformers builds the class that belongs to the model's type, with rules of its own
    own_rules = {"tokenizer_class": "PreTrainedTokenizerFast"}
    _write_json(path / "tokenizer_config.json", tokenizer["tokenizer_config.json"] | own_rules)


def _write_modules(path: Path, model: DecoderModel) -> None:
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules += [(f"{index + 2}_Dense", "Dense") for index in range(len(model.dense))]
    entries = [
        {"idx": index, "name": str(index), "path": folder, "type": f"sentence_transformers.models.{kind}"}
        for index, (folder, kind) in enumerate(modules)
    ]
    _write_json(path / "modules.json", entries)
    _write_json(path / "sentence_bert_config.json", {"max_seq_length": N_CTX, "do_lower_case": False})
    (path / "1_Pooling").mkdir(exist_ok=True)
    flags = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    pooling = {f"pooling_mode_{flag}": f"pooling_mode_{flag}" == model.pooling for flag in flags}
    _write_json(path / "1_Pooling" / "config.json", {"word_embedding_dimension": N_EMBD, **pooling})
    random = np.random.RandomState(11)
    for index, (n_in, n_out) in enumerate(model.dense):
        folder = path / f"{index + 2}_Dense"
        folder.mkdir(exist_ok=True)
        identity = "torch.nn.modules.linear.Identity"
        _write_json(
            folder / "config.json",
            {"in_features": n_in, "out_features": n_out, "bias": False, "activation_function": identity},
        )
        weight = (random.standard_normal((n_out, n_in)) * 0.2).astype(np.float32)
        write_safetensors(folder / "model.safetensors", {"linear.weight": weight}, "F32")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
