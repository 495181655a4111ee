"""The original tokenizer of a model, from the tokenizer.json that its GGUF contains."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gguf_embed.errors import ModelFileError
from gguf_embed.tokenization.known_ids import require_known
from gguf_embed.tokenization.offsets import trim
from gguf_embed.types import Span, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HfTokenizer

WORD_START: Final = "▁"  # SentencePiece's mark for a space


class TokenizerJsonCodec:
    """Implements `TextCodec` and `ExactTokenizing` of the engines' contract. Any thread; there is nothing to close."""

    def __init__(self, source: str, vocabulary: Vocabulary) -> None:
        """`source` is the content of the tokenizer.json. Takes about a second for 250,000 entries.

        Sets TOKENIZERS_PARALLELISM to false in the environment if it is not set, as `ExactWordPiece` does.
        Raises `ModelFileError` if it cannot be read, or has ids that the vocabulary lacks.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._source = source
        self._vocabulary = vocabulary
        self._tokenizer = load_tokenizer(source)
        self._lock = threading.Lock()
        self._literal: HfTokenizer | None = None
        largest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if largest >= len(vocabulary.entries):
            raise ModelFileError(
                f"its tokenizer has ids up to {largest}, its vocabulary {len(vocabulary.entries)} entries; "
                "convert the model again"
            )

    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        tokenizer = self._tokenizer if parse_special else self._literal_tokenizer()
        ids: list[int] = tokenizer.encode_batch_fast([text], add_special_tokens=add_special)[0].ids
        return ids

    def tokenize_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=True)]

    def tokenize_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        encoding = self._tokenizer.encode(text)
        added = zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
        return encoding.ids, [None if is_added else trim(text, *span) for span, is_added in added]

    def token_bytes(self, token: int) -> bytes:
        require_known([token], len(self._vocabulary.entries))
        return piece_of(self._tokenizer, token, self._vocabulary.entries[token]).encode()

    def detokenize(self, tokens: Sequence[int]) -> str:
        require_known(tokens, len(self._vocabulary.entries))
        if self._tokenizer.decoder is None:
            return "".join(piece_of(self._tokenizer, token, self._vocabulary.entries[token]) for token in tokens)
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text

    def _literal_tokenizer(self) -> HfTokenizer:
        """A tokenizer that treats "[SEP]" in a text as ordinary text. Created on first use."""
        with self._lock:
            if self._literal is None:
                self._literal = load_tokenizer(self._source)
                self._literal.encode_special_tokens = True
            return self._literal


def load_tokenizer(source: str) -> HfTokenizer:
    """From the content of a tokenizer.json; never truncates or pads. Raises `ModelFileError`."""
    # imported here, because a word table does not need it and it takes 20 ms
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(source)
    except Exception as exc:  # the package raises nothing more specific
        raise ModelFileError(f"its tokenizer.json cannot be read: {exc}") from exc
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def piece_of(tokenizer: HfTokenizer, token: int, entry: str) -> str:
    """The text of an id inside a sentence: " the" or "ing", not "▁the" or "##ing". Found by decoding it twice.

    `entry` is what the vocabulary has for it, which is all there is without a decoder.
    """
    if tokenizer.decoder is None:
        return entry.replace(WORD_START, " ")
    once = tokenizer.decode([token], skip_special_tokens=False)
    twice = tokenizer.decode([token, token], skip_special_tokens=False)
    return twice[len(once) :] if twice.startswith(once) else entry
