"""XLM-R's tokenizer.json, made of the entries and scores that a GGUF has of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

MASK: Final = "<mask>"


def unigram_json(entries: Sequence[str], scores: Sequence[float], ids: Mapping[str, int | None]) -> str:
    """The content of the file. `ids`: of "bos", "eos", "unk" and "pad".

    The original normalizes with a table (SentencePiece's nmt_nfkc), which such a GGUF does not contain. For every
    character of the Basic Multilingual Plane, these steps do what it does.
    """
    special = {token for token in ids.values() if token is not None}
    special |= {entries.index(MASK)} if MASK in entries else set()
    bos, eos = ids["bos"], ids["eos"]
    opening, closing = ("" if token is None else entries[token] for token in (bos, eos))
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(token, entries[token]) for token in sorted(special)],
        "normalizer": {"type": "Sequence", "normalizers": _NORMALIZERS},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, _METASPACE]},
        "post_processor": _template(opening, bos, closing, eos),
        "decoder": _METASPACE,
        "model": {
            "type": "Unigram",
            "unk_id": ids["unk"],
            "vocab": [[entry, float(score)] for entry, score in zip(entries, scores, strict=True)],
            "byte_fallback": False,
        },
    }
    return json.dumps(content, ensure_ascii=False)


_METASPACE: Final = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
_WAVE_DASH, _STAND_IN = (
    "\uff5e",
    "\ufdd0",
)  # the only character that NFKC changes and the original does not; no character


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


_NORMALIZERS: Final[list[dict[str, Any]]] = [
    {"type": "Nmt"},
    _replace({"String": _WAVE_DASH}, _STAND_IN),
    {"type": "NFKC"},
    _replace({"String": _STAND_IN}, _WAVE_DASH),
    _replace({"Regex": " {2,}"}, " "),
]


def _added(token: int, text: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": text == MASK, "rstrip": False, "normalized": False, "special": True}
    return {"id": token, "content": text} | flags


def _template(opening: str, bos: int | None, closing: str, eos: int | None) -> dict[str, Any] | None:
    added = {text: token for text, token in ((opening, bos), (closing, eos)) if text and token is not None}
    if not added:
        return None
    first, last = ([{"SpecialToken": {"id": text, "type_id": 0}}] if text else [] for text in (opening, closing))
    one, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [*first, one, *last],
        "pair": [*first, one, *last, *last, other, *last],
        "special_tokens": {text: {"id": text, "ids": [token], "tokens": [text]} for text, token in added.items()},
    }
