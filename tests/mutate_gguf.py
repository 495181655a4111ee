"""Makes damaged GGUFs from tiny ones, the same for a seed: metadata, vocabularies, types, weights, single bytes."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from gguf_embed.gguf_file.constants import ARRAY, SCALAR_FORMATS, STRING

U32, I32, F32, BOOL = 4, 5, 6, 7
_ALIGNMENT = 32
_F32_TYPE = int(gguf.GGMLQuantizationType.F32)
_SIZES = {24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 0: 4, 1: 2, 30: 2}  # bytes of a number in tensors of these types


@dataclass(frozen=True)
class Value:
    """One metadata value. `type` is GGUF's number; `items` are those of an array with values of `type`, else one."""

    type: int
    items: tuple[Any, ...]
    is_array: bool = False


@dataclass(frozen=True)
class Tensor:
    """One tensor with its bytes; `shape` in ggml's order."""

    name: str
    shape: tuple[int, ...]
    type: int
    data: bytes


@dataclass(frozen=True)
class Model:
    """A whole GGUF in memory, to be changed and written."""

    metadata: dict[str, Value]
    tensors: tuple[Tensor, ...]
    alignment: int = _ALIGNMENT
    kept: dict[str, str] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"].items[0])

    def with_value(self, key: str, kind: int, *items: Any, is_array: bool = False) -> Model:
        return replace(self, metadata={**self.metadata, key: Value(kind, items, is_array)})

    def without(self, key: str) -> Model:
        return replace(self, metadata={name: value for name, value in self.metadata.items() if name != key})

    def with_tensor(self, name: str, change: Callable[[Tensor], Tensor]) -> Model:
        return replace(self, tensors=tuple(change(t) if t.name == name else t for t in self.tensors))


def read_model(path: Path) -> Model:
    """Read a GGUF with the `gguf` package."""
    reader = gguf.GGUFReader(path)
    metadata: dict[str, Value] = {}
    for key, found in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        is_array = found.types[0] == gguf.GGUFValueType.ARRAY
        kind = int(found.types[-1])
        contents = found.contents()
        metadata[key] = Value(kind, tuple(contents) if is_array else (contents,), is_array)
    tensors = tuple(
        Tensor(t.name, tuple(int(n) for n in t.shape), int(t.tensor_type), t.data.tobytes()) for t in reader.tensors
    )
    return Model(metadata, tensors)


def _string(text: str | bytes) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def _item(kind: int, item: Any) -> bytes:
    return _string(item) if kind == STRING else struct.pack("<" + SCALAR_FORMATS[kind], item)


