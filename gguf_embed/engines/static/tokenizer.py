"""The tokenizer of static models: the original tokenizer.json, stored unchanged in the GGUF."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from gguf_embed.engines.static.piece_cache import (
    PieceCache,
    added_tokens,
    choose_split,
    joins_spaces,
    split_before_spaces,
)
from gguf_embed.errors import ModelFileError
from gguf_embed.tokenization.offsets import trim
from gguf_embed.tokenization.tokenizer_json import load_tokenizer, piece_of
from gguf_embed.types import Span

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HfTokenizer


class TextTokenizer(Protocol):
    """Texts to ids and back. Thread-safe."""

    @property
    def entries(self) -> Sequence[str]: ...

    def encode_batch(self, texts: Sequence[str], *, parse_special: bool = True) -> list[list[int]]: ...

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        """One text's ids and their offsets; None: unknown."""
        ...

    def piece(self, token: int) -> str:
        """The text of one id."""
        ...

    def decode(self, tokens: Sequence[int]) -> str: ...


class HuggingFaceTokenizer:
    """Implements `TextTokenizer` with the `tokenizers` package. Adds no special tokens, never truncates or pads."""

    def __init__(self, source: str, n_tokens: int, skipped_id: int | None) -> None:
        """`source` is the content of a tokenizer.json; `skipped_id` is removed from every text (None: no id is).

        Raises `ModelFileError` if it cannot be read, or has ids of `n_tokens` and more.
        """
        self._source = source
        self._skipped_id = skipped_id
        self._tokenizer = load_tokenizer(source)
        self._lock = threading.Lock()
        self._literal: HfTokenizer | None = None
        ids: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        if max(ids.values(), default=-1) >= n_tokens:
            raise ModelFileError(
                f"its tokenizer has ids up to {max(ids.values())}, its table {n_tokens} rows; convert the model again"
            )
        names = {token: entry for entry, token in ids.items()}
        self._entries = tuple(names.get(token, f"[PAD{token}]") for token in range(n_tokens))
        rules = json.loads(source)
        split = choose_split(rules)
        self._cache = PieceCache(split, self._encode_all) if split is not None else None
        self._words = _SpacedWords(self._tokenizer, rules, skipped_id) if joins_spaces(rules) else None

    @property
    def entries(self) -> Sequence[str]:
        return self._entries

    def encode_batch(self, texts: Sequence[str], *, parse_special: bool = True) -> list[list[int]]:
        if not parse_special:
            return self._encode_with(self._literal_tokenizer(), texts)
        if self._cache is not None:
            return self._cache.encode_batch(texts)
        encoded = self._words.encode_batch(texts) if self._words is not None else None
        return self._encode_all(texts) if encoded is None else encoded

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        found = zip(encoding.ids, encoding.offsets, strict=True)
        kept = [(token, trim(text, *span)) for token, span in found if token != self._skipped_id]
        return [token for token, _ in kept], [span for _, span in kept]

    def piece(self, token: int) -> str:
        return piece_of(self._tokenizer, token, self._entries[token])

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text

    def _encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encode_with(self._tokenizer, texts)

    def _encode_with(self, tokenizer: HfTokenizer, texts: Sequence[str]) -> list[list[int]]:
        encoded: list[list[int]] = [
            encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ]
        skipped = self._skipped_id
        return [
            [token for token in ids if token != skipped] if skipped is not None and skipped in ids else ids
            for ids in encoded
        ]

    def _literal_tokenizer(self) -> HfTokenizer:
        """A tokenizer that treats "[SEP]" in a text as ordinary text. Created on first use."""
        with self._lock:
            if self._literal is None:
                self._literal = load_tokenizer(self._source)
                self._literal.encode_special_tokens = True
            return self._literal


class _SpacedWords:
    """SentencePiece's rules: normalize the text, then tokenize each word independently, with its leading space."""

    def __init__(self, tokenizer: HfTokenizer, rules: dict[str, Any], skipped_id: int | None) -> None:
        self._normalizer, self._splitter = tokenizer.normalizer, tokenizer.pre_tokenizer
        self._model = tokenizer.model
        self._added = added_tokens(rules)
        self._skipped_id = skipped_id
        self._cache = PieceCache(split_before_spaces, lambda pieces: list(map(self._encode_piece, pieces)))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]] | None:
        """None if a text may contain an added token, because those are split off before all other rules."""
        plain = [self._normalizer.normalize_str(text) for text in texts] if self._normalizer is not None else texts
        if any(content in text for content in self._added for text in (*texts, *plain)):
            return None
        return self._cache.encode_batch(plain)

    def _encode_piece(self, piece: str) -> list[int]:
        words = (word for word, _ in self._splitter.pre_tokenize_str(piece))
        ids = (token.id for word in words for token in self._model.tokenize(word))
        return [token for token in ids if token != self._skipped_id]
