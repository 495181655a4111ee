"""An original's tokenizer.json, made of what a GGUF of CrispEmbed has of it: entries, scores or merges, special ids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

Ids = Mapping[str, int | None]
"""Of "bos", "eos", "unk" and "pad"."""

_MASKS: Final = ("<mask>", "[MASK]")
_METASPACE: Final = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
_BYTES: Final = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_FULLWIDTH_TILDE, _STAND_IN = "\uff5e", "\ufdd0"
"""The only character that NFKC changes and XLM-R does not; and a code point that is no character."""


def unigram_json(entries: Sequence[str], scores: Sequence[float], ids: Ids) -> str:
    """XLM-R's.

    It normalizes with a table (SentencePiece's nmt_nfkc), which such a GGUF does not contain. For every character of
    the Basic Multilingual Plane, the steps here do what the table does.
    """
    special = [token for token, entry in enumerate(entries) if entry in _MASKS or token in ids.values()]
    model = {
        "type": "Unigram",
        "unk_id": ids["unk"],
        "vocab": [[entry, float(score)] for entry, score in zip(entries, scores, strict=True)],
        "byte_fallback": False,
    }
    content = {
        "added_tokens": [_added(token, entries[token], is_special=True) for token in special],
        "normalizer": {"type": "Sequence", "normalizers": _NMT_NFKC},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, _METASPACE]},
        "decoder": _METASPACE,
        "model": model,
    }
    return _written(content, entries, ids, separators=2)


def bpe_json(entries: Sequence[str], merges: Sequence[str], ids: Ids, *, composes: bool, separators: int) -> str:
    """That of a model with GPT-2's rules: RoBERTa's, ModernBERT's.

    Entries that are neither bytes nor merged were added to the vocabulary. `composes`: texts are normalized to NFC.
    `separators`: closing tokens between the texts of a pair.
    """
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    merged = {"".join(pair) for pair in pairs} | set(_byte_symbols())
    added = [token for token, entry in enumerate(entries) if entry not in merged]
    content = {
        "added_tokens": [
            _added(token, entries[token], is_special=token in ids.values() or entries[token] in _MASKS)
            for token in added
        ],
        "normalizer": {"type": "NFC"} if composes else None,
        "pre_tokenizer": _BYTES,
        "decoder": _BYTES,
        "model": {
            "type": "BPE",
            "unk_token": None,
            "vocab": {entry: token for token, entry in enumerate(entries)},
            "merges": [list(pair) for pair in pairs if len(pair) == 2],
        },
    }
    return _written(content, entries, ids, separators)


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


_NMT_NFKC: Final[list[dict[str, Any]]] = [
    {"type": "Nmt"},
    _replace({"String": _FULLWIDTH_TILDE}, _STAND_IN),
    {"type": "NFKC"},
    _replace({"String": _STAND_IN}, _FULLWIDTH_TILDE),
    _replace({"Regex": " {2,}"}, " "),
]


def _byte_symbols() -> Iterator[str]:
    """The characters that stand for the 256 bytes in GPT-2's vocabulary."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    yield from map(chr, sorted(printable))
    yield from map(chr, range(256, 256 + 256 - len(printable)))


def _added(token: int, text: str, *, is_special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": text in _MASKS, "rstrip": False}
    return {"id": token, "content": text, "normalized": not is_special, "special": is_special} | flags


def _written(content: Mapping[str, Any], entries: Sequence[str], ids: Ids, separators: int) -> str:
    whole = {"version": "1.0", "truncation": None, "padding": None, **content}
    return json.dumps({**whole, "post_processor": _template(entries, ids, separators)}, ensure_ascii=False)


def _template(entries: Sequence[str], ids: Ids, separators: int) -> dict[str, Any]:
    opening, closing = (_pieces(entries, ids[role]) for role in ("bos", "eos"))
    one, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    used = {entries[token]: token for role in ("bos", "eos") if (token := ids[role]) is not None}
    return {
        "type": "TemplateProcessing",
        "single": [*opening, one, *closing],
        "pair": [*opening, one, *closing * separators, other, *closing],
        "special_tokens": {text: {"id": text, "ids": [token], "tokens": [text]} for text, token in used.items()},
    }


def _pieces(entries: Sequence[str], token: int | None) -> list[dict[str, Any]]:
    return [] if token is None else [{"SpecialToken": {"id": entries[token], "type_id": 0}}]


def split_merges(content: bytes) -> Sequence[str]:
    """The merges of a tensor, which are separated by NUL or by line breaks."""
    text = content.decode("utf-8", "replace")
    return text.split("\0" if "\0" in text else "\n") if text else []
