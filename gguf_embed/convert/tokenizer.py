"""Reads the tokenizer of a model directory, of any supported kind."""

from __future__ import annotations

from typing import Protocol

import gguf

from gguf_embed.convert.byte_bpe import is_byte_level, read_byte_bpe
from gguf_embed.convert.fast_tokenizer import FastTokenizer, read_fast_tokenizer
from gguf_embed.convert.source import ModelSourceDirectory
from gguf_embed.convert.spm_bpe import read_spm_bpe, replaces_spaces
from gguf_embed.convert.unigram import read_unigram
from gguf_embed.convert.wordpiece import read_wordpiece
from gguf_embed.errors import ModelFileError


class VocabularyPlan(Protocol):
    """A vocabulary that is ready to be written into a GGUF."""

    @property
    def n_tokens(self) -> int:
        """Ids are 0 to n_tokens - 1; the token embeddings must have as many rows."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Differences between llama.cpp's tokenizer and the original, one line each."""
        ...

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Write all `tokenizer.*` keys: tokens, types, special ids, what is added around a text."""
        ...


def read_tokenizer(source: ModelSourceDirectory, n_vocab: int) -> VocabularyPlan:
    """Read `tokenizer.json` (or WordPiece's `vocab.txt`), with ids for `n_vocab` rows of token embeddings.

    Raises `ModelFileError` for a tokenizer that llama.cpp does not compute, a malformed file, or an id out of range.
    """
    path = source.path / "tokenizer.json"
    if not path.is_file():
        if (source.path / "vocab.txt").is_file():
            return read_wordpiece(source, n_vocab)
        raise ModelFileError(
            f"{source.path} has neither tokenizer.json nor vocab.txt; "
            "transformers writes tokenizer.json with AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )
    try:
        return _read_fast(source, read_fast_tokenizer(source), n_vocab)
    except (LookupError, TypeError, ValueError, AttributeError) as exc:
        raise ModelFileError(f"{path} is malformed ({type(exc).__name__}: {exc}); download it again") from exc


def _read_fast(source: ModelSourceDirectory, fast: FastTokenizer, n_vocab: int) -> VocabularyPlan:
    kind = fast.model.get("type") or ("Unigram" if isinstance(fast.model["vocab"], list) else "WordPiece")
    if kind == "WordPiece":
        return read_wordpiece(source, n_vocab)
    if kind == "Unigram":
        return read_unigram(fast, n_vocab)
    if kind == "BPE" and is_byte_level(fast):
        return read_byte_bpe(fast, n_vocab)
    if kind == "BPE" and replaces_spaces(fast):
        return read_spm_bpe(fast, n_vocab)
    raise fast.refuse(f"tokenizer {kind!r}", "only WordPiece, Unigram, byte-level BPE and Gemma's BPE")
