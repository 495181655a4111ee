"""The engines' contract, fulfilled by a process of its own: what the scheduler and the tokenizers call."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from gguf_embed.engines.base import ContextSpec, ImageRows
from gguf_embed.engines.isolated.messages import (
    CodecCall,
    EmbedBatch,
    EmbedImages,
    IsolatedSpec,
    Loaded,
    OpenContext,
    OpenImages,
    ReleaseBuffers,
)
from gguf_embed.engines.isolated.process import Lane
from gguf_embed.engines.isolated.supervisor import Supervisor
from gguf_embed.errors import EmbedError
from gguf_embed.tokenization.known_ids import require_known
from gguf_embed.types import TOKENS, ImageInput, Output, OutputSpec, Span, Vocabulary

SHORT_CHARACTERS, N_SHORT_TEXTS = 32, 256
"""The ids of short texts that are asked for again and again, such as prompts, are kept."""


class IsolatedEngine:
    """Implements `Engine`. Any thread."""

    def __init__(self, supervisor: Supervisor, loaded: Loaded) -> None:
        self.info = loaded.info
        self.codec = IsolatedCodec(supervisor, loaded)
        self.tokens_per_s = 1000.0  # of one worker, as measured
        self.supervisor = supervisor

    def open_context(self, spec: ContextSpec) -> IsolatedContext:
        if not isinstance(spec, IsolatedSpec):
            spec = IsolatedSpec(spec.output, spec.max_tokens, spec.max_sequences)
        return IsolatedContext(self, spec)

    def close(self) -> None:
        self.supervisor.close()
        self.codec.close()


class IsolatedContext:
    """Implements `EngineContext`. One thread. If the process is another one now, its lane is opened again."""

    def __init__(self, engine: IsolatedEngine, spec: IsolatedSpec) -> None:
        self.spec = spec
        self._engine = engine
        self._supervisor = engine.supervisor
        n_rows = spec.max_tokens if spec.output.kind == TOKENS else spec.max_sequences
        self._row_bytes = 4 * n_rows * max(engine.info.n_embd, engine.info.n_cls_out)
        self._lane: Lane | None = self._open()

    def _open(self) -> Lane:
        lane = self._supervisor.open_lane(self._row_bytes)
        request = OpenContext(self.spec.output, self.spec.long)
        try:
            self._supervisor.call(lane, request, self._supervisor.stage_s, "opening a context")
        except BaseException:
            lane.close()
            raise
        return lane

    def embed(self, batch: Sequence[Sequence[int]], n_threads: int) -> Output:
        """Raises `Unavailable` if the process ends while it computes the batch, or is not running."""
        lane = self._lane
        if lane is None or not self._supervisor.is_current(lane):
            self.close()
            lane = self._lane = self._open()
        n_tokens = sum(map(len, batch))
        limit_s = self._supervisor.limits.batch(n_tokens, self._engine.tokens_per_s)
        output: Output = self._supervisor.call(
            lane, EmbedBatch(batch, n_threads), limit_s, f"a batch of {n_tokens} tokens"
        )
        return output

    def release_buffers(self) -> None:
        """Implements `KeepsBuffers`."""
        _release_buffers(self._supervisor, self._lane)

    def close(self) -> None:
        """Safe to call twice."""
        if self._lane is not None:
            self._lane.close()
            self._lane = None


class IsolatedCodec:
    """Implements `TextCodec` and `ExactTokenizing`. Any thread. The texts of ids are here, the tokenizer is not."""

    def __init__(self, supervisor: Supervisor, loaded: Loaded) -> None:
        self._supervisor = supervisor
        self._vocabulary = loaded.vocabulary
        self._pieces = loaded.pieces
        self._lock = threading.Lock()
        self._idle: list[Lane] = []
        self._tokenize_short = lru_cache(N_SHORT_TEXTS)(self._tokenize)

    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        if len(text) <= SHORT_CHARACTERS:
            return list(self._tokenize_short(text, add_special, parse_special))
        return self._tokenize(text, add_special, parse_special)

    def _tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        options = (("add_special", add_special), ("parse_special", parse_special))
        ids: list[int] = self._call(CodecCall("tokenize", text, options), len(text))
        return ids

    def tokenize_batch(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._call(CodecCall("tokenize_batch", texts), sum(map(len, texts)))
        return ids

    def tokenize_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        found: tuple[list[int], list[Span | None]] = self._call(CodecCall("tokenize_with_offsets", text), len(text))
        return found

    def token_bytes(self, token: int) -> bytes:
        require_known([token], len(self._pieces))
        return self._pieces[token]

    def detokenize(self, tokens: Sequence[int]) -> str:
        require_known(tokens, len(self._pieces))
        text: str = self._call(CodecCall("detokenize", tokens), len(tokens))
        return text

    def _call(self, call: CodecCall, n_characters: int) -> Any:
        """On a lane that no other thread uses now."""
        lane = self._idle_lane() or self._supervisor.open_lane()
        limit_s = self._supervisor.limits.text(n_characters)
        try:
            return self._supervisor.call(lane, call, limit_s, f"tokenizing {n_characters:,} characters")
        finally:
            with self._lock:
                self._idle.append(lane)

    def close(self) -> None:
        """Once the process has ended."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _idle_lane(self) -> Lane | None:
        """One to the process that runs now; those to earlier ones are closed."""
        with self._lock:
            while self._idle:
                lane = self._idle.pop()
                if self._supervisor.is_current(lane):
                    return lane
                lane.close()
        return None


class IsolatedImages:
    """Implements `ImageReader`. One thread."""

    def __init__(self, supervisor: Supervisor) -> None:
        """Raises what loading the vision tower raises."""
        self._supervisor = supervisor
        self._lane: Lane | None = self._open()

    def _open(self) -> Lane:
        lane = self._supervisor.open_lane()
        try:
            self.max_inputs: int = self._supervisor.call(
                lane, OpenImages(), self._supervisor.stage_s, "loading the vision tower"
            )
        except BaseException:
            lane.close()
            raise
        return lane

    def embed_batch(self, inputs: Sequence[ImageInput], output: OutputSpec) -> list[ImageRows]:
        lane = self._lane
        if lane is None or not self._supervisor.is_current(lane):
            self.close()
            lane = self._lane = self._open()
        limit_s = self._supervisor.limits.image_s
        rows: list[ImageRows] = self._supervisor.call(
            lane, EmbedImages(tuple(inputs), output), limit_s, "inputs with images"
        )
        return rows

    def release_buffers(self) -> None:
        """Implements `KeepsBuffers`."""
        _release_buffers(self._supervisor, self._lane)

    def close(self) -> None:
        if self._lane is not None:
            self._lane.close()
            self._lane = None


def _release_buffers(supervisor: Supervisor, lane: Lane | None) -> None:
    """Of what uses the lane, if it leads to the process that runs now."""
    if lane is not None and supervisor.is_current(lane):
        with suppress(EmbedError):  # the process has ended, which the next batch will say
            supervisor.call(lane, ReleaseBuffers(), supervisor.stage_s, "freeing memory")
