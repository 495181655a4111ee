"""A cache for tokenizers: the ids of each piece of text that was tokenized before."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

MAX_PIECES: Final = 65_536  # in the cache, about 16 MB; when it is full, it is cleared
MAX_PIECE_CHARACTERS: Final = 64  # longer pieces rarely occur twice

EncodePieces = Callable[[Sequence[str]], Sequence[Sequence[int]]]
SplitText = Callable[[str], list[str]]
"""Splits a text into pieces whose ids, concatenated, are the text's ids."""

_AT_SPACES: Final = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit"})
_WITHIN: Final = frozenset({"Punctuation", "Digits"})
_BY_CHARACTER: Final = ("BertNormalizer", "Lowercase", "StripAccents", "NFC", "NFD", "NFKC", "NFKD")
_FEW_ADDED: Final = 16  # because every text is searched for each of them
_MARK: Final = r"[!-/:-@\[-`{-~]"  # ASCII punctuation: BERT makes each a separate token
_BEFORE_SPACES: Final = re.compile(" [^ ]*|[^ ]+")
_BRACKETED: Final = re.compile(f"{_MARK}.*{_MARK}")
_BORDERS: Final = r" \t\n\r"  # the whitespace that all rules agree on; other kinds stay inside a piece


class PieceCache:
    """Turns texts into ids piece by piece. Thread-safe.

    A text of cached words takes about 0.15 µs per word; the tokenizers package takes 2 µs and more.
    """

    def __init__(self, split: SplitText, encode: EncodePieces) -> None:
        self._split = split
        self._encode = encode
        self._known: dict[str, tuple[int, ...]] = {}

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        split = list(map(self._split, texts))
        found = [list(map(self._known.get, pieces)) for pieces in split]
        lacking = [index for index, ids in enumerate(found) if None in ids]
        missing = dict.fromkeys(
            piece for index in lacking for piece, ids in zip(split[index], found[index], strict=True) if ids is None
        )
        if missing:
            new = dict(zip(missing, map(tuple, self._encode(list(missing))), strict=True))
            self._remember(new)
            for index in lacking:
                pieces = zip(split[index], found[index], strict=True)
                found[index] = [new[piece] if ids is None else ids for piece, ids in pieces]
        return [list(chain.from_iterable(ids)) for ids in found]  # type: ignore[arg-type]  # none is None here

    def _remember(self, new: dict[str, tuple[int, ...]]) -> None:
        if len(self._known) + len(new) > MAX_PIECES:
            self._known = {}
        short = {piece: ids for piece, ids in new.items() if len(piece) <= MAX_PIECE_CHARACTERS}
        if len(short) <= MAX_PIECES:
            self._known.update(short)


def choose_split(tokenizer: dict[str, Any]) -> SplitText | None:
    """How to split texts into pieces that a tokenizer.json's rules treat independently; None if there is no safe way.

    Splitting at whitespace is safe if the rules change a text character by character, then split at whitespace, and no
    added token contains whitespace. BERT's rules also allow splitting at ASCII punctuation, and lowering the case
    first if they do, which gives more cache hits.
    """
    normalizers = _steps(tokenizer.get("normalizer"), "normalizers")
    splitters = _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    normalizer_kinds, kinds = _kinds(normalizers), set(_kinds(splitters))
    added = added_tokens(tokenizer)
    if any(character.isspace() for content in added for character in content):
        return None
    bracketed = all(map(_BRACKETED.fullmatch, added))
    if normalizer_kinds == ["BertNormalizer"] and kinds == {"BertPreTokenizer"} and bracketed:
        return bert_split(added, lowercase=bool(normalizers[0].get("lowercase", True)))
    by_character = all(kind in _BY_CHARACTER for kind in normalizer_kinds)
    return split_at_spaces if by_character and kinds & _AT_SPACES and kinds <= _AT_SPACES | _WITHIN else None


def joins_spaces(tokenizer: dict[str, Any]) -> bool:
    """Whether the rules split a normalized text before spaces, as SentencePiece does: each word with its leading space.

    False if only a text's first word gets a space, because which word is first depends on the original text. False if
    there are many added tokens, because every text must be searched for each of them.
    """
    splitters = _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    metaspaces = [
        step
        for step in splitters
        if step.get("type") == "Metaspace" and step.get("split", True) and step.get("prepend_scheme") != "first"
    ]
    others = [step for step in splitters if step.get("type") == "WhitespaceSplit"]
    few_added = len(added_tokens(tokenizer)) <= _FEW_ADDED
    return bool(metaspaces) and len(metaspaces) + len(others) == len(splitters) and few_added


def added_tokens(tokenizer: dict[str, Any]) -> list[str]:
    return [str(entry.get("content", "")) for entry in tokenizer.get("added_tokens") or []]


def split_at_spaces(text: str) -> list[str]:
    return text.replace("\n", " ").replace("\t", " ").replace("\r", " ").split(" ")


def bert_split(added: Sequence[str], *, lowercase: bool) -> SplitText:
    """Split into words, single ASCII punctuation marks, and added tokens, which begin and end with such a mark."""
    longest_first = sorted(map(re.escape, added), key=len, reverse=True)
    find = re.compile("|".join([*longest_first, rf"[^{_BORDERS}{_MARK[1:-1]}]+", _MARK])).findall
    first_marks = tuple({content[0] for content in added})

    def split(text: str) -> list[str]:
        # Python's lower() of some non-ASCII letters depends on their neighbors; the original's never does
        if lowercase and text.isascii() and not any(mark in text for mark in first_marks):
            text = text.lower()
        pieces: list[str] = find(text)
        return pieces

    return split


def split_before_spaces(text: str) -> list[str]:
    """ "a  b" as "a", " " and " b"."""
    found: list[str] = _BEFORE_SPACES.findall(text)
    return found


def _steps(stage: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    if not stage:
        return []
    return list(stage.get(inner) or []) if stage.get("type") == "Sequence" else [stage]


def _kinds(steps: Sequence[dict[str, Any]]) -> list[str]:
    return [str(step.get("type")) for step in steps]