def as_bytes(model: Model) -> bytes:
    """The file. Tensors follow one another, aligned to `model.alignment`."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(model.tensors), len(model.metadata))]
    for key, value in model.metadata.items():
        head = (
            struct.pack("<IIQ", ARRAY, value.type, len(value.items))
            if value.is_array
            else struct.pack("<I", value.type)
        )
        parts += [_string(key), head, *(_item(value.type, item) for item in value.items)]
    offset = 0
    for tensor in model.tensors:
        parts += [_string(tensor.name), struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)]
        parts.append(struct.pack("<IQ", tensor.type, offset))
        offset += _padded(len(tensor.data), model.alignment)
    header = b"".join(parts)
    data = b"".join(t.data.ljust(_padded(len(t.data), model.alignment), b"\0") for t in model.tensors)
    return header.ljust(_padded(len(header), model.alignment), b"\0") + data


def _padded(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


Mutant = tuple[str, bytes]
"""A name that says what was changed, and the file."""

ABSURD = (0, 1, 3, 7, 511, 513, 65_535, 2**20, 2**31 - 1, 2**31, 2**32 - 1)
COUNTS = (
    *("block_count", "embedding_length", "feed_forward_length", "context_length", "attention.head_count"),
    *("attention.head_count_kv", "attention.key_length", "attention.value_length", "expert_count"),
    *("expert_used_count", "embedding_length_out", "rope.dimension_count", "attention.sliding_window"),
    *("pooling_type", "vocab_size"),
)
FRACTIONS = (
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.scaling.factor",
)
ODD_NUMBERS = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e30, -1e-12)
TOKEN_IDS = ("bos", "eos", "unknown", "seperator", "padding", "mask")
FAMILIES = ("llama", "gpt2", "bert", "t5", "rwkv", "plamo2", "none", "nonsense", "")
TENSOR_TYPES = (24, 25, 26, 27, 28, 1, 30, 8, 2, 16)  # I8, I16, I32, I64, F64, F16, BF16, Q8_0, Q4_0, IQ2_XXS
RETYPED = (
    *(
        "token_embd.weight",
        "position_embd.weight",
        "token_types.weight",
        "token_embd_norm.weight",
        "output_norm.weight",
    ),
    *("blk.0.attn_q.weight", "blk.0.attn_q.bias", "blk.0.attn_norm.weight", "blk.0.attn_output_norm.weight"),
    *("blk.0.layer_output_norm.bias", "blk.0.ffn_up.weight", "blk.0.ffn_up.bias", "cls.output.weight", "cls.bias"),
)


def mutants(model: Model, seed: int) -> Iterator[Mutant]:
    """All mutants of one model, named. The same for a seed."""
    yield from ((name, as_bytes(changed)) for name, changed in _metadata_mutants(model))
    yield from ((name, as_bytes(changed)) for name, changed in _vocabulary_mutants(model))
    yield from ((name, as_bytes(changed)) for name, changed in _tensor_mutants(model))
    yield from _byte_mutants(as_bytes(model), random.Random(seed))


def _metadata_mutants(model: Model) -> Iterator[tuple[str, Model]]:
    for name in COUNTS:
        key = f"{model.architecture}.{name}"
        for number in ABSURD:
            yield f"{name}-{number}", model.with_value(key, U32, number)
        if key in model.metadata:
            yield f"{name}-missing", model.without(key)
            yield f"{name}-text", model.with_value(key, STRING, "many")
            yield f"{name}-list", model.with_value(key, U32, 1, 0, 2**31, is_array=True)
    for name in FRACTIONS:
        for number in ODD_NUMBERS:
            yield f"{name}-{number}", model.with_value(f"{model.architecture}.{name}", F32, number)
    for alignment in (0, 1, 2, 4, 8, 16, 33, 64, 4096, 2**31):
        yield f"alignment-{alignment}-said", model.with_value("general.alignment", U32, alignment)
        if 1 <= alignment <= 4096:
            changed = replace(model.with_value("general.alignment", U32, alignment), alignment=alignment)
            yield f"alignment-{alignment}-kept", changed
    for architecture in ("bert", "qwen3", "llama", "gemma-embedding", "mamba", "nonsense", ""):
        yield f"architecture-{architecture}", model.with_value("general.architecture", STRING, architecture)
    yield "causal-flipped", model.with_value(f"{model.architecture}.attention.causal", BOOL, True)


def _vocabulary_mutants(model: Model) -> Iterator[tuple[str, Model]]:
    key, types = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
    tokens = model.metadata[key].items
    n = len(tokens)

    def with_tokens(items: Iterable[str | bytes]) -> Model:
        return model.with_value(key, STRING, *items, is_array=True)

    yield "vocabulary-all-equal", with_tokens(["the"] * n)
    yield "vocabulary-two-equal", with_tokens([*tokens[:-1], tokens[0]])
    yield "vocabulary-empty-entries", with_tokens([""] * n)
    yield "vocabulary-not-utf8", with_tokens([bytes((200 + i % 50, i % 256, i // 256)) for i in range(n)])
    yield "vocabulary-one-not-utf8", with_tokens([*tokens[:-1], b"\xff\xfe\xfd"])
    yield "vocabulary-truncated-utf8", with_tokens([*tokens[:-1], "é".encode()[:1]])
    yield "vocabulary-without-mark", with_tokens([t.replace("▁", "") or f"x{i}" for i, t in enumerate(tokens)])
    yield "vocabulary-without-mark-distinct", with_tokens([f"{t.replace('▁', '')}{i}" for i, t in enumerate(tokens)])
    yield "vocabulary-half", with_tokens(tokens[: n // 2])
    yield "vocabulary-one", with_tokens(tokens[:1])
    yield "vocabulary-none", with_tokens([])
    yield "vocabulary-longer", with_tokens([*tokens, *(f"more{i}" for i in range(100))])
    yield "vocabulary-huge-entry", with_tokens([*tokens[:-1], "x" * 200_000])
    yield "vocabulary-nul", with_tokens([*tokens[:-1], "a\0b"])
    yield "vocabulary-numbers", model.with_value(key, I32, *range(n), is_array=True)
    for kind in (0, 2, 3, 5, 6, 77, -1):
        yield f"types-all-{kind}", model.with_value(types, I32, *[kind] * n, is_array=True)
    yield "types-short", model.with_value(types, I32, 1, 1, is_array=True)
    yield "types-bytes", model.with_value(types, 0, *[1] * n, is_array=True)
    yield "types-missing", model.without(types)
    yield "scores-short", model.with_value("tokenizer.ggml.scores", F32, 1.0, is_array=True)
    yield "scores-nan", model.with_value("tokenizer.ggml.scores", F32, *[math.nan] * n, is_array=True)
    yield "scores-bytes", model.with_value("tokenizer.ggml.scores", 0, *[1] * n, is_array=True)
    for merges in (["a"], ["a b c", "  "], ["zz zz"], [""]):
        yield f"merges-{merges[0]!r}", model.with_value("tokenizer.ggml.merges", STRING, *merges, is_array=True)
    for family in FAMILIES:
        yield f"tokenizer-{family}", model.with_value("tokenizer.ggml.model", STRING, family)
        typed = model.with_value("tokenizer.ggml.model", STRING, family)
        yield (
            f"tokenizer-{family}-scores",
            typed.with_value("tokenizer.ggml.scores", F32, *[float(-i) for i in range(n)], is_array=True),
        )
    for rules in ("default", "llama-bpe", "nonsense", "jina-v2-zh", ""):
        yield f"pre-{rules}", model.with_value("tokenizer.ggml.pre", STRING, rules)
    for name in TOKEN_IDS:
        for number in (n, n + 1, 2**31 - 1, 2**32 - 1):
            yield f"{name}-id-{number}", model.with_value(f"tokenizer.ggml.{name}_token_id", U32, number)
    yield "charsmap", model.with_value("tokenizer.ggml.precompiled_charsmap", 0, *[255] * 64, is_array=True)


def _tensor_mutants(model: Model) -> Iterator[tuple[str, Model]]:
    names = {tensor.name for tensor in model.tensors}
    for name in RETYPED:
        if name not in names:
            continue
        for kind in TENSOR_TYPES:
            yield f"type-{name}-{kind}", model.with_tensor(name, lambda t, kind=kind: _retyped(t, kind))
        yield f"missing-{name}", replace(model, tensors=tuple(t for t in model.tensors if t.name != name))
        for label, shape in (("flat", (1, 1)), ("empty", (0,)), ("long", (7, 3, 2))):
            yield f"shape-{label}-{name}", model.with_tensor(name, lambda t, shape=shape: _reshaped(t, shape))
        for value in (math.nan, math.inf, 0.0, 1e38):
            yield f"filled-{value}-{name}", model.with_tensor(name, lambda t, value=value: _filled(t, value))
    yield "zero-weights", replace(model, tensors=tuple(_filled(t, 0.0) for t in model.tensors))
    yield "nan-weights", replace(model, tensors=tuple(_filled(t, math.nan) for t in model.tensors))
    yield "no-tensors", replace(model, tensors=())


def _retyped(tensor: Tensor, kind: int) -> Tensor:
    """The same shape with another type, and random bytes of the size it needs."""
    n = math.prod(tensor.shape)
    quant = gguf.GGMLQuantizationType(kind)
    block, size = gguf.GGML_QUANT_SIZES[quant]
    n_bytes = -(-n // block) * size
    return replace(tensor, type=kind, data=np.random.default_rng(kind).bytes(n_bytes))


def _reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    return Tensor(tensor.name, shape, _F32_TYPE, np.ones(math.prod(shape), np.float32).tobytes())


def _filled(tensor: Tensor, value: float) -> Tensor:
    if tensor.type != _F32_TYPE:
        return replace(tensor, data=bytes(len(tensor.data)))
    return replace(tensor, data=np.full(math.prod(tensor.shape), value, np.float32).tobytes())


def _byte_mutants(data: bytes, numbers: random.Random) -> Iterator[Mutant]:
    n_header = len(data) // 4
    for number in range(30):
        yield f"header-bytes-{number}", _flipped(data, range(n_header), 1 + number % 4, numbers)
    for number in range(10):
        yield f"weights-bytes-{number}", _flipped(data, range(n_header, len(data)), 64, numbers)
    for part in (0.001, 0.1, 0.3, 0.5, 0.9, 0.999):
        yield f"truncated-{part}", data[: int(len(data) * part)]
    yield "last-half-zero", data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
    yield "git-lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    yield "html", b"<!DOCTYPE html><html></html>"
    yield "two-files", data + data


def _flipped(data: bytes, where: Sequence[int], n: int, numbers: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(n):
        changed[numbers.choice(where)] ^= 1 << numbers.randrange(8)
    return bytes(changed)
