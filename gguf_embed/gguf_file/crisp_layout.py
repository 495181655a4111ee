"""Files of CrispEmbed (models/convert-bert-to-gguf.py there), read as if they had our layout: BERT, XLM-R and MPNet.

In its own layout, the architecture is "bert", the keys are those of a Hugging Face config, layers are `enc.N`, the
vocabulary is as in the original, and the table of positions begins with the rows that are never used. In its other one
("xlmr", or "bert" with a classifier), layers and keys are ours.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final, TypeVar

_T = TypeVar("_T")

RAW_VOCABULARY: Final = "gguf-embed.raw_vocabulary"
"""Not in any file: WordPiece entries are in the original's form, "##ing" continues a word."""

UNIGRAM: Final = "gguf-embed.unigram"
"""Not in any file: the tokenizer is SentencePiece's, of which the file has entries and scores."""

OTHER_LAYOUT: Final = "gguf-embed.crisp_layout"
"""Not in any file: this one is CrispEmbed's, which llama.cpp does not read."""

FIRST_POSITION: Final = "first_position"
"""`<architecture>.<key>`: the row of position 0 in the table of positions, if it is not the first."""

_KEYS: Final = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "intermediate_size": "feed_forward_length",
    "layer_norm_eps": "attention.layer_norm_epsilon",
}
_POOLINGS: Final = {0: 1, 1: 2, 2: 3}  # mean, cls and last, numbered as in `pooling_type`
_RANK: Final = 4
_WORDPIECE, _SENTENCEPIECE = 0, 2
"""Numbers in `tokenizer.ggml.type`."""

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
}
_DENSE_HEAD: Final = {"classifier.dense": "cls", "classifier.out_proj": "cls.output"}
_POOLER_HEAD: Final = {"pooler": "cls", "classifier": "cls.output"}
"""Of BERT, whose classifier reads the pooler's output."""

_LAYER: Final = re.compile(r"enc\.(\d+)\.(.+)\.(weight|bias)")
_FIRST_LAYER: Final = "enc.0.attn.q.weight"
_MPNET_IDS: Final = {"bos": 0, "padding": 1, "eos": 2, "seperator": 2}
"""Older files of this layout have BERT's 101 for the first one."""


def architecture_of(architecture: str, metadata: Mapping[str, object], tensors: Collection[str]) -> str | None:
    """Ours, for a file that CrispEmbed wrote and that can be read here; None for any other one."""
    if architecture == "xlmr":
        return "bert"
    if architecture != "bert" or _is_of_others(metadata, tensors):
        return None
    if _FIRST_LAYER not in tensors:
        return "bert" if any(name.startswith("classifier.") for name in tensors) else None
    if "rel_attn_bias.weight" in tensors:
        return "mpnet"
    return "bert" if metadata.get("tokenizer.ggml.type") in (_WORDPIECE, _SENTENCEPIECE) else None


def _is_of_others(metadata: Mapping[str, object], tensors: Collection[str]) -> bool:
    """Whether it is DeBERTa; or ModernBERT, NomicBERT or GTE, which rotate. All are called "bert" as well."""
    return "rel_embd.weight" in tensors or "bert.rope_theta" in metadata


def is_other_crisp(tensors: Collection[str]) -> bool:
    """Whether a file has this layout and was not renamed, because it cannot be read."""
    return _FIRST_LAYER in tensors


