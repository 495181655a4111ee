"""SigLIP's tokenizer: Unigram over lower-cased text without punctuation, filled up to the model's length."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gguf_embed.errors import ModelFileError
from gguf_embed.tokenization.known_ids import require_known
from gguf_embed.tokenization.offsets import MAX_ALIGNED_CHARACTERS, align
from gguf_embed.types import Span, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PRE = "siglip"
"""`tokenizer.ggml.pre` of a file with this tokenizer."""

EOS, UNKNOWN = "</s>", "<unk>"
_WORD_START = "\u2581"
_BYTE_TYPE = 6
_SPACES: Final = re.compile(r"\s+")
_NO_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


class SiglipCodec:
    """Implements `TextCodec` and `ExactTokenizing` of the engines' contract. Any thread; there is nothing to close."""

    def __init__(
        self, entries: Sequence[str], scores: Sequence[float], types: Sequence[int], charsmap: bytes, n_ctx: int
    ) -> None:
        """A text has `n_ctx` ids: after its end, more end tokens follow, which the model was trained to read.

        Raises `ModelFileError` for a vocabulary without an end token.
        """
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

        if EOS not in entries or UNKNOWN not in entries or not len(entries) == len(scores) == len(types):
            raise ModelFileError("its vocabulary is not SigLIP's; convert the model again")
        self._entries = tuple(entries)
        self._eos, self._unknown = self._entries.index(EOS), self._entries.index(UNKNOWN)
        self._n_ctx = n_ctx
        scored = list(zip(self._entries, map(float, scores), strict=True))
        has_bytes = _BYTE_TYPE in types
        self._tokenizer: Tokenizer = Tokenizer(models.Unigram(scored, unk_id=self._unknown, byte_fallback=has_bytes))
        if charsmap:
            self._tokenizer.normalizer = normalizers.Precompiled(charsmap)
        self._tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_WORD_START, prepend_scheme="never")

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(
            kind="ugm",
            entries=self._entries,
            eos_id=self._eos,
            unk_id=self._unknown,
            pad_id=self._eos,
            adds_eos=True,
            lowercase=True,
        )

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """`parse_special` has no effect: punctuation is removed, so that no text contains a special token."""
        own: list[int] = self._tokenizer.encode(canonical(text), add_special_tokens=False).ids
        return self._filled(own) if add_special else own

    def tokenize_batch(self, texts: Sequence[str]) -> list[list[int]]:
        found = self._tokenizer.encode_batch_fast(list(map(canonical, texts)), add_special_tokens=False)
        return [self._filled(encoding.ids) for encoding in found]

    def tokenize_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        own = self.tokenize(text, add_special=False, parse_special=False)
        ids = self._filled(own)
        if len(text) > MAX_ALIGNED_CHARACTERS:
            return ids, [None] * len(ids)
        spans = align(text, [None if token == self._unknown else self.token_bytes(token) for token in own])
        return ids, [*spans, *(None for _ in ids[len(own) :])]

    def token_bytes(self, token: int) -> bytes:
        require_known([token], len(self._entries))
        return self._entries[token].replace(_WORD_START, " ").encode()

    def detokenize(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace").strip()

    def _filled(self, own: list[int]) -> list[int]:
        return own + [self._eos] * max(1, self._n_ctx - len(own))


def canonical(text: str) -> str:
    """Lower case, without ASCII punctuation, with single spaces (big_vision's prompt_engineering.py).

    It begins with SentencePiece's mark of a word, as in Hugging Face's SiglipTokenizer: before it, not after it, spaces
    are dropped.
    """
    marked = _WORD_START + text.replace(_WORD_START, " ")
    return _SPACES.sub(" ", marked.lower().translate(_NO_PUNCTUATION)).strip()
