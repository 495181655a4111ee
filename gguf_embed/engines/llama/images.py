"""Inputs with images: token ids and the rows of a vision tower, computed in order in one llama.cpp context."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from gguf_embed.engines.base import EngineInfo, ImageRows
from gguf_embed.engines.llama import api
from gguf_embed.engines.llama import mtmd_api as mtmd
from gguf_embed.engines.llama.batch import BatchBuffers
from gguf_embed.errors import EngineFailure, ImageInputTooLong, InvalidRequest, ModelFileError, NotSupported, WayOut
from gguf_embed.images.checks import check_image, check_pixels, check_together
from gguf_embed.images.webp import is_webp
from gguf_embed.types import DENSE, TOKENS, FloatMatrix, ImageInput, OutputSpec, Pooling
from gguf_embed.vectors import Rows


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """What an image context must be able to run."""

    mmproj: Path  # file of the vision tower
    max_tokens: int  # of one input with its images
    n_threads: int
    use_gpu: bool = False
    part_tokens: int = 512  # computed at once; limits the memory for logits


@dataclass(frozen=True, slots=True)
class Part:
    """What one call computes: token ids, or a whole image."""

    chunk: mtmd.Chunk
    tokens: tuple[int, ...] | None
    position: int
    wants_rows: bool = True


@dataclass(slots=True)
class RowPool:
    """Pools token rows, which are added part by part. With pooling none, it keeps them all."""

    pooling: Pooling
    _kept: list[FloatMatrix] = field(default_factory=list)
    _n: int = 0

    def add(self, rows: FloatMatrix) -> None:
        """Add float32[n, n_embd], in reading order. The caller may reuse the array."""
        self._n += len(rows)
        match self.pooling:
            case Pooling.MEAN:
                total = rows.sum(axis=0, keepdims=True, dtype=np.float64)
                self._kept = [total + self._kept[0] if self._kept else total]
            case Pooling.CLS:
                self._kept = self._kept or [rows[:1].copy()]
            case Pooling.LAST:
                self._kept = [rows[-1:].copy()]
            case _:
                self._kept.append(rows.copy())

    def result(self) -> FloatMatrix:
        pooled = np.concatenate(self._kept)
        return np.asarray(pooled / self._n if self.pooling is Pooling.MEAN else pooled, np.float32)


class ImageContext:
    """Implements `ImageReader`: a vision tower with a context of the text model. Belongs to one thread once opened."""

    max_inputs = 1

    def __init__(self, info: EngineInfo, model: api.Handle, spec: ImageSpec) -> None:
        """Load the tower. Raises `ModelFileError` with one clear reason."""
        self.spec = spec
        self._info = info
        self._width = api.model_facts(model).n_embd_in
        with ExitStack() as stack:
            params = mtmd.TowerParams(spec.use_gpu, spec.n_threads)
            self._tower = mtmd.open_tower(spec.mmproj, model, params)
            stack.callback(mtmd.free_tower, self._tower)
            if not mtmd.supports_vision(self._tower):
                raise ModelFileError(f"{spec.mmproj.name} has an audio encoder only: use one with a vision encoder")
            # flash attention, because without it the attention scores take memory for each part times the whole text
            self._context = api.new_context(
                model, api.ContextParams(spec.max_tokens, self._part_tokens(), 1, Pooling.NONE, True)
            )
            stack.callback(api.free_context, self._context)
            api.set_threads(self._context, spec.n_threads)
            self._stack = stack.pop_all()
        self._buffers = BatchBuffers(self._part_tokens())

    def _part_tokens(self) -> int:
        return min(self.spec.part_tokens, self.spec.max_tokens)

    def embed_batch(self, inputs: Sequence[ImageInput], output: OutputSpec) -> list[ImageRows]:
        return [self.embed(text, output) for text in inputs]

    def embed(self, text: ImageInput, output: OutputSpec) -> ImageRows:
        """Compute one input, see `ImageReader.embed_batch`."""
        if output.kind not in (DENSE, TOKENS):
            raise NotSupported(f"inputs with images have no {output.kind}, only vectors", [WayOut.POOL])
        pooling = Pooling(output.pooling_name)
        _check_files(text)
        with ExitStack() as stack:
            parts = [self._decode(text, number, stack) for number in range(len(text.parts))]
            handle = mtmd.tokenize(self._tower, parts)
            if handle is None:
                raise InvalidRequest(f"input {text.index}: the vision tower cannot process one of its images")
            stack.callback(mtmd.free_chunks, handle)
            chunks = mtmd.list_chunks(self._tower, handle)
            self._check(text.index, chunks)
            pool = RowPool(pooling)
            self._compute(plan_parts(chunks, self._part_tokens(), pooling), pool)
            rows = pool.result()
        if not np.isfinite(rows).all():
            raise EngineFailure(f"input {text.index}: the model returned numbers that are not finite")
        return ImageRows(Rows(output.kind, rows, (0, len(rows))), sum(chunk.n_tokens for chunk in chunks))

    def _decode(self, text: ImageInput, number: int, stack: ExitStack) -> str | api.Handle:
        part = text.parts[number]
        if isinstance(part, str):
            return part
        where = _part_name(text, number)
        check_pixels(part, where)
        bitmap = mtmd.decode_image(self._tower, part)
        if bitmap is None:
            raise InvalidRequest(f"{where} the image is damaged: save it again, and send the new file")
        stack.callback(mtmd.free_image, bitmap)
        return bitmap

    def _check(self, index: int, chunks: Sequence[mtmd.Chunk]) -> None:
        """Check all sizes that llama.cpp asserts on."""
        n_tokens = sum(chunk.n_tokens for chunk in chunks)
        if n_tokens > self.spec.max_tokens:
            raise ImageInputTooLong(index, n_tokens, self.spec.max_tokens)
        if min((chunk.n_tokens for chunk in chunks), default=0) < 1:
            raise InvalidRequest(f"input {index} has no tokens: send a text or an image")
        whole = max((chunk.n_tokens for chunk in chunks if chunk.looks_ahead), default=0)
        if whole > self._part_tokens():
            raise NotSupported(
                f"input {index}: an image has {whole} tokens, which must be computed together, and the limit is "
                f"{self._part_tokens()}: send a smaller one"
            )

    def _compute(self, parts: Sequence[Part], pool: RowPool) -> None:
        api.clear_memory(self._context)
        for part in parts:
            api.set_embeddings(self._context, part.wants_rows)
            code = self._run_ids(part, pool) if part.tokens is not None else self._run_image(part, pool)
            if code != 0:
                raise EngineFailure(f"llama.cpp refused a part of {part.chunk.n_tokens} tokens (code {code})")

    def _run_ids(self, part: Part, pool: RowPool) -> int:
        tokens = part.tokens or ()
        batch = self._buffers.fill([tokens], [part.position], output=part.wants_rows)
        code = api.decode(self._context, batch)
        if code == 0 and part.wants_rows:
            self._take_rows(len(tokens), pool)
        return code

    def _run_image(self, part: Part, pool: RowPool) -> int:
        rows = mtmd.encode_image(self._tower, part.chunk, self._width)
        if rows is None or not np.isfinite(rows).all():
            raise EngineFailure("the vision tower returned no finite numbers for an image")

        def on_rows(n_rows: int) -> None:
            if part.wants_rows:
                self._take_rows(n_rows, pool)

        place = (part.position, self._part_tokens())
        return mtmd.decode_rows(self._tower, self._context, part.chunk, rows, place, on_rows)

    def _take_rows(self, n_rows: int, pool: RowPool) -> None:
        rows = np.empty((n_rows, self._info.n_embd), np.float32)
        if not api.copy_token_rows(self._context, rows):
            raise EngineFailure(f"llama.cpp returned no rows for {n_rows} tokens")
        pool.add(rows)

    def close(self) -> None:
        """Free everything. Call it once, before the engine's `close`."""
        self._stack.close()


