"""Files of CrispEmbed (models/convert-bert-to-gguf.py there), read as if they had our layout.

In its own layout, the architecture is "bert" for BERT, RoBERTa, XLM-R, MPNet and ModernBERT, the keys are those of a
Hugging Face config, layers are `enc.N`, the vocabulary is as in the original, and the table of positions begins with
the rows that are never used. In its other one ("xlmr", or "bert" with a classifier), layers and keys are ours.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from gguf_embed.gguf_file.crisp_tokenizer import (
    MERGE_TENSORS,
    MERGES_AT,
    MERGES_BYTES,
    RAW_VOCABULARY,
    UNIGRAM,
    is_readable,
    tokenizer_facts,
)

CRISP_LAYOUT: Final = "gguf-embed.crisp_layout"
"""Not in any file: this one is CrispEmbed's, which llama.cpp does not read."""

NOT_IN_FILES: Final = (CRISP_LAYOUT, RAW_VOCABULARY, UNIGRAM, MERGES_AT, MERGES_BYTES)
"""Keys that are made here. A file that has them is not believed."""

FIRST_POSITION: Final = "first_position"
"""`<architecture>.<key>`: the row of position 0 in the table of positions, if it is not the first."""

_KEYS: Final = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "intermediate_size": "feed_forward_length",
    "layer_norm_eps": "attention.layer_norm_epsilon",
}
_MODERN_KEYS: Final = {
    "rope_theta_global": "rope.freq_base",
    "rope_theta": "rope.freq_base_swa",
    "local_attention": "attention.sliding_window",
    "global_attn_every_n": "attention.sliding_window_pattern",
    "ffn_act": "hidden_activation",
}
_MODERN_DEFAULTS: Final = {"attention.sliding_window": 128, "attention.sliding_window_pattern": 3}
_MODERN_EPSILON: Final = 1e-5
"""CrispEmbed writes that of BERT."""

_CLS, _RANK = 2, 4
"""Numbers in `pooling_type`, where mean, cls and last are larger by 1 than in `pooling_method`."""

_TENSORS: Final = {
    "embd_ln": "token_embd_norm",
    "token_type_embd": "token_types",
    "attn.q": "attn_q",
    "attn.k": "attn_k",
    "attn.v": "attn_v",
    "attn.o": "attn_output",
    "ln1": "attn_output_norm",
    "ffn.fc1": "ffn_up",
    "ffn.fc2": "ffn_down",
    "ln2": "layer_output_norm",
    "classifier.dense": "cls",
    "classifier.ln": "cls.norm",
    "classifier.out_proj": "cls.output",
}
_MODERN_TENSORS: Final = _TENSORS | {
    "ln1": "attn_norm",
    "ln2": "ffn_norm",
    "ffn_up_gate": "ffn_up",
    "final_norm": "output_norm",
}
_POOLER_HEAD: Final = {"pooler": "cls", "classifier": "cls.output"}
"""Of BERT, whose classifier reads the pooler's output. No other head does."""

_LAYER: Final = re.compile(r"enc\.(\d+)\.(.+)\.(weight|bias)")
_FIRST_LAYER: Final = "enc.0.attn.q.weight"


def architecture_of(architecture: str, metadata: Mapping[str, object], tensors: Collection[str]) -> str | None:
    """Ours, for a file that CrispEmbed wrote and that can be read here; None for any other one."""
    if "rel_embd.weight" in tensors:  # DeBERTa
        return None
    if architecture == "xlmr":
        return "bert" if metadata.get("tokenizer.ggml.model") == "llama" else None  # else the entries are mangled
    if architecture != "bert":
        return None
    if _FIRST_LAYER not in tensors:
        return "bert" if any(name.startswith("classifier.") for name in tensors) else None
    if "rel_attn_bias.weight" in tensors:
        return "mpnet"
    if not is_readable(metadata):
        return None
    if "bert.rope_theta_global" in metadata:
        return "modern-bert"
    return None if "bert.rope_theta" in metadata else "bert"  # NomicBERT and GTE have it


