"""The OpenVINO engine: a compiled graph, shared by the contexts that run batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from gguf_embed.engines.base import ContextSpec, EngineInfo
from gguf_embed.engines.openvino.failures import openvino_errors, reason_of
from gguf_embed.engines.openvino.packing import Cost, Packing, split_by_length
from gguf_embed.engines.openvino.runtime import CompiledGraph, Tensor, kernel_name
from gguf_embed.engines.openvino.stored_constants import StoredConstants
from gguf_embed.errors import EngineFailure, ModelFileError, NotSupported
from gguf_embed.gguf_file.adapters import TaskRows
from gguf_embed.gguf_file.token_rows import PairRows, TokenRows
from gguf_embed.types import DENSE, SCORES, TOKENS, OutputSpec, Pooling
from gguf_embed.vectors import Rows

ROWS, POOLED, RANKED = 0, 1, 2
"""The numbers of a graph's outputs."""

MAX_SEQUENCES = 256


@dataclass(frozen=True, slots=True)
class OpenVinoContexts:
    """Implements `ContextPlanner`. A context is small until it runs a batch."""

    max_tokens: int
    long_tokens: int

    def spec(self, output: OutputSpec, n_tokens: int, *, long: bool) -> ContextSpec:
        return ContextSpec(output, self.long_tokens, 1) if long else ContextSpec(output, self.max_tokens, MAX_SEQUENCES)


@dataclass(frozen=True, slots=True)
class CompiledNetwork:
    """A network, compiled: for several batches at once, and for one that has the machine to itself."""

    shared: CompiledGraph
    alone: CompiledGraph  # the same one if a batch has as many threads there
    alone_threads: int
    rank_pooling: Pooling  # what the rank head reads
    tokens: TokenRows | PairRows | TaskRows
    cost: Cost
    constants: StoredConstants


class OpenVinoEngine:
    """Implements `Engine`. Any thread; `close` after all contexts are closed."""

    def __init__(self, info: EngineInfo, compiled: CompiledNetwork, on_close: Callable[[], None]) -> None:
        self.info = info
        self._compiled: CompiledNetwork | None = compiled
        self._on_close = on_close

    def open_context(self, spec: ContextSpec) -> OpenVinoContext:
        if spec.output.kind not in (DENSE, TOKENS, SCORES):
            raise NotSupported(f"the OpenVINO engine does not compute {spec.output.kind} output")
        if spec.output.kind == SCORES and not self.info.n_cls_out:
            raise ModelFileError("this model has no rank head, so pooling rank cannot work: use a reranker's GGUF")
        if self._compiled is None:
            raise EngineFailure("this engine is closed")
        return OpenVinoContext(self._compiled, self.info, spec)

    def kernel_name(self) -> str:
        """What multiplies its matrices; "" before it has computed anything, and after it was closed."""
        with suppress(RuntimeError):  # which is about what is shown only
            return kernel_name(self._compiled.shared) if self._compiled is not None else ""
        return ""

    def close(self) -> None:
        """The weights are freed once the last context is closed, too."""
        self._compiled = None
        self._on_close()