def _part_name(text: ImageInput, number: int) -> str:
    return f"input {text.index}, part {number}:"


def _check_files(text: ImageInput) -> None:
    """Check the image files before they are decoded, because decoded images are all in memory at the same time."""
    for number, part in enumerate(text.parts):
        if isinstance(part, bytes):
            check_image(part, _part_name(text, number))
            if is_webp(part):
                raise NotSupported(
                    f"{_part_name(text, number)} the image is a WebP, which this model's vision tower does not decode: "
                    "convert it to a PNG or JPEG"
                )
    check_together((part for part in text.parts if isinstance(part, bytes)), f"input {text.index}")


def plan_parts(chunks: Sequence[mtmd.Chunk], part_tokens: int, pooling: Pooling) -> list[Part]:
    """The parts to compute, in order. Rows are requested only where pooling needs them, because they cost logits.

    With pooling last, the last id is a separate part; with cls, the first id is.
    """
    parts: list[Part] = []
    position = 0
    for number, chunk in enumerate(chunks):
        if chunk.tokens is None:
            parts.append(Part(chunk, None, position))
        else:
            cuts = {*range(0, len(chunk.tokens), part_tokens), len(chunk.tokens)}
            if pooling is Pooling.LAST and number == len(chunks) - 1:
                cuts.add(len(chunk.tokens) - 1)
            if pooling is Pooling.CLS and number == 0:
                cuts.add(1)
            edges = sorted(cuts)
            for start, end in pairwise(edges):
                parts.append(Part(chunk, chunk.tokens[start:end], position + start))
        position += chunk.n_positions
    needed = {Pooling.LAST: {len(parts) - 1}, Pooling.CLS: {0}}.get(pooling, set(range(len(parts))))
    return [Part(p.chunk, p.tokens, p.position, number in needed) for number, p in enumerate(parts)]