def is_unread(architecture: str, tensors: Collection[str]) -> bool:
    """Whether a file is CrispEmbed's, and has kept its names because it cannot be read here."""
    return architecture == "bert" and _FIRST_LAYER in tensors


def our_metadata(metadata: Mapping[str, Any], ours: str, tensors: Collection[str]) -> dict[str, Any]:
    """The same facts under our keys; numbers that are missing or impossible stay so, for the checks that follow."""
    found = dict(metadata)
    found |= {f"bert.{key.removeprefix('xlmr.')}": metadata[key] for key in metadata if key.startswith("xlmr.")}
    if ours == "modern-bert":
        found |= {f"{ours}.{key}": value for key, value in _MODERN_DEFAULTS.items()}
    for theirs, name in (_KEYS | (_MODERN_KEYS if ours == "modern-bert" else {})).items():
        if f"bert.{theirs}" in found:
            found[f"{ours}.{name}"] = found[f"bert.{theirs}"]
    first = found.get("bert.position_offset", 0)
    length = found.get("bert.max_position_embeddings", found.get("bert.context_length"))
    if isinstance(first, int) and isinstance(length, int):
        found |= {f"{ours}.context_length": length - first, f"{ours}.{FIRST_POSITION}": first}
    found |= _poolings(found, ours, has_head=any(name.startswith("classifier.") for name in tensors))
    if "classifier.dense.weight" in tensors:
        found[f"{ours}.classifier.activation"] = found.get("bert.classifier_act", "tanh")
    if found.get("bert.model_type") == "bgem3":
        found["gguf-embed.colbert.skips_first"] = True
    found |= {"general.architecture": ours, f"{ours}.attention.causal": False, CRISP_LAYOUT: True}
    if ours == "mpnet":
        found["mpnet.attention.relative_buckets_count"] = 32
    if ours == "modern-bert":
        found["modern-bert.attention.layer_norm_epsilon"] = _MODERN_EPSILON
    return found | tokenizer_facts(found, ours, pads_positions=first not in (0, None))


def _poolings(metadata: Mapping[str, Any], ours: str, *, has_head: bool) -> dict[str, int]:
    """Of the model, mean if it does not say; the rank head reads the first token."""
    if has_head:
        return {f"{ours}.pooling_type": _RANK, f"{ours}.classifier.pooling_type": _CLS}
    method = metadata.get("bert.pooling_method", None if "bert.pooling_type" in metadata else 0)
    return {f"{ours}.pooling_type": method + 1} if isinstance(method, int) else {}


def our_names(names: Collection[str], ours: str) -> dict[str, str]:
    """Each tensor's name → the one in our layout. Those that are left out are not needed, or no weights."""
    stems = _MODERN_TENSORS if ours == "modern-bert" else _TENSORS
    if "classifier.weight" in names:
        stems = stems | _POOLER_HEAD
    renamed = {name: _our_name(name, stems) for name in names}
    return {name: new for name, new in renamed.items() if new is not None}


def _our_name(name: str, stems: Mapping[str, str]) -> str | None:
    if name in MERGE_TENSORS:
        return None
    layer = _LAYER.fullmatch(name)
    if layer is not None and layer[2] in stems:
        return f"blk.{layer[1]}.{stems[layer[2]]}.{layer[3]}"
    stem, _, suffix = name.rpartition(".")
    if stem == "pooler" and stem not in stems:
        return None
    return f"{stems.get(stem, stem)}.{suffix}" if stem else name


def our_entries(entries: Sequence[str]) -> list[str]:
    """The vocabulary in llama.cpp's form: "▁the" begins a word, "ing" continues one; special tokens are unchanged."""
    return [_our_entry(entry) for entry in entries]


def _our_entry(entry: str) -> str:
    if entry.startswith("##") and len(entry) > 2:
        return entry[2:]
    is_special = len(entry) > 2 and entry[0] + entry[-1] in ("[]", "<>")
    return entry if is_special else "▁" + entry