def our_metadata(metadata: Mapping[str, _T], ours: str, tensors: Collection[str]) -> dict[str, _T | int | bool | str]:
    """The same facts under our keys; numbers that are missing or impossible stay so, for the checks that follow."""
    found: dict[str, _T | int | bool | str] = dict(metadata)
    found |= {f"bert.{key.removeprefix('xlmr.')}": metadata[key] for key in metadata if key.startswith("xlmr.")}
    for theirs, name in _KEYS.items():
        if f"bert.{theirs}" in found:
            found[f"{ours}.{name}"] = found[f"bert.{theirs}"]
    first = found.get("bert.position_offset", 0)
    length = found.get("bert.max_position_embeddings", found.get("bert.context_length"))
    if isinstance(first, int) and isinstance(length, int):
        found |= {f"{ours}.context_length": length - first, f"{ours}.{FIRST_POSITION}": first}
    method = found.get("bert.pooling_method")
    if isinstance(method, int) and method in _POOLINGS:
        found[f"{ours}.pooling_type"] = _POOLINGS[method]
    if _head_of(tensors):
        found[f"{ours}.pooling_type"] = _RANK
    if found.get("bert.model_type") == "bgem3":
        found["gguf-embed.colbert.skips_first"] = True
    facts: dict[str, int | bool | str] = {
        "general.architecture": ours,
        f"{ours}.attention.causal": False,
        OTHER_LAYOUT: True,
    }
    if ours == "mpnet":
        facts["mpnet.attention.relative_buckets_count"] = 32
    return found | facts | _tokenizer(found, ours)


def _tokenizer(metadata: Mapping[str, object], ours: str) -> dict[str, int | bool | str]:
    kind = metadata.get("tokenizer.ggml.type")
    if kind == _SENTENCEPIECE or metadata.get("tokenizer.ggml.model") == "llama":
        eos = metadata.get("tokenizer.ggml.eos_token_id", 2)
        found: dict[str, int | bool | str] = {"tokenizer.ggml.model": "huggingface", UNIGRAM: True}
        found |= {f"tokenizer.ggml.add_{role}_token": True for role in ("bos", "eos", "sep")}
        return found | ({"tokenizer.ggml.seperator_token_id": eos} if isinstance(eos, int) else {})
    ids: Mapping[str, object] = _MPNET_IDS
    if ours != "mpnet":
        names = {"bos": ("cls",), "seperator": ("sep", "separator")}
        ids = {
            role: metadata[key]
            for role, theirs in names.items()
            for name in theirs
            if (key := f"tokenizer.ggml.{name}_token_id") in metadata
        }
    found = {f"tokenizer.ggml.{role}_token_id": token for role, token in ids.items() if isinstance(token, int)}
    found |= {"tokenizer.ggml.model": "bert"} | ({"tokenizer.ggml.add_eos_token": True} if ours == "mpnet" else {})
    if metadata.get("tokenizer.ggml.pre") == "bert":
        found["tokenizer.ggml.normalizer.lowercase"] = False
    return found | ({RAW_VOCABULARY: True} if kind == _WORDPIECE or ours == "mpnet" else {})


def our_names(names: Collection[str]) -> dict[str, str]:
    """Each tensor's name → the one in our layout. Those that are left out are not needed."""
    heads = _head_of(names)
    return {name: ours for name in names if (ours := _our_name(name, heads)) is not None}


def _head_of(names: Collection[str]) -> Mapping[str, str]:
    """The tensors of the rank head by their stems; empty without one."""
    if "classifier.out_proj.weight" in names:
        return _DENSE_HEAD
    return _POOLER_HEAD if "classifier.weight" in names else {}


def _our_name(name: str, heads: Mapping[str, str]) -> str | None:
    layer = _LAYER.fullmatch(name)
    if layer is not None and layer[2] in _TENSORS:
        return f"blk.{layer[1]}.{_TENSORS[layer[2]]}.{layer[3]}"
    stem, _, suffix = name.rpartition(".")
    if stem in heads:
        return f"{heads[stem]}.{suffix}"
    return None if stem == "pooler" else f"{_TENSORS.get(stem, stem)}.{suffix}" if stem else name


def our_entries(entries: Sequence[str]) -> list[str]:
    """The vocabulary in llama.cpp's form: "▁the" begins a word, "ing" continues one; special tokens are unchanged."""
    return [_our_entry(entry) for entry in entries]


def _our_entry(entry: str) -> str:
    if entry.startswith("##") and len(entry) > 2:
        return entry[2:]
    is_special = len(entry) > 2 and entry[0] + entry[-1] in ("[]", "<>")
    return entry if is_special else "▁" + entry
