"""MPNet in CrispEmbed's own layout (models/convert-bert-to-gguf.py there), read as if it had ours.

Its architecture is "bert", its keys are those of a Hugging Face config, its vocabulary is written as in the original,
and its table of positions begins with the rows that are never used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

_T = TypeVar("_T")

RAW_VOCABULARY: Final = "gguf-embed.raw_vocabulary"
"""Not in any file: entries are in the original's form, "##ing" continues a word."""

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
_TENSORS: Final = {
    "embd_ln": "token_embd_norm",
    "attn.q": "attn_q",
    "attn.k": "attn_k",
    "attn.v": "attn_v",
    "attn.o": "attn_output",
    "ln1": "attn_output_norm",
    "ffn.fc1": "ffn_up",
    "ffn.fc2": "ffn_down",
    "ln2": "layer_output_norm",
}
_LAYER: Final = re.compile(r"enc\.(\d+)\.(.+)\.(weight|bias)")
_UNUSED: Final = ("pooler.weight", "pooler.bias")
_SPECIAL_IDS: Final = {"bos": 0, "padding": 1, "eos": 2, "seperator": 2}
"""MPNet's; older files of this layout have BERT's 101 for the first one."""


def is_crisp_mpnet(architecture: str, tensors: Mapping[str, object]) -> bool:
    return architecture == "bert" and "rel_attn_bias.weight" in tensors and "enc.0.attn.q.weight" in tensors


def our_metadata(metadata: Mapping[str, _T]) -> dict[str, _T | int | bool | str]:
    """The same facts under our keys; numbers that are missing or impossible stay so, for the checks that follow."""
    ours: dict[str, _T | int | bool | str] = dict(metadata)
    for theirs, name in _KEYS.items():
        if f"bert.{theirs}" in metadata:
            ours[f"mpnet.{name}"] = metadata[f"bert.{theirs}"]
    first, length = metadata.get("bert.position_offset", 0), metadata.get("bert.max_position_embeddings")
    if isinstance(first, int) and isinstance(length, int):
        ours |= {"mpnet.context_length": length - first, f"mpnet.{FIRST_POSITION}": first}
    method = metadata.get("bert.pooling_method", 0)
    if isinstance(method, int) and method in _POOLINGS:
        ours["mpnet.pooling_type"] = _POOLINGS[method]
    ours |= {f"tokenizer.ggml.{role}_token_id": token for role, token in _SPECIAL_IDS.items()}
    ours |= {"tokenizer.ggml.model": "bert", "tokenizer.ggml.add_eos_token": True, RAW_VOCABULARY: True}
    return ours | {
        "general.architecture": "mpnet",
        "mpnet.attention.causal": False,
        "mpnet.attention.relative_buckets_count": 32,
    }


def our_name(name: str) -> str | None:
    """A tensor's name in our layout; None for one that embedding does not need."""
    if name in _UNUSED:
        return None
    layer = _LAYER.fullmatch(name)
    if layer is not None and layer[2] in _TENSORS:
        return f"blk.{layer[1]}.{_TENSORS[layer[2]]}.{layer[3]}"
    stem, _, suffix = name.rpartition(".")
    return f"{_TENSORS.get(stem, stem)}.{suffix}"


def our_entries(entries: Sequence[str]) -> list[str]:
    """The vocabulary in llama.cpp's form: "▁the" begins a word, "ing" continues one; special tokens are unchanged."""
    return [_our_entry(entry) for entry in entries]


def _our_entry(entry: str) -> str:
    if entry.startswith("##") and len(entry) > 2:
        return entry[2:]
    is_special = len(entry) > 2 and entry[0] + entry[-1] in ("[]", "<>")
    return entry if is_special else "▁" + entry
