"""A WordPiece vocabulary in the form of llama.cpp's "bert" tokenizer."""

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
    """Tokens by id. `roles` maps unk, sep, pad, cls and mask to ids, as far as they exist."""

    tokens: tuple[str, ...]  # llama.cpp's form: "▁the" begins a word, "ing" continues one
    types: tuple[int, ...]  # gguf.TokenType of each
    roles: dict[str, int]
    lowercase: bool
    strip_accents: bool | None  # None: the same as lowercase
    template: SpecialTokensTemplate
    notes: tuple[str, ...] = ()

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Write the `tokenizer.*` metadata."""
        writer.add_tokenizer_model("bert")
        writer.add_tokenizer_pre("default")  # ignored: llama.cpp has only one rule for WordPiece
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.types))
        write_special_tokens(writer, self.template, self.roles)
        writer.add_bool("tokenizer.ggml.normalizer.lowercase", self.lowercase)
        if self.strip_accents is not None:
            writer.add_bool("tokenizer.ggml.normalizer.strip_accents", self.strip_accents)


def read_wordpiece(source: ModelSourceDirectory, n_vocab: int) -> WordPieceVocabulary:
    """Read `tokenizer.json`, or `vocab.txt` if there is none, padded to `n_vocab`.

    Raises `ModelFileError` if neither exists, the tokenizer is not WordPiece, or an id is out of range.
    """
    settings_path = source.path / "tokenizer_config.json"
    settings = read_json(settings_path) if settings_path.is_file() else {}
    specials = {role: _content(settings.get(f"{role}_token")) or default for role, default in _ROLES.items()}
    fast_path = source.path / "tokenizer.json"
    has_fast = fast_path.is_file()
    stored = _read_fast(fast_path) if has_fast else _read_lines(source.path / "vocab.txt", settings, specials)
    tokens, types = _build_table(source.path, stored, n_vocab)
    roles = {role: stored.ids[text] for role, text in specials.items() if text in stored.ids}
    missing = [specials[role] for role in ("cls", "sep", "unk") if role not in roles]
    if missing:
        raise ModelFileError(f"{source.path}: its vocabulary has no {', '.join(missing)}")
    template = _read_special_tokens(source, roles) if has_fast else None
    if template is None:
        template = SpecialTokensTemplate(roles["cls"], roles["sep"], (roles["sep"],))
    return WordPieceVocabulary(tokens, types, roles, stored.lowercase, stored.strip_accents, template)


def _read_special_tokens(source: ModelSourceDirectory, roles: dict[str, int]) -> SpecialTokensTemplate | None:
    """BERT's `[CLS] A [SEP] B [SEP]` or MPNet's `<s> A </s></s> B </s>`; None if the file declares none."""
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


@dataclass(frozen=True, slots=True)
class _StoredVocabulary:
    """A vocabulary in the original's form, from either of the two files."""

    ids: dict[str, int]  # entry → id; "##ing" continues a word
    control: set[str]  # special entries
    defined: set[str]  # entries that were added without being special
    lowercase: bool
    strip_accents: bool | None


def _read_fast(path: Path) -> _StoredVocabulary:
    """From `tokenizer.json`."""
    fast = read_json(path)
    ids = _ids_of_model(path, fast.get("model") or {})
    added = fast.get("added_tokens") or []
    control = {entry["content"] for entry in added if entry.get("special")}
    defined = {entry["content"] for entry in added} - control
    ids.update({entry["content"]: entry["id"] for entry in added})
    lowercase, strip_accents = _normalizer(fast)
    return _StoredVocabulary(ids, control, defined, lowercase, strip_accents)


def _ids_of_model(path: Path, model: dict[str, Any]) -> dict[str, int]:
    if model.get("type", "WordPiece") != "WordPiece" or not isinstance(model.get("vocab"), dict):
        raise ModelFileError(f"{path}: tokenizer {model.get('type')!r} cannot be converted (only WordPiece)")
    prefix = model.get("continuing_subword_prefix", "##")
    if prefix != "##":
        raise ModelFileError(f"{path}: continuing_subword_prefix {prefix!r} cannot be converted (only '##')")
    return dict(model["vocab"])


def _normalizer(fast: dict[str, Any]) -> tuple[bool, bool | None]:
    """Its settings `lowercase` and `strip_accents`."""
    normalizer = fast.get("normalizer")
    kind = normalizer.get("type") if isinstance(normalizer, dict) else None
    if not isinstance(normalizer, dict) or kind != "BertNormalizer":
        raise ModelFileError(f"tokenizer.json: normalizer {kind!r} cannot be converted (only BertNormalizer)")
    return bool(normalizer.get("lowercase", True)), normalizer.get("strip_accents")


def _read_lines(path: Path, settings: dict[str, Any], specials: dict[str, str]) -> _StoredVocabulary:
    """From `vocab.txt`, one entry per line, with the settings of `tokenizer_config.json`."""
    if not path.is_file():
        raise ModelFileError(f"{path.parent}: has neither tokenizer.json nor vocab.txt")
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    ids = {line.rstrip("\r"): index for index, line in enumerate(lines)}
    lowercase = bool(settings.get("do_lower_case", True))
    return _StoredVocabulary(ids, set(specials.values()), set(), lowercase, settings.get("strip_accents"))


def _build_table(path: Path, stored: _StoredVocabulary, n_vocab: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Tokens and types by id; ids without a token become unused tokens, named as llama.cpp's converter names them."""
    largest = max(stored.ids.values(), default=-1)
    if largest >= n_vocab or min(stored.ids.values(), default=0) < 0:
        raise ModelFileError(f"{path}: token id {largest} is outside the config's vocab_size {n_vocab}")
    tokens = [f"\u2581[PAD{index}]" for index in range(n_vocab)]
    types = [int(gguf.TokenType.UNUSED)] * n_vocab
    for text, index in stored.ids.items():
        tokens[index], kind = _converted(text, stored)
        types[index] = int(kind)
    if len(set(tokens)) != n_vocab:  # llama.cpp would end the process
        twice = next(token for token, count in Counter(tokens).items() if count > 1)
        raise ModelFileError(f"{path}: two tokens of its vocabulary become {twice!r} in llama.cpp's form")
    return tuple(tokens), tuple(types)


def _converted(text: str, stored: _StoredVocabulary) -> tuple[str, gguf.TokenType]:
    """An entry in llama.cpp's form, and its type."""
    if text in stored.control:
        return text, gguf.TokenType.CONTROL
    form = text[2:] if text.startswith("##") else "\u2581" + text
    return form, gguf.TokenType.USER_DEFINED if text in stored.defined else gguf.TokenType.NORMAL
