"""llama.cpp's tokenizer as a codec: of a model that is loaded anyway, or of a file opened for its vocabulary alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from gguf_embed.config import OffloadConfig
from gguf_embed.engines.base import ClosableCodec
from gguf_embed.engines.llama import api
from gguf_embed.engines.llama import vocabulary as words
from gguf_embed.tokenization.known_ids import require_known
from gguf_embed.types import Vocabulary


class LlamaCodec:
    """Implements `TextCodec` with llama.cpp's own tokenizer. Any thread, until the model is freed."""

    def __init__(self, model: api.Handle) -> None:
        self._model = model
        self._vocab = api.vocabulary_of(model)
        self._n_vocab = api.model_facts(model).n_vocab

    @property
    def vocabulary_code(self) -> int:
        """llama.cpp's llama_vocab_type."""
        return api.vocabulary_code(self._vocab)

    def vocabulary(self) -> Vocabulary:
        return words.read_vocabulary(self._model)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return words.tokenize(self._vocab, text.encode("utf-8", "replace"), add_special, parse_special)

    def token_bytes(self, token: int) -> bytes:
        require_known([token], self._n_vocab)
        return words.token_bytes(self._vocab, token)

    def detokenize(self, tokens: Sequence[int]) -> str:
        require_known(tokens, self._n_vocab)
        return words.detokenize(self._vocab, tokens).decode("utf-8", "replace")


def open_codec(path: Path) -> ClosableCodec:
    """Load a file's vocabulary without its weights. Raises `ModelFileError` with llama.cpp's reason.

    Takes as long as a full load of a mapped file, which the vocabulary dominates: 40 ms for WordPiece with 30,000
    entries, 0.6 s for BPE with 151,000. The memory is the vocabulary's alone, 5 and 55 MB, whatever the file's size.
    """
    with ExitStack() as stack:
        model = api.load_model(path, OffloadConfig(), vocabulary_only=True)
        stack.callback(api.free_model, model)
        return ClosableCodec(LlamaCodec(model), stack.pop_all().close)
