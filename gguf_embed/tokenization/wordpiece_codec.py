"""Text to ids and back for WordPiece models, without llama.cpp: the original's ids, and llama.cpp's texts of ids."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from typing import Final

from gguf_embed.tokenization.known_ids import require_known
from gguf_embed.tokenization.wordpiece import ExactWordPiece, required_ids
from gguf_embed.types import Span, Vocabulary

_SPACE_BEFORE_MARK: Final = re.compile(rb" (?=[?!.,])")
_SPACED_APOSTROPHE: Final = re.compile(rb" ' ")
_SPACE_BEFORE_CONTRACTION: Final = re.compile(rb" (?='(?:s|m|re|ve))")


class WordPieceCodec:
    """Implements `TextCodec` and `ExactTokenizing` of the engines' contract. Any thread; there is nothing to close."""

    def __init__(
        self, vocabulary: Vocabulary, piece: Callable[[int], bytes], *, strips_first_space: bool = False
    ) -> None:
        """`piece` gives the text of each id of the vocabulary, special tokens in their written form.

        `strips_first_space`: `detokenize` drops the space that the first id's text may begin with.
        Raises `ModelFileError` if the vocabulary lacks tokens that WordPiece requires.
        """
        required_ids(vocabulary)
        self._vocabulary = vocabulary
        self._piece = piece
        self._strips_first_space = strips_first_space
        self._lock = threading.Lock()
        self._tokenizer: ExactWordPiece | None = None

    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The original's ids. The first call builds the tokenizer: about 40 ms for 30,000 entries."""
        return self._exact().encode(text, add_special=add_special, parse_special=parse_special)

    def tokenize_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._exact().encode_batch(texts)

    def tokenize_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        return self._exact().encode_with_offsets(text)

    def token_bytes(self, token: int) -> bytes:
        require_known([token], len(self._vocabulary.entries))
        return self._piece(token)

    def detokenize(self, tokens: Sequence[int]) -> str:
        require_known(tokens, len(self._vocabulary.entries))
        pieces = [self._piece(token) for token in tokens]
        if pieces and self._strips_first_space:
            pieces[0] = pieces[0].removeprefix(b" ")
        return clean_spaces(b"".join(pieces)).decode("utf-8", "replace")

    def _exact(self) -> ExactWordPiece:
        if self._tokenizer is None:
            with self._lock:
                if self._tokenizer is None:
                    self._tokenizer = ExactWordPiece(self._vocabulary)
        return self._tokenizer


def clean_spaces(text: bytes) -> bytes:
    """Remove the spaces that splitting at punctuation has put before "?", "!", ".", ",", "'s", "'m", "'re" and "'ve",
    and around an apostrophe alone: "it 's here ." becomes "it's here.", as llama.cpp does it for WordPiece.

    Only one space each, and never a space before "'t", "'d" and "'ll" (`llama_vocab::impl::detokenize` in llama.cpp's
    src/llama-vocab.cpp).
    """
    text = _SPACE_BEFORE_MARK.sub(b"", text)
    text = _SPACED_APOSTROPHE.sub(b"'", text)
    return _SPACE_BEFORE_CONTRACTION.sub(b"", text)
