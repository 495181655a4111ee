"""An engine with heads: another engine computes token rows, and the heads turn them into the requested output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gguf_embed.engines.base import (
    ContextPlanner,
    ContextSpec,
    Engine,
    EngineContext,
    EngineInfo,
    ExecutionPlan,
    KeepsBuffers,
    LoadedEngine,
)
from gguf_embed.engines.heads.late_interaction import multivectors
from gguf_embed.engines.heads.listwise import marked_vectors
from gguf_embed.engines.heads.sparse import counted, query_vectors, sparse_vectors
from gguf_embed.errors import NotSupported
from gguf_embed.gguf_file.token_heads import TokenHeads
from gguf_embed.types import DENSE, JOINT, LISTWISE, MULTIVECTOR, SPARSE, TOKENS, Output, OutputSpec, Pooling
from gguf_embed.vectors import Rows
from gguf_embed.vectors.joint import JointOutput


def with_heads(loaded: LoadedEngine, plan: ExecutionPlan, heads: TokenHeads) -> tuple[LoadedEngine, ExecutionPlan]:
    """The same engine and plan for requests that also want what the heads give."""
    engine = HeadedEngine(loaded.engine, heads)
    return replace(loaded, engine=engine), replace(plan, contexts=HeadedContexts(plan.contexts, heads))


@dataclass(frozen=True, slots=True)
class HeadedSpec(ContextSpec):
    """A context for one of the heads' outputs."""

    rows: ContextSpec | None  # the context that computes the token rows; None: none is needed


@dataclass(frozen=True, slots=True)
class HeadedContexts:
    """Implements `ContextPlanner`."""

    inner: ContextPlanner
    heads: TokenHeads

    @property
    def max_tokens(self) -> int:
        return self.inner.max_tokens

    @property
    def long_tokens(self) -> int:
        return self.inner.long_tokens

    def spec(self, output: OutputSpec, n_tokens: int, *, long: bool) -> ContextSpec:
        if output.kind not in (MULTIVECTOR, SPARSE, LISTWISE, JOINT):
            return self.inner.spec(output, n_tokens, long=long)
        rows = self.inner.spec(rows_output(output, self.heads), n_tokens, long=long)
        needs_rows = not is_weighed_without_rows(output, self.heads)
        return HeadedSpec(output, rows.max_tokens, rows.max_sequences, rows if needs_rows else None)


class HeadedEngine:
    """Implements `Engine`. Any thread."""

    def __init__(self, engine: Engine, heads: TokenHeads) -> None:
        self._engine = engine
        self._heads = heads

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def open_context(self, spec: ContextSpec) -> EngineContext:
        if not isinstance(spec, HeadedSpec):
            return self._engine.open_context(spec)
        wanted = spec.output.parts or (spec.output.kind,)
        heads = self._heads
        for kind, head in ((MULTIVECTOR, heads.late), (SPARSE, heads.sparse), (LISTWISE, heads.listwise)):
            if kind in wanted and head is None:
                raise NotSupported(f"this model has no head for {kind} output")
        rows = self._engine.open_context(spec.rows) if spec.rows is not None else None
        return HeadedContext(spec, rows, self._heads)

    def close(self) -> None:
        self._engine.close()


class HeadedContext:
    """Implements `EngineContext`. One thread."""

    def __init__(self, spec: ContextSpec, rows: EngineContext | None, heads: TokenHeads) -> None:
        self.spec = spec
        self._rows = rows
        self._heads = heads

    def embed(self, batch: Sequence[Sequence[int]], n_threads: int) -> Output:
        output = self.spec.output
        if self._rows is None:
            sparse = self._sparse(None, batch)
            return sparse if output.kind == SPARSE else JointOutput({SPARSE: sparse})
        rows = self._rows.embed(batch, n_threads)
        assert isinstance(rows, Rows)
        if output.kind != JOINT:
            return self._output(output.kind, rows, batch)
        return JointOutput({kind: self._output(kind, rows, batch) for kind in output.parts})

    def _output(self, kind: str, rows: Rows, batch: Sequence[Sequence[int]]) -> Output:
        output, heads = self.spec.output, self._heads
        if kind == DENSE:
            return pooled(rows, output.pooling or Pooling.MEAN)
        if kind == SPARSE:
            return self._sparse(rows, batch)
        if kind == LISTWISE:
            assert heads.listwise is not None
            return marked_vectors(rows, batch, heads.listwise)
        assert heads.late is not None
        return multivectors(rows, batch, heads.late, is_query=output.is_query)

    def _sparse(self, rows: Rows | None, batch: Sequence[Sequence[int]]) -> Output:
        """`rows` are not needed for queries that a table weighs, and for BM25."""
        head = self._heads.sparse
        assert head is not None
        if head.bm25 is not None:
            return counted(batch, head.bm25, is_query=self.spec.output.is_query)
        if self.spec.output.is_query and head.query_weights is not None:
            return query_vectors(batch, head.query_weights)
        assert rows is not None
        return sparse_vectors(rows, batch, head)

    def release_buffers(self) -> None:
        """Implements `KeepsBuffers`."""
        if isinstance(self._rows, KeepsBuffers):
            self._rows.release_buffers()

    def close(self) -> None:
        if self._rows is not None:
            self._rows.close()


def rows_output(output: OutputSpec, heads: TokenHeads) -> OutputSpec:
    """The token rows that an output of the heads is made of."""
    late = heads.late
    if output.kind == LISTWISE:
        return OutputSpec(TOKENS, for_scores=True)
    if output.kind != MULTIVECTOR or not output.is_query or late is None or late.expansion_attended:
        return OutputSpec(TOKENS)
    return OutputSpec(TOKENS, unattended=late.expansion_token)


def is_weighed_without_rows(output: OutputSpec, heads: TokenHeads) -> bool:
    """Whether a table has the weights of a query's tokens, or counting them is enough."""
    head = heads.sparse
    if (output.parts or (output.kind,)) != (SPARSE,) or head is None:
        return False
    return head.bm25 is not None or (output.is_query and head.query_weights is not None)


def pooled(rows: Rows, pooling: Pooling) -> Rows:
    """One vector per text from its token rows."""
    offsets = np.asarray(rows.offsets, np.int64)
    match pooling:
        case Pooling.CLS:
            return Rows.one_each(DENSE, rows.matrix[offsets[:-1]])
        case Pooling.LAST:
            return Rows.one_each(DENSE, rows.matrix[offsets[1:] - 1])
        case _:
            sums = np.add.reduceat(rows.matrix, offsets[:-1], axis=0)
            n_tokens = np.diff(offsets).astype(np.float32)
            return Rows.one_each(DENSE, np.asarray(sums / n_tokens[:, np.newaxis], np.float32))
