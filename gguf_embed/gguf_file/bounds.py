"""Numbers in a GGUF's header for which llama.cpp would end the process, or take all memory: found before it loads them.

The limits are llama.cpp's own where it has some, else far above any model's. Pure: nothing but the header is read, and
for `vocabulary_problem` the list of entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

from gguf_embed.errors import ModelFileError, WayOut
from gguf_embed.gguf_file.bm25_format import WITHOUT_NETWORK
from gguf_embed.gguf_file.constants import STRING, VOCABULARY_TYPES, VocabularyType
from gguf_embed.gguf_file.header import GgufHeader, MetadataValue
from gguf_embed.gguf_file.layout import read_layout
from gguf_embed.gguf_file.stored_tokenizer import has_stored_tokenizer
from gguf_embed.gguf_file.strings import read_strings

MAX_ENTRIES = 2**22
"""Limit on the entries of a vocabulary; the largest ones have a million."""

_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
_MAX_EXPERTS = 512  # LLAMA_MAX_EXPERTS
_MAX_WIDTH = 2**16

_INTEGERS: dict[str, tuple[int, int]] = {
    "block_count": (1, _MAX_LAYERS),
    "context_length": (1, 2**28),
    "embedding_length": (1, _MAX_WIDTH),
    "embedding_length_out": (1, _MAX_WIDTH),
    "feed_forward_length": (0, 2**24),
    "expert_count": (0, _MAX_EXPERTS),
    "expert_used_count": (0, _MAX_EXPERTS),
    "attention.head_count": (0, 2**14),
    "attention.head_count_kv": (0, 2**14),
    "attention.key_length": (1, 2**14),
    "attention.value_length": (1, 2**14),
    "attention.key_length_swa": (1, 2**14),
    "attention.value_length_swa": (1, 2**14),
    "attention.sliding_window": (0, 2**28),
    "attention.relative_buckets_count": (4, 256),
    "attention.max_relative_positions": (4, 2**16),
    "rope.dimension_count": (0, 2**14),
    "vocab_size": (1, MAX_ENTRIES),
}
"""`<architecture>.<key>` → the smallest and the largest value. Also of each number if the file has one per layer."""

_POSITIVE = (
    *("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "attention.group_norm_epsilon"),
    *("rope.freq_base", "rope.freq_base_swa"),
)
_FINITE = (
    *("attention.max_alibi_bias", "attention.clamp_kqv", "attention.scale", "rope.scaling.factor"),
    *("rope.scaling.attn_factor", "residual_scale", "embedding_scale", "logit_scale"),
)

_MIN_ALIGNMENT, _MAX_ALIGNMENT = 8, 2**16
_FLOATS = ("F32", "F16", "BF16")
_NOT_COMPUTED = ("I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K")
_EXPERT_NUMBERS = "tid2eid"  # the only tensors of integers that llama.cpp reads

_ARRAYS = {
    "tokenizer.ggml.tokens": (STRING,),
    "tokenizer.ggml.merges": (STRING,),
    "tokenizer.ggml.scores": (6,),  # float32
    "tokenizer.ggml.token_type": (4, 5),  # uint32, int32
}
"""llama.cpp reads these arrays as this type, whatever type the file gives them."""

_PER_ENTRY = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type")


def check_bounds(header: GgufHeader) -> None:
    """Raise `ModelFileError` that names the first key or tensor no engine can be given."""
    for problem in header_problems(header):
        raise ModelFileError(f"{header.path}: {problem}", [WayOut.OTHER_FILE])


def header_problems(header: GgufHeader) -> Iterator[str]:
    """What is out of bounds, each a clause that names key or tensor, its value, and what is expected."""
    alignment = header.get("general.alignment", int)
    if alignment is not None and not _MIN_ALIGNMENT <= alignment <= _MAX_ALIGNMENT:
        yield f"general.alignment is {alignment}, expected {_MIN_ALIGNMENT} to {_MAX_ALIGNMENT}"
    if header.architecture in WITHOUT_NETWORK:
        return  # its engine checks what it reads
    yield from _number_problems(header)
    yield from _head_problems(header)
    yield from _tensor_problems(header)
    yield from _array_problems(header)


def _number_problems(header: GgufHeader) -> Iterator[str]:
    for name, (lowest, highest) in _INTEGERS.items():
        key = f"{header.architecture}.{name}"
        for number in _numbers(header.metadata.get(key)):
            if not lowest <= number <= highest:
                yield f"{key} is {number}, expected {lowest} to {highest}"
    for name in (*_POSITIVE, *_FINITE):
        key = f"{header.architecture}.{name}"
        fraction = header.get(key, float)
        if fraction is None or (isfinite(fraction) and (fraction > 0 or name in _FINITE)):
            continue
        yield f"{key} is {fraction}, expected a {'positive' if name in _POSITIVE else 'finite'} number"


def _numbers(value: MetadataValue | None) -> tuple[int | float, ...]:
    items = value if isinstance(value, tuple) else (value,)
    return tuple(item for item in items if isinstance(item, (int, float)) and not isinstance(item, bool))


def _head_problems(header: GgufHeader) -> Iterator[str]:
    """Numbers that depend on others: llama.cpp divides by them, or takes more experts than there are."""
    prefix = header.architecture
    n_embd, n_head = (header.get(f"{prefix}.{key}", int) for key in ("embedding_length", "attention.head_count"))
    if n_embd and n_head and n_head > n_embd:
        yield f"{prefix}.attention.head_count is {n_head}, expected at most {prefix}.embedding_length, {n_embd}"
    n_expert, n_used = (header.get(f"{prefix}.{key}", int) or 0 for key in ("expert_count", "expert_used_count"))
    if n_used > n_expert:
        yield f"{prefix}.expert_used_count is {n_used}, expected at most {prefix}.expert_count, {n_expert}"
    if n_expert and not n_used:
        yield f"{prefix}.expert_used_count is {n_used}, expected 1 to {prefix}.expert_count, {n_expert}"


def _tensor_problems(header: GgufHeader) -> Iterator[str]:
    for tensor in header.tensors.values():
        is_vector = sum(n > 1 for n in tensor.shape) <= 1 and not tensor.name.startswith("token_embd.")
        if is_vector and tensor.type not in _FLOATS and _EXPERT_NUMBERS not in tensor.name:
            yield f"tensor {tensor.name} is {tensor.type}, expected F32, F16 or BF16 for a norm or a bias"
        elif tensor.type in _NOT_COMPUTED and _EXPERT_NUMBERS not in tensor.name:
            yield f"tensor {tensor.name} is {tensor.type}, expected a type of weights, such as F16 or Q8_0"
        elif 0 in tensor.shape:
            yield f"tensor {tensor.name} has the shape {list(tensor.shape)}, expected no 0"


def _array_problems(header: GgufHeader) -> Iterator[str]:
    n_entries = header.array_lengths.get("tokenizer.ggml.tokens", 0)
    if n_entries > MAX_ENTRIES:
        yield f"tokenizer.ggml.tokens has {n_entries} entries, expected at most {MAX_ENTRIES}"
        return
    entries = read_layout(header).entries
    for key, types in _ARRAYS.items():
        entry = entries.get(key)
        if entry is None:
            continue
        if key not in header.array_lengths or entry.item_type not in types:
            yield f"{key} has values of the type {entry.item_type}, expected {' or '.join(map(str, types))}"
        elif key in _PER_ENTRY and entry.n_items < n_entries:
            yield f"{key} has {entry.n_items} items, expected one for each of the {n_entries} vocabulary entries"


def vocabulary_problem(header: GgufHeader) -> str | None:
    """Why llama.cpp cannot tokenize with the entries, as a clause; None if it can. Reads all of them.

    It asserts that entries differ, and ends the process for a text that needs an entry which is not there.
    """
    if has_stored_tokenizer(header):
        return None  # llama.cpp does not read it
    name = header.get("tokenizer.ggml.model", str) or ""
    kind = VOCABULARY_TYPES.get(name)
    if kind is None:
        return f"tokenizer.ggml.model is {name!r}, expected one of {', '.join(VOCABULARY_TYPES)}"
    entries = read_strings(header.path, "tokenizer.ggml.tokens", errors="surrogateescape")
    known = set(entries)
    if len(known) < len(entries):
        twice = _first_twice(entries)
        if twice:  # llama.cpp names entries without text by their number
            return f"tokenizer.ggml.tokens has the entry {_shown(twice)} twice"
    if kind is VocabularyType.SPM:
        missing = next((f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in known), None)
        if missing is not None:
            return f"tokenizer.ggml.model is {name!r} (SentencePiece), but its vocabulary has no entry {missing}"
    if kind is VocabularyType.RWKV and not header.architecture.startswith(("rwkv", "arwkv")):
        return f"tokenizer.ggml.model is {name!r}, which {header.architecture} models do not have"
    return None


def _first_twice(entries: list[str]) -> str:
    seen = {""}
    for entry in entries:
        if entry in seen and entry:
            return entry
        seen.add(entry)
    return ""


def _shown(entry: str) -> str:
    return repr(entry[:40].encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
