"""Reads the WordPiece vocabulary of a GGUF, with llama.cpp's rules for whatever the file leaves out.

The source of the rules is `llama_vocab::impl::load` in llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.constants import ARRAY, SCALAR_FORMATS, VOCABULARY_TYPES, VocabularyType
from gguf_embed.gguf_file.crisp_layout import CRISP_LAYOUT, our_entries
from gguf_embed.gguf_file.crisp_tokenizer import RAW_VOCABULARY
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.layout import read_layout, read_numbers
from gguf_embed.gguf_file.strings import read_strings
from gguf_embed.types import Vocabulary

MODEL: Final = "tokenizer.ggml.model"
TOKENS: Final = "tokenizer.ggml.tokens"
TOKEN_TYPES: Final = "tokenizer.ggml.token_type"

UNKNOWN: Final = "[UNK]"
WORD_START: Final = "▁"  # begins an entry that begins a word; a space in a text

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
"""Numbers in `TOKEN_TYPES`. All others, such as 5 (unused), have no text."""

_DEFAULT_IDS: Final[dict[str, int | None]] = {"bos": 101, "eos": None, "sep": 102, "pad": 0, "mask": 103}
"""The ids of BERT's own vocabulary, which llama.cpp assumes for a file without the keys or with impossible ids."""

_KEYS: Final = {"bos": "bos", "eos": "eos", "sep": "seperator", "pad": "padding", "mask": "mask"}
"""Middle of the key `tokenizer.ggml.<name>_token_id`; "seperator" is how GGUF spells it."""

_ALWAYS_SPECIAL: Final = {
    *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>", "</s>", "<eos>"),
    *("[EOS]", "[EOT]", "<EOT>", "_<EOT>", "<end_of_turn>", "<end_of_utterance>", "<｜end▁of▁sentence｜>", "[e~["),
    *("<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<turn|>", "<|tool_response>"),
    *("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"),
}
"""Entries that llama.cpp takes for special tokens, whatever their type is in the file."""

