"""GGUFs with faults: copies of the tiny models with changed keys and tensors, written by the gguf package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFValueType

from gguf_embed.types import Pooling
from tests.gguf_models import TINY_VOCABULARY, write_tiny_decoder, write_tiny_encoder

UGM_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
N_UGM = len(TINY_VOCABULARY)


@dataclass(frozen=True)
class Typed:
    """A value with a type of its own choosing."""

    value: Any
    type: GGUFValueType


@dataclass(frozen=True)
class Edit:
    """What is different in a copy. A tensor of None is left out."""

    change: Mapping[str, Any] = field(default_factory=dict)
    drop: Iterable[str] = ()
    tensors: Mapping[str, np.ndarray | None] = field(default_factory=dict)

    def and_then(self, other: Edit) -> Edit:
        return Edit({**self.change, **other.change}, (*self.drop, *other.drop), {**self.tensors, **other.tensors})


def edit(source: Path, output: Path, what: Edit) -> Path:
    """Copy a GGUF with changes. New values get the type that is usual for them: numbers u32, lists of them i32."""
    reader = gguf.GGUFReader(source)
    architecture = what.change.get("general.architecture") or reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(output, architecture)
    old = {key: found for key, found in reader.fields.items() if not key.startswith("GGUF.")}
    for key, found in old.items():
        if key not in (*what.drop, *what.change, "general.architecture"):
            item = found.types[-1] if found.types[0] is GGUFValueType.ARRAY else None
            writer.add_key_value(key, found.contents(), found.types[0], item)
    for key, value in what.change.items():
        if key == "general.alignment":
            writer.add_custom_alignment(value)
        elif key != "general.architecture":
            _add(writer, key, value)
    for tensor in reader.tensors:
        if tensor.name not in what.tensors:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    for name, values in what.tensors.items():
        if values is not None:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return output


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, Typed):
        writer.add_key_value(key, value.value, value.type)
    elif isinstance(value, bytes):
        writer.add_array(key, value)  # of u8
    elif isinstance(value, list):
        items = {str: GGUFValueType.STRING, int: GGUFValueType.INT32, float: GGUFValueType.FLOAT32}[type(value[0])]
        writer.add_key_value(key, value, GGUFValueType.ARRAY, items)
    else:
        kinds = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}
        writer.add_key_value(key, value, kinds.get(type(value), GGUFValueType.STRING))


def contents(path: Path, key: str) -> Any:
    """A metadata value as the gguf package reads it; None when missing."""
    found = gguf.GGUFReader(path).fields.get(key)
    return None if found is None else found.contents()


def encoder(path: Path) -> Path:
    return write_tiny_encoder(path)


def reranker(path: Path) -> Path:
    return write_tiny_encoder(path, pooling=Pooling.RANK, rank_head=True)


def decoder(path: Path) -> Path:
    return write_tiny_decoder(path)


def qwen(path: Path) -> Path:
    """A decoder that calls itself by Qwen's name."""
    return edit(decoder(path.with_suffix(".plain")), path, Edit({"general.name": "Qwen3 Embedding 0.6B"}))


def qwen_reranker(path: Path) -> Path:
    """A decoder with a head of two rows, called by Qwen's name, with its prompt."""
    what = Edit(
        {
            "general.name": "Qwen3-Reranker-0.6B",
            "qwen3.pooling_type": 4,
            "qwen3.classifier.output_labels": ["yes", "no"],
            "tokenizer.chat_template.rerank": "{query} {document}",
        },
        tensors={"cls.output.weight": np.random.default_rng(7).standard_normal((2, 32)).astype(np.float32)},
    )
    return edit(decoder(path.with_suffix(".plain")), path, what)


def bge_m3(path: Path) -> Path:
    """An encoder with a Unigram vocabulary, as XLM-RoBERTa's, called bge-m3 (1024 dimensions in truth)."""
    tokens = [*UGM_SPECIALS, *(f"\u2581{token}" for token in TINY_VOCABULARY[5:])]
    keys = {"tokens": tokens, "model": "t5", "scores": [-float(i) for i in range(N_UGM)]}
    keys |= {"token_type": [3, 3, 3, 2, 3, *[1] * (N_UGM - 5)], "precompiled_charsmap": _charsmap()}
    ids = {"bos": 0, "padding": 1, "eos": 2, "seperator": 2, "unknown": 3, "mask": 4, "cls": 0}
    keys |= {f"{role}_token_id": number for role, number in ids.items()} | {"add_space_prefix": True}
    keys |= {"add_bos_token": True, "add_eos_token": True, "add_sep_token": True}
    change = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    plain = write_tiny_encoder(path.with_suffix(".plain"), pooling=Pooling.CLS)
    return edit(plain, path, Edit(change | {"general.name": "bge-m3"}))


def _charsmap() -> bytes:
    """A trie that matches nothing, and an empty replacement."""
    return (1024).to_bytes(4, "little") + bytes(1024) + b"\0\0"


def roberta(path: Path) -> Path:
    """An encoder with a byte-level BPE vocabulary."""
    source = gguf.GGUFReader(decoder(path.with_suffix(".words")))
    tokens = source.fields["tokenizer.ggml.tokens"].contents()
    vocabulary = (*TINY_VOCABULARY[:5], *(f"w{i}" for i in range(len(tokens) - 5)))
    plain = write_tiny_encoder(path.with_suffix(".plain"), vocab=vocabulary)
    change = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "roberta-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": source.fields["tokenizer.ggml.token_type"].contents(),
        "tokenizer.ggml.merges": source.fields["tokenizer.ggml.merges"].contents(),
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
        "tokenizer.ggml.seperator_token_id": 257,
    }
    dropped = [f"tokenizer.ggml.{role}_token_id" for role in ("unknown", "padding", "mask")]
    return edit(plain, path, Edit(change, dropped))


Builder = Callable[[Path], Path]
