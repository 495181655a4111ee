"""Finds llama.cpp's name for the splitting rules of a byte-level tokenizer.json.

llama.cpp's converter recognizes a tokenizer by the hash of a tokenized text, which never matches for a new model. The
rules themselves are in `llama-vocab.cpp` (`llm_tokenizer_bpe`); this file compares with those.
"""

from __future__ import annotations

from typing import Any, Final

from gguf_embed.convert.fast_tokenizer import FastTokenizer, steps

_DIGITS: Final = r"\p{N}"
_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS: Final = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_NEWLINES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHERS: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_QWEN2: Final = f"{_CONTRACTIONS}|{_WORDS}|{_DIGITS}|{_OTHERS}|{_NEWLINES}"
_LLAMA3: Final = f"{_CONTRACTIONS}|{_WORDS}|{_DIGITS}{{1,3}}|{_OTHERS}|{_NEWLINES}"
_QWEN35: Final = (
    f"{_CONTRACTIONS}|" + r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _NEWLINES
)

_RULES: Final = {
    ((_GPT2,), False): "gpt-2",
    ((_DIGITS, _GPT2), False): "starcoder",
    ((_QWEN2,), False): "qwen2",
    ((_QWEN35,), False): "qwen35",
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "smaug-bpe",
}
"""Regular expressions in order and `ignore_merges` → `tokenizer.ggml.pre`."""


def choose_pre_tokenizer(fast: FastTokenizer) -> str:
    """The value for `tokenizer.ggml.pre`. Raises `ModelFileError` if llama.cpp does not have these rules."""
    rules = tuple(rule for step in steps(fast.pre_tokenizer, "pretokenizers") for rule in _rules_of(fast, step))
    ignore_merges = bool(fast.model.get("ignore_merges"))
    name = _RULES.get((rules, ignore_merges))
    if name is None:
        what = f"splitting by {' then '.join(map(repr, rules)) or 'no rule'}" + ", ignore_merges" * ignore_merges
        raise fast.refuse(what, f"only the rules of {', '.join(_RULES.values())}")
    if name == "gpt-2" and (fast.post_processor or {}).get("type") == "RobertaProcessing":
        return "roberta-bpe"  # the same rules under the name that other tools use
    return name


def _rules_of(fast: FastTokenizer, step: dict[str, Any]) -> tuple[str, ...]:
    kind = step["type"]
    if kind == "ByteLevel":
        if step.get("add_prefix_space"):
            raise fast.refuse("ByteLevel with add_prefix_space", "llama.cpp puts no space before a text")
        return (_GPT2,) if step.get("use_regex", True) else ()
    if kind == "Digits" and step.get("individual_digits"):
        return (_DIGITS,)
    if kind == "Split" and step["behavior"] == "Isolated" and not step.get("invert") and "Regex" in step["pattern"]:
        return (str(step["pattern"]["Regex"]),)
    raise fast.refuse(
        f"pre-tokenizer {kind!r} with these settings", "only ByteLevel, individual digits and isolating Split"
    )
