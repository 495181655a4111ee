"""The tokenizer of a model that runs elsewhere, from the same file on this machine, without its weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence

from gguf_embed.embedder.embedder import Embedder
from gguf_embed.embedder.model_source import file_digest, source_of
from gguf_embed.embedder.token_offsets import own_token_offsets
from gguf_embed.engines.select import open_codec
from gguf_embed.errors import EmbedError
from gguf_embed.gguf_file import towers
from gguf_embed.gguf_file.bm25_format import WITHOUT_NETWORK
from gguf_embed.gguf_file.towers import read_model
from gguf_embed.model_store.default_model import cache_dir
from gguf_embed.model_store.locate import locate_model
from gguf_embed.preprocessing.tokenizers import choose_tokenizer, special_tokens_of
from gguf_embed.types import Span

_log = logging.getLogger("gguf_embed.ingest")


class OwnTokenizer:
    """Thread-safe, until it is closed."""

    def __init__(self, token_offsets: Callable[[str], Sequence[Span | None]], close: Callable[[], None]) -> None:
        self.token_offsets = token_offsets
        self.close = close


def open_own_tokenizer(model: str | None, fingerprint: str) -> OwnTokenizer | None:
    """None if the file is not on this machine, or is another one than that with this fingerprint."""
    try:
        path = locate_model(source_of(model, offline=True), cache_dir(os.environ), _log.info).path
        if file_digest(path) != fingerprint:
            return None
        if read_model(path).architecture in (*WITHOUT_NETWORK, towers.TEXT):  # only the engine has the tokenizer
            embedder = Embedder(path, offline=True)
            return OwnTokenizer(embedder.token_offsets, embedder.close)
        opened = open_codec(path)
        tokenizer = choose_tokenizer(opened.codec, opened.exact, "auto")
    except EmbedError as error:
        _log.info("texts are tokenized by the actors: %s", error)
        return None
    special = special_tokens_of(tokenizer)
    return OwnTokenizer(lambda text: own_token_offsets(text, tokenizer, special), opened.close)
