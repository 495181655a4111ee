"""The engine for static models: one row per token, and the mean of a text's rows. Uses numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from gguf_embed.engines.base import ContextSpec, EngineInfo
from gguf_embed.engines.static.table import Ids, TokenTable, open_table
from gguf_embed.engines.static.tokenizer import HuggingFaceTokenizer, TextTokenizer
from gguf_embed.engines.static.words import WordTokenizer
from gguf_embed.errors import EngineFailure, InvalidInput, ModelFileError, NotSupported
from gguf_embed.gguf_file import static_format as keys
from gguf_embed.gguf_file.facts import context_length, n_parameters, pooling_type, tensor_bytes
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.strings import read_strings
from gguf_embed.tokenization.known_ids import require_known
from gguf_embed.types import DENSE, TOKENS, FloatMatrix, OutputSpec, Pooling, Span, Vocabulary
from gguf_embed.vectors import Rows

OUTPUTS = (OutputSpec.of(Pooling.MEAN), OutputSpec.of(Pooling.NONE))

BUFFER_BYTES = 2**20
"""Size of the rows that are summed at once: they stay in a core's cache between the copy and the sum."""


class StaticCodec:
    """Implements `TextCodec` and `ExactTokenizing` with the tokenizer in the file. Any thread."""

    def __init__(self, header: GgufHeader, n_tokens: int) -> None:
        """Takes about 50 ms for 30,000 tokens, a second for a million words. Raises `ModelFileError`."""
        try:
            self._tokenizer = _open_tokenizer(header, n_tokens)
        except ModelFileError as error:
            raise ModelFileError(f"{header.path}: {error.message}") from error
        self._n_tokens = n_tokens
        self._unknown_id = header.get(keys.UNKNOWN_ID, int)

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(
            kind="none",
            entries=self._tokenizer.entries,
            unk_id=self._unknown_id,
        )

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Static models have no special tokens around a text, so `add_special` has no effect."""
        return self._tokenizer.encode_batch([text], parse_special=parse_special)[0]

    def tokenize_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._tokenizer.encode_batch(texts)

    def tokenize_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        return self._tokenizer.encode_with_offsets(text)

    def token_bytes(self, token: int) -> bytes:
        require_known([token], self._n_tokens)
        return self._tokenizer.piece(token).encode()

    def detokenize(self, tokens: Sequence[int]) -> str:
        require_known(tokens, self._n_tokens)
        return self._tokenizer.decode(tokens)


class StaticEngine:
    """Implements `Engine`. Any thread."""

    def __init__(self, header: GgufHeader) -> None:
        """Map the rows and build the tokenizer.

        Raises `ModelFileError` if the file does not follow docs/static-models.md.
        """
        self._table: TokenTable | None = open_table(header)
        table = self._table
        self.codec = StaticCodec(header, table.n_tokens)
        self.info = EngineInfo(
            architecture=header.architecture,
            description=f"{header.get(keys.KIND, str) or 'static'}, {table.n_rows:,} rows, {table.type}",
            n_embd=table.n_embd,
            n_vocab=table.n_tokens,
            n_ctx_train=context_length(header) or keys.CONTEXT_LENGTH,
            n_params=n_parameters(header),
            size_bytes=tensor_bytes(header),
            pooling=pooling_type(header),
            causal=False,
            n_cls_out=0,
            vocab_type=0,
            bos_token="",
            eos_token="",
        )

    def open_context(self, spec: ContextSpec) -> StaticContext:
        if spec.output not in OUTPUTS:
            raise NotSupported(
                f"a static model ignores the order of tokens, so pooling {spec.output.pooling_name} has no meaning: "
                "use mean or none"
            )
        if self._table is None:
            raise EngineFailure("this engine is closed")
        return StaticContext(self._table, spec)

    def close(self) -> None:
        """The rows are unmapped once the last context is closed, too."""
        self._table = None


class StaticContext:
    """Implements `EngineContext`. One thread. Ignores `n_threads`, because copying rows is bound by memory."""

    def __init__(self, table: TokenTable, spec: ContextSpec) -> None:
        self.spec = spec
        self._table: TokenTable | None = table
        n_rows = min(spec.max_tokens, max(1, BUFFER_BYTES // (4 * table.n_embd)))
        self._buffer: FloatMatrix = np.empty((n_rows, table.n_embd), np.float32)

    def embed(self, batch: Sequence[Sequence[int]], n_threads: int) -> Rows:
        """Raises `InvalidInput` for the first text whose mean is zero, because that vector has no direction."""
        table = self._table
        if table is None:
            raise EngineFailure("this context is closed")
        lengths = [len(tokens) for tokens in batch]
        ids = self._flat_ids(batch, lengths, table.n_tokens)
        if self.spec.output.kind == TOKENS:
            rows: FloatMatrix = np.empty((len(ids), table.n_embd), np.float32)
            table.take(ids, rows)
            return Rows.per_token(rows, lengths)
        means: FloatMatrix = np.empty((len(lengths), table.n_embd), np.float32)
        begin = 0
        for total, length in zip(means, lengths, strict=True):
            self._sum_rows(table, ids[begin : begin + length], total)
            begin += length
        means /= np.array(lengths, np.float32)[:, np.newaxis]
        has_direction = means.any(axis=1)
        if not has_direction.all():
            first = int(np.argmin(has_direction))
            raise InvalidInput(first, ": the rows of its tokens add up to zero, so it has no vector: use other words")
        return Rows.one_each(DENSE, means)

    def _flat_ids(self, batch: Sequence[Sequence[int]], lengths: Sequence[int], n_vocab: int) -> Ids:
        """All ids in one array, checked, because numpy would read wrong rows for some ids out of range."""
        n_tokens = sum(lengths)
        if not 1 <= len(batch) <= self.spec.max_sequences or n_tokens > self.spec.max_tokens or min(lengths) < 1:
            raise EngineFailure(
                f"a batch of {len(batch)} texts and {n_tokens} tokens, the shortest {min(lengths, default=0)}: this "
                f"context takes {self.spec.max_sequences} texts and {self.spec.max_tokens} tokens, at least 1 each"
            )
        ids = np.fromiter(chain.from_iterable(batch), np.int64, n_tokens)
        if ids.min() < 0 or ids.max() >= n_vocab:
            raise EngineFailure(f"a token id outside 0..{n_vocab - 1} reached the engine")
        return ids

    def _sum_rows(self, table: TokenTable, ids: Ids, total: FloatMatrix) -> None:
        """Sum rows into `total`, float32[n_embd], one buffer of rows at a time."""
        buffer = self._buffer
        if len(ids) <= len(buffer):
            rows = buffer[: len(ids)]
            table.take(ids, rows)
            np.add.reduce(rows, axis=0, out=total)
            return
        total[:] = 0
        for begin in range(0, len(ids), len(buffer)):
            part = ids[begin : begin + len(buffer)]
            rows = buffer[: len(part)]
            table.take(part, rows)
            total += np.add.reduce(rows, axis=0)

    def close(self) -> None:
        """Safe to call twice."""
        self._table = None


def _open_tokenizer(header: GgufHeader, n_tokens: int) -> TextTokenizer:
    kind = header.get(keys.TOKENIZER_KIND, str)
    if kind == keys.WORD_TOKENIZER:
        words = read_strings(header.path, keys.TOKENS)
        if len(words) != n_tokens:
            raise ModelFileError(f"it has {len(words)} words and {n_tokens} rows; convert it again")
        return WordTokenizer(words, bool(header.get(keys.LOWERCASE, bool)))
    source = header.get(keys.TOKENIZER_JSON, str)
    if kind != keys.HUGGINGFACE_TOKENIZER or source is None:
        raise ModelFileError(
            f"its tokenizer {kind!r} is unknown, or {keys.TOKENIZER_JSON} is missing; convert it again"
        )
    skipped = header.get(keys.UNKNOWN_ID, int) if header.get(keys.SKIP_UNKNOWN, bool) else None
    return HuggingFaceTokenizer(source, n_tokens, skipped)