class OpenVinoContext:
    """Implements `EngineContext`. One thread. Numbers of threads were set when the graphs were compiled."""

    def __init__(self, compiled: CompiledNetwork, info: EngineInfo, spec: ContextSpec) -> None:
        self.spec = spec
        self._compiled = compiled
        self._info = info
        self._requests: dict[int, Any] | None = {}  # by the id of their graph; created on first use
        self._output = {DENSE: POOLED, TOKENS: ROWS, SCORES: RANKED}[spec.output.kind]
        # token rows do not depend on it
        self._pooling = compiled.rank_pooling if self._output == RANKED else spec.output.pooling or Pooling.MEAN

    def embed(self, batch: Sequence[Sequence[int]], n_threads: int) -> Rows:
        if self._requests is None:
            raise EngineFailure("this context is closed")
        lengths = self._check(batch)
        graph = self._compiled.alone if n_threads == self._compiled.alone_threads else self._compiled.shared
        request = self._requests.get(id(graph))
        is_first = request is None
        if is_first:
            with openvino_errors("OpenVINO cannot prepare a batch"):
                request = graph.create_infer_request()
        parts = split_by_length(lengths.tolist(), self._compiled.cost) if len(batch) > 1 else []
        if len(parts) < 2:
            rows = self._run(request, batch, lengths)
        else:
            outputs: list[Rows | None] = [None] * len(batch)
            for part in parts:
                output = self._run(request, [batch[number] for number in part], lengths[part])
                for position, number in enumerate(part):
                    outputs[number] = output.part(position)
            rows = Rows.join(outputs)
        if is_first:
            self._requests[id(graph)] = request
            self._compiled.constants.release()  # the matrices are packed now
        return rows

    def _run(self, request: Any, batch: Sequence[Sequence[int]], lengths: np.ndarray) -> Rows:
        """Compute texts of similar length in one call."""
        packing = Packing.of(lengths, self._compiled.cost)
        ids = np.fromiter(chain.from_iterable(batch), np.int64, int(lengths.sum()))
        unattended = self.spec.output.unattended
        inputs = [
            packing.rows(self._compiled.tokens.take(ids)),
            packing.lengths[:, np.newaxis] if unattended is None else packing.attended(batch, unattended),
            packing.slots,
            packing.places,
            packing.positions,
            packing.pooling(self._pooling),
        ]
        if isinstance(self._compiled.tokens, TaskRows):
            inputs.append(packing.rows(self._compiled.tokens.columns(ids)))
        try:
            for number, values in enumerate(inputs):
                request.set_input_tensor(number, Tensor(values, shared_memory=True))
            request.infer(share_outputs=True)  # infer(inputs) takes 0.1 ms longer, and by default copies all outputs
            result = request.get_output_tensor(self._output).data
        except RuntimeError as error:
            raise EngineFailure(f"OpenVINO refused a batch of {len(batch)} texts: {reason_of(error)}") from error
        if self.spec.output.kind == TOKENS:
            return Rows.per_token(result[: len(ids)].copy(), lengths.tolist())
        return Rows.one_each(self.spec.output.kind, result[: len(batch), 0].copy())

    def _check(self, batch: Sequence[Sequence[int]]) -> np.ndarray:
        """Check all sizes and ids. Returns the lengths, int32[texts]."""
        if not 1 <= len(batch) <= self.spec.max_sequences:
            raise EngineFailure(f"a batch of {len(batch)} texts in a context for {self.spec.max_sequences}")
        lengths = np.fromiter(map(len, batch), np.int32, len(batch))
        longest, n_tokens = int(lengths.max()), int(lengths.sum())
        if lengths.min() < 1:
            raise EngineFailure("a text without tokens in a batch")
        if n_tokens > self.spec.max_tokens or longest > self._info.n_ctx_train:
            raise EngineFailure(
                f"a batch of {n_tokens} tokens, the longest text {longest}: this context takes {self.spec.max_tokens}, "
                f"the model {self._info.n_ctx_train}"
            )
        n_kinds = 2 if self.spec.output.kind == SCORES and self._info.has_second_text else 1 + len(self._info.tasks)
        n_ids = self._info.n_vocab * n_kinds
        if min(map(min, batch)) < 0 or max(map(max, batch)) >= n_ids:
            raise EngineFailure(f"a token id outside 0..{n_ids - 1} reached the engine")
        return lengths

    def release_buffers(self) -> None:
        """Implements `KeepsBuffers`: matrices as they were read, if they came back into memory.

        OpenVINO's own buffers stay. After its `release_memory`, operations whose shapes have not changed since the last
        batch read and write freed memory (2026.4): wrong vectors, and a corrupted heap.
        """
        self._compiled.constants.release()

    def close(self) -> None:
        """Safe to call twice."""
        self._requests = None
