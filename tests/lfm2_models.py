"""Tiny LFM2-ColBERTs with random weights: a decoder as LFM2's, and an encoder as LFM2.5's.

`tests/data/make_lfm2_reference.py` writes the models with this, too.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.convert.bert_directory import Weights, write_safetensors
from tests.convert.tokenizers.decoder_directory import n_vocab_of, write_tokenizer

DATA = Path(__file__).parent / "data" / "lfm2"
TOKENIZER = "llama3"
DECODER, ENCODER = "Lfm2Model", "Lfm2BidirectionalModel"
N_EMBD, N_HEAD, N_HEAD_KV, N_FF, N_DIMS, N_KERNEL = 64, 4, 2, 96, 16, 3
LAYERS = ("conv", "full_attention", "conv", "conv", "full_attention")
PREFIXES = ("[Q] ", "[D] ")
SKIPPED = ("!", '"', "#", "$", "%", "&", "'", "(", ")", "*", "+", ",", "-", ".", "/", ":", ";", "<", "=", ">", "?")
SKIPPED = (*SKIPPED, "@", "[", "\\", "]", "^", "_", "`", "{", "|", "}", "~")
PYLATE = {
    "model_type": "ColBERT",
    "query_prefix": PREFIXES[0],
    "document_prefix": PREFIXES[1],
    "query_length": 32,
    "document_length": 512,
    "attend_to_expansion_tokens": False,
    "skiplist_words": list(SKIPPED),
}


def with_prefixes(tokenizer: dict[str, Any]) -> dict[str, Any]:
    made = deepcopy(tokenizer)
    added = made["tokenizer.json"]["added_tokens"]
    first = max(token["id"] for token in added) + 1
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    added += [{"id": first + n, "content": text} | flags for n, text in enumerate(PREFIXES)]
    return made


def config_of(architecture: str, n_vocab: int) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "auto_map": {"AutoModel": f"modeling_lfm2_bidirectional.{architecture}"},
        "model_type": "lfm2",
        "vocab_size": n_vocab,
        "hidden_size": N_EMBD,
        "num_hidden_layers": len(LAYERS),
        "num_attention_heads": N_HEAD,
        "num_key_value_heads": N_HEAD_KV,
        "intermediate_size": N_FF,
        "block_auto_adjust_ff_dim": False,
        "max_position_embeddings": 2048,
        "norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "conv_L_cache": N_KERNEL,
        "conv_bias": False,
        "layer_types": list(LAYERS),
    }


def random_weights(n_vocab: int) -> Weights:
    """All tensors under Hugging Face's names, PyTorch's (out, in) order."""
    random = np.random.RandomState(3)
    weights: Weights = {}

    def matrix(name: str, *shape: int, scale: float = 0.25) -> None:
        weights[f"{name}.weight"] = (random.standard_normal(shape) * scale).astype(np.float32)

    def norm(name: str, n: int) -> None:
        weights[f"{name}.weight"] = (random.standard_normal(n) * 0.1 + 1.0).astype(np.float32)

    head_dim = N_EMBD // N_HEAD
    matrix("embed_tokens", n_vocab, N_EMBD, scale=1.0)
    norm("embedding_norm", N_EMBD)
    for layer, kind in enumerate(LAYERS):
        at = f"layers.{layer}"
        norm(f"{at}.operator_norm", N_EMBD)
        norm(f"{at}.ffn_norm", N_EMBD)
        for part, shape in (("w1", (N_FF, N_EMBD)), ("w2", (N_EMBD, N_FF)), ("w3", (N_FF, N_EMBD))):
            matrix(f"{at}.feed_forward.{part}", *shape)
        if kind == "conv":
            matrix(f"{at}.conv.conv", N_EMBD, 1, N_KERNEL, scale=0.5)
            matrix(f"{at}.conv.in_proj", 3 * N_EMBD, N_EMBD)
            matrix(f"{at}.conv.out_proj", N_EMBD, N_EMBD)
            continue
        for part, n_out in (("q", N_HEAD), ("k", N_HEAD_KV), ("v", N_HEAD_KV)):
            matrix(f"{at}.self_attn.{part}_proj", n_out * head_dim, N_EMBD)
        matrix(f"{at}.self_attn.out_proj", N_EMBD, N_EMBD)
        for part in ("q", "k"):
            norm(f"{at}.self_attn.{part}_layernorm", head_dim)
    return weights


def projection() -> Weights:
    return {"linear.weight": (np.random.RandomState(4).standard_normal((N_DIMS, N_EMBD)) * 0.2).astype(np.float32)}


def write_lfm2(path: Path, architecture: str, tokenizer: dict[str, Any], **config: object) -> Path:
    """The directory as PyLate writes it; `config` overrides entries of config.json."""
    made = with_prefixes(tokenizer)
    n_vocab = n_vocab_of(made)
    write_tokenizer(path, made)
    write_safetensors(path / "model.safetensors", random_weights(n_vocab), "F32")
    (path / "1_Dense").mkdir()
    write_safetensors(path / "1_Dense" / "model.safetensors", projection(), "F32")
    identity = "torch.nn.modules.linear.Identity"
    dense = {"in_features": N_EMBD, "out_features": N_DIMS, "bias": False, "activation_function": identity}
    kinds = (("", "sentence_transformers.models.Transformer"), ("1_Dense", "pylate.models.Dense.Dense"))
    for name, content in {
        "config.json": config_of(architecture, n_vocab) | config,
        "config_sentence_transformers.json": PYLATE,
        "modules.json": [
            {"idx": n, "name": str(n), "path": folder, "type": kind} for n, (folder, kind) in enumerate(kinds)
        ],
        "1_Dense/config.json": dense,
    }.items():
        (path / name).write_text(json.dumps(content), "utf-8")
    return path


def as_llama_cpp_writes_it(converted: Path, output: Path) -> Path:
    """The GGUF as llama.cpp's converter makes it: the projection is a tensor, and nothing says how texts are read."""
    reader = gguf.GGUFReader(converted)
    writer = gguf.GGUFWriter(output, "lfm2")
    for key, field in reader.fields.items():
        if key.startswith(("GGUF.", "gguf-embed.", "general.architecture")):
            continue
        item_type = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], item_type)
    writer.add_embedding_length_out(N_DIMS)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.add_tensor("dense_2.weight", projection()["linear.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return output
