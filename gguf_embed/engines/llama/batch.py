"""The arrays of a llama_batch, reused from call to call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from gguf_embed.engines.llama.api import Handle, llama
from gguf_embed.types import FloatMatrix


class BatchBuffers:
    """The arrays of one llama_batch, filled in place without allocations per call or Python loops over tokens.

    One thread at a time. Every token belongs to one sequence, and by default every token is an output.
    """

    def __init__(self, max_tokens: int) -> None:
        self.token = np.zeros(max_tokens, np.int32)
        self.position = np.zeros(max_tokens, np.int32)
        self.sequence = np.zeros(max_tokens, np.int32)
        self._one_sequence = np.ones(max_tokens, np.int32)
        self._output = np.ones(max_tokens, np.int8)  # 1: compute the token's row or logits
        base = self.sequence.ctypes.data
        self._sequence_at = (base + 4 * np.arange(max_tokens)).astype(np.uint64)
        self._count_up = np.arange(max_tokens, dtype=np.int32)
        self._rows: FloatMatrix | None = None
        self._batch = llama.llama_batch(
            n_tokens=0,
            token=self.token.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            embd=None,
            pos=self.position.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            n_seq_id=self._one_sequence.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._sequence_at.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=self._output.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(
        self, batch: Sequence[Sequence[int]], starts: Sequence[int] | None = None, *, output: bool = True
    ) -> Handle:
        """Write sequences one after another, numbered from 0, with positions from `starts` (None: 0). They must fit.

        `output`: whether to compute rows for these tokens.
        """
        end = 0
        for number, tokens in enumerate(batch):
            start, end = end, end + len(tokens)
            self.token[start:end] = tokens
            self.position[start:end] = self._count_up[: end - start]
            if starts is not None:
                self.position[start:end] += starts[number]
            self.sequence[start:end] = number
        self._output[:end] = output
        self._batch.n_tokens = end
        return self._batch

    def fill_rows(self, batch: Sequence[Sequence[int]], rows: FloatMatrix) -> Handle:
        """The same, with float32[n_tokens, n_embd] instead of the embeddings of the ids.

        Valid until the next `fill`.
        """
        filled = self.fill(batch)
        self._rows = np.ascontiguousarray(rows, np.float32)  # keeps them alive
        return llama.llama_batch(
            n_tokens=filled.n_tokens,
            token=None,
            embd=self._rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            pos=filled.pos,
            n_seq_id=filled.n_seq_id,
            seq_id=filled.seq_id,
            logits=filled.logits,
        )