_SPECIAL_UNLESS_NAMED: Final[dict[tuple[str, ...], set[str]]] = {
    ("fim_pre", "prefix"): {
        *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>"),
        *("<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>"),
    },
    ("fim_suf", "suffix"): {
        *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>"),
        *("<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>"),
    },
    ("fim_mid", "middle"): {
        *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>"),
        *("<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>"),
    },
    ("fim_pad",): {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"},
    ("fim_rep",): {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"},
    ("fim_sep",): {"<|file_sep|>"},
}
"""The same by role, for tokens that frame a gap to be filled, unless the file names one for the role. llama.cpp takes
the first entry in the order of a hash table; here it is all of them, which differs only if a file has several."""

_COMPOSING_RULES: Final = ("qwen2", "qwen35")
_COMPOSING_ARCHITECTURES: Final = ("modern-bert",)
"""Models whose tokenizer.json normalizes to NFC, which llama.cpp does not."""


@dataclass(frozen=True, slots=True)
class StoredVocabulary:
    """A vocabulary, and what each id stands for in a text."""

    vocabulary: Vocabulary
    strips_first_space: bool  # a text made of ids loses the space that its first id may begin with
    stored: Sequence[str]  # entries by id; bytes that are not UTF-8 as in "surrogateescape"
    verbatim: frozenset[int]  # ids that llama.cpp takes for special tokens: a word mark in them is not a space
    silent: frozenset[int]  # ids without a text

    def piece(self, token: int) -> bytes:
        """The text of one id, special tokens in their written form. Raises `IndexError` for an id that is too large."""
        text = self.stored[token]
        if token in self.silent:
            return b""
        if token not in self.verbatim:
            text = text.replace(WORD_START, " ")
        return text.encode("utf-8", "surrogateescape")


def has_wordpiece(header: GgufHeader) -> bool:
    """Whether `read_wordpiece_vocabulary` can read this file's vocabulary."""
    return VOCABULARY_TYPES.get(header.get(MODEL, str) or "") is VocabularyType.WPM


def composes(rules: str | None, architecture: str | None) -> bool:
    """Whether the original tokenizer normalizes to NFC. `rules` is tokenizer.ggml.pre."""
    return rules in _COMPOSING_RULES or architecture in _COMPOSING_ARCHITECTURES


def read_wordpiece_vocabulary(header: GgufHeader) -> StoredVocabulary:
    """The vocabulary as llama.cpp has it after loading the file. Takes about 20 ms for 30,000 entries.

    Raises `ModelFileError` for a file with a vocabulary of another kind, without entries, or with malformed ones, and
    if the file has changed since its header was read.
    """
    if not has_wordpiece(header):
        raise ModelFileError(
            f"{header.path}: its vocabulary is of the kind {header.get(MODEL, str)!r}, expected 'bert' (WordPiece): "
            "read it with llama.cpp"
        )
    stored = _read_entries(header)
    entries = _readable(stored)
    types = _read_types(header, len(stored))
    special = frozenset(_special_by_name(header, entries))
    verbatim = special.union(np.flatnonzero(np.isin(types, (_UNKNOWN, _CONTROL, _USER_DEFINED))).tolist())
    for token in np.flatnonzero(types == _BYTE).tolist():
        if token not in special:
            raise ModelFileError(
                f"{header.path}: entry {token} of its WordPiece vocabulary has the type {_BYTE} (byte), which only "
                "other kinds of vocabularies have; convert the model again"
            )
    return StoredVocabulary(
        vocabulary=_vocabulary(header, entries),
        strips_first_space=header.get("tokenizer.ggml.add_space_prefix", bool) or False,
        stored=stored,
        verbatim=verbatim,
        silent=frozenset(np.flatnonzero(types != _NORMAL).tolist()) - verbatim,
    )


def _vocabulary(header: GgufHeader, entries: tuple[str, ...]) -> Vocabulary:
    ids = {role: _special_id(header, role, len(entries)) for role in _KEYS}
    return Vocabulary(
        kind=VocabularyType.WPM.kind,
        entries=entries,
        bos_id=ids["bos"],
        eos_id=ids["eos"],
        sep_id=ids["sep"],
        unk_id=_unknown_id(header, entries),
        pad_id=ids["pad"],
        mask_id=ids["mask"],
        adds_bos=_flag(header, "add_bos_token", default=True),
        adds_eos=_flag(header, "add_eos_token", default=False),
        adds_sep=_flag(header, "add_sep_token", default=True),
        lowercase=header.get("tokenizer.ggml.normalizer.lowercase", bool),
        strip_accents=header.get("tokenizer.ggml.normalizer.strip_accents", bool),
        composes=composes(header.get("tokenizer.ggml.pre", str), header.architecture),
    )


def _unknown_id(header: GgufHeader, entries: Sequence[str]) -> int | None:
    """As the file has it: None if it does not say. CrispEmbed's do not always."""
    stored = header.get("tokenizer.ggml.unknown_token_id", int)
    if stored is None and header.get(CRISP_LAYOUT, bool) and UNKNOWN in entries:
        return entries.index(UNKNOWN)
    return stored


def _flag(header: GgufHeader, name: str, *, default: bool) -> bool:
    value = header.get(f"tokenizer.ggml.{name}", bool)
    return default if value is None else value


def _special_id(header: GgufHeader, role: str, n_entries: int) -> int | None:
    """The id in the file, else llama.cpp's default, if the vocabulary has it."""
    for token in (header.get(f"tokenizer.ggml.{_KEYS[role]}_token_id", int), _DEFAULT_IDS[role]):
        if token is not None and 0 <= token < n_entries:
            return token
    return None


def _read_entries(header: GgufHeader) -> list[str]:
    """The entries, never empty. As in llama.cpp, an entry ends at its first NUL."""
    entries = read_strings(header.path, TOKENS, errors="surrogateescape")
    if not entries:
        raise ModelFileError(f"{header.path} has no vocabulary ({TOKENS}), so it cannot read text; use another GGUF")
    if header.get(RAW_VOCABULARY, bool):
        entries = our_entries(entries)
    if "" in entries or "\0" in "".join(entries):
        return [entry.partition("\0")[0] or f"[EMPTY_{token}]" for token, entry in enumerate(entries)]
    return entries


def _readable(stored: Sequence[str]) -> tuple[str, ...]:
    """The entries with U+FFFD for bytes that are not UTF-8."""
    try:
        "".join(stored).encode()
    except UnicodeEncodeError:
        return tuple(entry.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for entry in stored)
    return tuple(stored)


def _read_types(header: GgufHeader, n_entries: int) -> NDArray[np.generic]:
    """The type of each entry; all are normal in a file without types."""
    entry = read_layout(header).entries.get(TOKEN_TYPES)
    if entry is None:
        return np.full(n_entries, _NORMAL, np.int32)
    if entry.type != ARRAY or SCALAR_FORMATS.get(entry.item_type) != "i":
        raise ModelFileError(f"{header.path}: {TOKEN_TYPES} is not a list of 32-bit integers; convert the model again")
    if entry.n_items < n_entries:
        raise ModelFileError(
            f"{header.path}: {TOKEN_TYPES} has {entry.n_items} items for {n_entries} entries; convert the model again"
        )
    return read_numbers(header.path, entry)[:n_entries]


def _special_by_name(header: GgufHeader, entries: Sequence[str]) -> Iterator[int]:
    """Ids of the entries that llama.cpp takes for special tokens because of their name alone."""
    names = set(_ALWAYS_SPECIAL)
    for roles, candidates in _SPECIAL_UNLESS_NAMED.items():
        named = (header.get(f"tokenizer.ggml.{role}_token_id", int) for role in roles)
        if not any(token is not None and 0 <= token < len(entries) for token in named):
            names |= candidates
    return map(entries.index, names.intersection(entries))
