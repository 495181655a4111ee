"""Architecture, required keys, context and dimensions: whether llama.cpp loads the file, and for which lengths."""

from __future__ import annotations

from collections.abc import Iterator

from gguf_embed.doctor.effective_special_tokens import ADD_BOS, ADD_EOS, ADD_SEP, ID_KEYS, number
from gguf_embed.doctor.evidence import Evidence
from gguf_embed.doctor.findings import Change, Finding, ValueType, note, serious, sets, uint, warning
from gguf_embed.doctor.llama_facts import ARCHITECTURES
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file import towers
from gguf_embed.gguf_file.bm25_format import WITHOUT_NETWORK
from gguf_embed.gguf_file.constants import ARRAY
from gguf_embed.gguf_file.facts import check_can_embed
from gguf_embed.gguf_file.graph_only import OWN_ARCHITECTURES

_AGAIN = "convert the model again with llama.cpp's convert_hf_to_gguf.py"
_MAX_UINT32 = 2**32 - 1

_ARCHITECTURE_TYPES = {
    "context_length": ValueType.UINT32,
    "embedding_length": ValueType.UINT32,
    "block_count": ValueType.UINT32,
    "pooling_type": ValueType.UINT32,
    "attention.causal": ValueType.BOOL,
}
_TOKENIZER_TYPES = {
    "tokenizer.ggml.model": ValueType.STRING,
    "tokenizer.ggml.pre": ValueType.STRING,
    "tokenizer.ggml.token_type_count": ValueType.UINT32,
    "tokenizer.ggml.normalizer.lowercase": ValueType.BOOL,
    "tokenizer.ggml.normalizer.strip_accents": ValueType.BOOL,
    **dict.fromkeys((ADD_BOS, ADD_EOS, ADD_SEP), ValueType.BOOL),
    **dict.fromkeys(ID_KEYS.values(), ValueType.UINT32),
}
"""llama.cpp accepts each key in this type only (`GGUFMeta::GKV::get_kv` in src/llama-model-loader.cpp)."""


def check_architecture(evidence: Evidence) -> Iterator[Finding]:
    """Whether this model can make vectors from text at all."""
    try:
        check_can_embed(evidence.header)
    except ModelFileError as error:
        yield serious("cannot_embed", error.message.removeprefix(f"{evidence.header.path}: "), "use an embedding model")
    if evidence.architecture not in (*ARCHITECTURES, *OWN_ARCHITECTURES, *WITHOUT_NETWORK, towers.TEXT):
        yield serious(
            "architecture_unknown",
            f"general.architecture is {evidence.architecture!r}, which this version of llama.cpp does not know",
            "upgrade gguf-embed and llama-cpp-python, or use another model",
        )


def check_types(evidence: Evidence) -> Iterator[Finding]:
    """Values of a type that llama.cpp does not accept, such as an id stored as a signed number."""
    wanted = {evidence.key(name): kind for name, kind in _ARCHITECTURE_TYPES.items()} | _TOKENIZER_TYPES
    for key, kind in wanted.items():
        entry = evidence.entries.get(key)
        if entry is None or entry.type == kind:
            continue
        found = "an array" if entry.type == ARRAY else f"of type {ValueType(entry.type).name}"
        change = _retyped(key, evidence.header.metadata.get(key), kind)
        message = f"{key} is {found}, but llama.cpp accepts only {kind.name} and refuses the file"
        fix = f"--fix writes it as {kind.name}" if change else f"--fix --set {key}={kind.name.lower()}:VALUE"
        yield serious("value_type", message, fix, *change)


def _retyped(key: str, value: object, kind: ValueType) -> tuple[Change, ...]:
    """The same value in the right type; empty if it does not fit."""
    if (
        kind is ValueType.UINT32
        and isinstance(value, int)
        and not isinstance(value, bool)
        and 0 <= value <= _MAX_UINT32
    ):
        return (Change(key, kind, value),)
    if kind is ValueType.BOOL and isinstance(value, int) and value in (0, 1):
        return (Change(key, kind, bool(value)),)
    return ()


def check_required(evidence: Evidence) -> Iterator[Finding]:
    """Keys that llama.cpp requires; the context length has its own finding."""
    for key in (evidence.key("embedding_length"), evidence.key("block_count")):
        value = evidence.header.metadata.get(key)
        if not value:
            yield serious(
                "key_missing",
                f"{key} is {'missing' if value is None else value}: llama.cpp refuses to load the file",
                _AGAIN,
            )


def check_dimensions(evidence: Evidence) -> Iterator[Finding]:
    key = evidence.key("embedding_length")
    declared = number(evidence.header.metadata, key)
    table = evidence.tensors.get("token_embd.weight")
    if table is not None and declared and table.shape[0] != declared:
        message = f"{key} is {declared}, but token_embd.weight is {table.shape[0]} wide: llama.cpp refuses to load it"
        yield serious("dimensions", message, _AGAIN)
    expected = evidence.expected.dimensions
    if declared and expected and expected != declared:
        message = f"it has {declared} dimensions, but {evidence.expected.because} has {expected}: it may be another one"
        yield note("dimensions_unexpected", message, "check where the file comes from, and its general.name")


def check_context(evidence: Evidence) -> Iterator[Finding]:
    """Compare the declared length with the position table and with what is known about the model."""
    key, expected = evidence.key("context_length"), evidence.expected
    declared = number(evidence.header.metadata, key)
    n_positions = evidence.rows("position_embd.weight")
    right = n_positions or expected.context
    if not declared:
        said = "missing" if declared is None else "0"
        changes = (uint(key, right),) if right else ()
        fix = sets(*changes) if changes else f"--fix --set {key}=N with max_position_embeddings from its config.json"
        yield serious("context_missing", f"{key} is {said}: llama.cpp cannot run it", fix, *changes)
    elif n_positions is not None and declared != n_positions:
        change = uint(key, n_positions)
        message = f"{key} is {declared}, but position_embd.weight has {n_positions} rows: llama.cpp refuses to load it"
        yield serious("context_positions", message, sets(change), change)
    elif expected.context is not None and declared > expected.context:
        change = uint(key, expected.context)
        message = (
            f"{key} is {declared}, but {expected.because} was trained for {expected.context}: "
            "longer texts get poor vectors"
        )
        yield warning("context_beyond_training", message, sets(change), change)
    yield from _check_scaling(evidence)


def _check_scaling(evidence: Evidence) -> Iterator[Finding]:
    kind = evidence.header.get(evidence.key("rope.scaling.type"), str)
    if kind in (None, "none") or evidence.architecture in OWN_ARCHITECTURES:  # ours is what the original has
        return
    factor = evidence.header.get(evidence.key("rope.scaling.factor"), float)
    trained = evidence.header.get(evidence.key("rope.scaling.original_context_length"), int)
    by = f" by {factor:g}" if factor else ""
    of = f" from the {trained} it was trained for" if trained else ""
    message = f"positions are scaled{by}{of} ({kind}): this changes the vectors of short texts too"
    yield note("rope_scaling", message, "none needed if its model card prescribes it")
