"""The engine for BM25, which has no network: words to ids. The weights are a head's, `engines/heads/sparse.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from gguf_embed.engines.base import ContextSpec, EngineContext, EngineInfo
from gguf_embed.engines.bm25.words import WordHashes, open_stemmer
from gguf_embed.errors import InvalidRequest, ModelFileError, NotSupported, WayOut
from gguf_embed.gguf_file import bm25_format as keys
from gguf_embed.gguf_file.facts import context_length
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.strings import read_strings
from gguf_embed.types import Pooling, Span, Vocabulary


class Bm25Codec:
    """Implements `TextCodec` and `ExactTokenizing`. Any thread."""

    def __init__(self, words: WordHashes) -> None:
        self._words = words

    def vocabulary(self) -> Vocabulary:
        """Empty: ids are hashes, and those of a client mean nothing."""
        return Vocabulary(
            kind="none",
            entries=(),
        )

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """There are no special tokens, so the flags have no effect."""
        return self._words.ids(text)

    def tokenize_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._words.ids(text) for text in texts]

    def tokenize_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        ids, spans = self._words.ids_with_offsets(text)
        return ids, list(spans)

    def token_bytes(self, token: int) -> NoReturn:
        raise InvalidRequest(
            f"BM25's ids are hashes, from which words cannot be read back, and so is {token}", "tokens"
        )

    def detokenize(self, tokens: Sequence[int]) -> str:
        return "".join(self.token_bytes(token) for token in tokens)


class Bm25Engine:
    """Implements `Engine`. Any thread."""

    def __init__(self, header: GgufHeader) -> None:
        """Raises `ModelFileError` for a damaged file, `ConfigError` if the stemmer's package is missing."""
        language, longest = header.get(keys.LANGUAGE, str), header.get(keys.LONGEST_WORD, int)
        if not language or not longest:
            raise ModelFileError(f"{header.path}: {keys.LANGUAGE} or {keys.LONGEST_WORD} is missing; make it again")
        try:
            stem = open_stemmer(language)
        except ModelFileError as error:
            raise ModelFileError(f"{header.path}: {error.message}") from error
        stop_words = read_strings(header.path, keys.STOP_WORDS)
        self.codec = Bm25Codec(WordHashes(stem, stop_words, longest))
        self.info = EngineInfo(
            architecture=header.architecture,
            description=f"BM25, {language}, {len(stop_words):,} stop words",
            n_embd=0,
            n_vocab=keys.N_IDS,
            n_ctx_train=context_length(header) or keys.CONTEXT_LENGTH,
            n_params=0,
            size_bytes=header.size_bytes,
            pooling=Pooling.NONE,
            causal=False,
            n_cls_out=0,
            vocab_type=0,
            bos_token="",
            eos_token="",
        )

    def open_context(self, spec: ContextSpec) -> EngineContext:
        raise NotSupported("BM25 gives sparse vectors and no others", [WayOut.SPARSE_VECTORS])

    def close(self) -> None:
        """There is nothing to free."""
