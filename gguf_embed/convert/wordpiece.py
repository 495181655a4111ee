"""A WordPiece vocabulary in the form llama.cpp's "bert" tokenizer reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from gguf_embed.convert.fast_tokenizer import read_fast_tokenizer
from gguf_embed.convert.source import ModelSourceDirectory, read_json
from gguf_embed.convert.special_tokens import SpecialTokensTemplate, read_special_tokens, write_special_tokens
from gguf_embed.errors import ModelFileError

_ROLES = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}


@dataclass(frozen=True, slots=True)
class WordPieceVocabulary:
    """Tokens by id. `roles` maps unk, sep, pad, cls and mask to ids; the last four need not all be there."""

    tokens: tuple[str, ...]  # llama.cpp's form: "▁the" begins a word, "ing" continues one
    types: tuple[int, ...]  # gguf.TokenType of each
    roles: dict[str, int]
    lowercase: bool
    strip_accents: bool | None  # None: as lowercase
    template: SpecialTokensTemplate
    notes: tuple[str, ...] = ()

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Write the `tokenizer.*` metadata."""
        writer.add_tokenizer_model("bert")
        writer.add_tokenizer_pre("default")  # llama.cpp has one WordPiece rule and ignores this
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.types))
        write_special_tokens(writer, self.template, self.roles)
        writer.add_bool("tokenizer.ggml.normalizer.lowercase", self.lowercase)
        if self.strip_accents is not None:
            writer.add_bool("tokenizer.ggml.normalizer.strip_accents", self.strip_accents)


def read_wordpiece(source: ModelSourceDirectory, n_vocab: int) -> WordPieceVocabulary:
    """Read `tokenizer.json`, or `vocab.txt` where there is none, padded to `n_vocab`.

    Raises `ModelFileError` when neither is there, when it is not WordPiece, or when an id is out of range.
    """
    settings_path = source.path / "tokenizer_config.json"
    settings = read_json(settings_path) if settings_path.is_file() else {}
    specials = {role: _content(settings.get(f"{role}_token")) or default for role, default in _ROLES.items()}
    fast_path = source.path / "tokenizer.json"
    if fast_path.is_file():
        fast = read_json(fast_path)
        ids, added = _ids_from_fast(fast_path, fast), fast.get("added_tokens") or []
        control = {entry["content"] for entry in added if entry.get("special")}
        defined = {entry["content"] for entry in added} - control
        ids.update({entry["content"]: entry["id"] for entry in added})
        lowercase, strip_accents = _normalizer(fast)
    else:
        ids, control, defined = _ids_from_lines(source.path / "vocab.txt"), set(specials.values()), set[str]()
        lowercase, strip_accents = bool(settings.get("do_lower_case", True)), settings.get("strip_accents")
    tokens, types = _build_table(source, ids, control, defined, n_vocab)
    roles = {role: ids[text] for role, text in specials.items() if text in ids}
    missing = [specials[role] for role in ("cls", "sep", "unk") if role not in roles]
    if missing:
        raise ModelFileError(f"{source.path}: its vocabulary has no {', '.join(missing)}")
    template = _read_special_tokens(source, roles) if fast_path.is_file() else None
    template = template or SpecialTokensTemplate(roles["cls"], roles["sep"], (roles["sep"],))
    return WordPieceVocabulary(tokens, types, roles, lowercase, strip_accents, template)


def _read_special_tokens(source: ModelSourceDirectory, roles: dict[str, int]) -> SpecialTokensTemplate | None:
    """BERT's `[CLS] A [SEP] B [SEP]` or MPNet's `<s> A </s></s> B </s>`; None when the file does not say."""
    fast = read_fast_tokenizer(source)
    template = read_special_tokens(fast)
    if fast.post_processor is None:
        return None
    if (template.opening, template.closing) != (roles["cls"], roles["sep"]):  # llama.cpp always adds these two
        raise fast.refuse("a WordPiece tokenizer that puts other tokens around a text", "only its cls and sep tokens")
    return template


def _content(entry: object) -> str | None:
    """A special token in tokenizer_config.json is a string, or an object that holds it."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) and entry else None


def _ids_from_fast(path: Path, fast: dict[str, Any]) -> dict[str, int]:
    model = fast.get("model") or {}
    if model.get("type", "WordPiece") != "WordPiece" or not isinstance(model.get("vocab"), dict):
        raise ModelFileError(f"{path}: tokenizer {model.get('type')!r} cannot be converted (only WordPiece)")
    prefix = model.get("continuing_subword_prefix", "##")
    if prefix != "##":
        raise ModelFileError(f"{path}: continuing_subword_prefix {prefix!r} cannot be converted (only '##')")
    return dict(model["vocab"])


def _ids_from_lines(path: Path) -> dict[str, int]:
    if not path.is_file():
        raise ModelFileError(f"{path.parent}: has neither tokenizer.json nor vocab.txt")
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return {line.rstrip("\r"): index for index, line in enumerate(lines)}


def _normalizer(fast: dict[str, Any]) -> tuple[bool, bool | None]:
    normalizer = fast.get("normalizer")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        kind = normalizer.get("type") if isinstance(normalizer, dict) else None
        raise ModelFileError(f"tokenizer.json: normalizer {kind!r} cannot be converted (only BertNormalizer)")
    return bool(normalizer.get("lowercase", True)), normalizer.get("strip_accents")


def _build_table(
    source: ModelSourceDirectory, ids: dict[str, int], control: set[str], defined: set[str], n_vocab: int
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Tokens and types by id; ids that no token has become unused ones, as llama.cpp's converter names them."""
    largest = max(ids.values(), default=-1)
    if largest >= n_vocab or min(ids.values(), default=0) < 0:
        raise ModelFileError(f"{source.path}: token id {largest} is outside the config's vocab_size {n_vocab}")
    tokens = [f"\u2581[PAD{index}]" for index in range(n_vocab)]
    types = [int(gguf.TokenType.UNUSED)] * n_vocab
    for text, index in ids.items():
        if text in control:
            tokens[index], types[index] = text, int(gguf.TokenType.CONTROL)
            continue
        tokens[index] = text[2:] if text.startswith("##") else "\u2581" + text
        types[index] = int(gguf.TokenType.USER_DEFINED if text in defined else gguf.TokenType.NORMAL)
    if len(set(tokens)) != n_vocab:  # llama.cpp would end the process
        twice = next(token for token, count in Counter(tokens).items() if count > 1)
        raise ModelFileError(f"{source.path}: two tokens of its vocabulary become {twice!r} in llama.cpp's form")
    return tuple(tokens), tuple(types)
