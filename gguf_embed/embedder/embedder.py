"""`Embedder`: a model in this process."""

from __future__ import annotations

import functools
import logging
import math
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from gguf_embed.config import PoolConfig, PoolLimits
from gguf_embed.embedder.facts import Info, SparseVector, Vector
from gguf_embed.embedder.loop_thread import LoopThread
from gguf_embed.embedder.methods import EmbedOptions, TextModel
from gguf_embed.embedder.model_source import (
    GpuLayers,
    Precision,
    check_pooling,
    compute_of,
    config_of,
    file_digest,
    source_of,
)
from gguf_embed.embedder.prompts import prefix_of, prompt_choice
from gguf_embed.embedder.slices import in_slices
from gguf_embed.embedder.token_offsets import own_token_offsets
from gguf_embed.embedder.words import worded
from gguf_embed.errors import EmbedError, GivesScoresOnly, NoDenseVector, NotSupported, WayOut
from gguf_embed.metrics import Metrics
from gguf_embed.model_store.default_model import cache_dir
from gguf_embed.preprocessing.tokenizers import special_tokens_of
from gguf_embed.service.open import ServiceOptions, open_service
from gguf_embed.service.service import EmbedService
from gguf_embed.types import (
    DENSE,
    MULTIVECTOR,
    SPARSE,
    TOKENS,
    EmbedRequest,
    EmbedResult,
    FloatMatrix,
    ModelInfo,
    Muvera,
    Output,
    OutputSpec,
    RerankRequest,
    Span,
)
from gguf_embed.vectors import Rows
from gguf_embed.vectors.sparse import SparseRows

SLICE_TEXTS = 1024
SLICES_AT_ONCE = 2

_log = logging.getLogger("gguf_embed.embedder")


class Embedder(TextModel):
    """A GGUF model in this process, loaded when it is created. Close it, or use it in a `with` block.

    See `TextModel` for the methods. It owns one thread with an event loop, and the engine's threads; none of them
    outlives `close`. It cannot be used in a forked process: create one there.
    """

    def __init__(  # noqa: PLR0913  # one for each flag of `serve`
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        pooling: str | None = None,
        n_ctx: int = 0,
        normalize: bool = True,
        prompts: Mapping[str, str] | None = None,
        threads: int | None = None,
        engine: str = "auto",
        precision: Precision = "auto",
        n_gpu_layers: GpuLayers = "auto",
        cache: str | os.PathLike[str] | None = None,
        offline: bool = False,
    ) -> None:
        """`model`: a GGUF file, a name from the catalog ("all-minilm"), "org/repo" or "org/repo:QUANT" on the hub, or
        None for all-MiniLM-L6-v2. What is not on this machine is downloaded, unless `offline`.

        `pooling`: "mean", "cls", "last", or "rank" for a reranker; None: the file's. `n_ctx`: the longest text in
        tokens; 0: what the model was trained for. `normalize`: vectors of length 1. `prompts`: texts that `prompt=`
        can name, in place of the model's own. `threads`: how many processors to use; None: all that it may. `engine`,
        `precision`, `n_gpu_layers`: as the flags of `serve`. `cache`: the folder for converted models.

        Raises `ModelFileError`, `ModelLoadFailed`, `ConfigError` or `NotSupported`.
        """
        compute = compute_of(threads, engine, precision, n_gpu_layers)
        config = config_of(pooling, n_ctx, normalize=normalize, compute=compute)
        options = ServiceOptions(
            cache_dir(os.environ) if cache is None else Path(cache),
            [(source_of(model, offline=offline), config)],
            config,
            PoolConfig(PoolLimits(max_models=0), math.inf),
            dict(prompts or {}),
            offline=offline,
        )
        self._metrics = Metrics()
        with worded():
            self._service = open_service(options, self._metrics, _log.info)
            check_pooling(self._service.resolve(None).info)
        self._loop = LoopThread("Embedder", self._service.close)
        self._finalizer = weakref.finalize(self, self._loop.begin_close)
        self._finalizer.atexit = False  # `LoopThread` itself does it, and waits
        try:
            with worded():
                self._model = self._loop.run(functools.partial(_load, self._service))
                self._tokenizer = self._service.loaded()[0].tokenizer
                self._special = special_tokens_of(self._tokenizer)
        except EmbedError:
            self._loop.close()
            raise
        except BaseException:
            self._loop.begin_close()
            raise

    def __repr__(self) -> str:
        return f"<Embedder {self._model.name!r}, {self._model.n_embd} dimensions, pooling {self._model.pooling}>"

    @property
    def details(self) -> ModelInfo:
        """Everything that is known about the model."""
        return self._model

    def prompt_text(self, prompt: str | None) -> str:
        """What `prompt=` puts before each text; "" for nothing. Raises `InvalidRequest` for an unknown name."""
        with worded():
            return prefix_of(prompt, {}, self._model.prompts)

    def token_offsets(self, text: str) -> list[Span | None]:
        """The characters (start, end) of each of the text's own tokens, in order; None: not in the text, or unknown.

        On the calling thread. Long texts are read in parts that end at white space.
        """
        with self._loop.using():
            return own_token_offsets(text, self._tokenizer, self._special)

    def n_computed(self) -> tuple[int, int]:
        """How many texts and tokens the engine has computed so far."""
        return self._metrics.n_computed()

    def embed_or_skip(
        self, texts: Sequence[str], options: EmbedOptions, output: OutputSpec | None = None
    ) -> EmbedResult:
        """Texts that fail are in the result's `failures`, and have no row. All texts are one request.

        `output`: None: one dense vector per text.
        """
        with worded():
            return self._loop.run(lambda: self._run(texts, options, output, on_error="skip"))

    async def _run(
        self,
        texts: Sequence[str],
        options: EmbedOptions,
        output: OutputSpec | None = None,
        on_error: Literal["fail", "skip"] = "fail",
    ) -> EmbedResult:
        if output is None:
            self._check_can_embed()
        request = EmbedRequest(
            tuple(texts),
            output=output,
            embd_normalize=None if options.normalize is None else (2 if options.normalize else -1),
            dimensions=options.dimensions,
            truncate=options.truncate,
            prompt=prompt_choice(options.prompt, self._model.prompts),
            on_error=on_error,
            muvera=options.muvera,
        )
        return await self._service.embed(request)

    async def _embed(self, texts: Sequence[str], options: EmbedOptions) -> FloatMatrix:
        if not texts:
            self._check_can_embed()
            return np.empty((0, options.dimensions or self._model.n_embd), np.float32)
        found = await in_slices(texts, SLICE_TEXTS, SLICES_AT_ONCE, lambda part: self._run(part, options))
        return _matrix(found[0]) if len(found) == 1 else np.concatenate([_matrix(result) for result in found])

    async def _embed_multivector(self, texts: Sequence[str], options: EmbedOptions) -> list[FloatMatrix]:
        outputs = await self._outputs(texts, options, OutputSpec(MULTIVECTOR))
        return [output.part(0).matrix for output in outputs if isinstance(output, Rows)]

    async def _embed_muvera(self, texts: Sequence[str], options: EmbedOptions, settings: Muvera) -> FloatMatrix:
        outputs = await self._outputs(texts, replace(options, muvera=settings), OutputSpec(MULTIVECTOR))
        rows = [output.matrix for output in outputs if isinstance(output, Rows)]
        return np.concatenate(rows) if rows else np.empty((0, settings.n_dims), np.float32)

    async def _embed_sparse(self, texts: Sequence[str], options: EmbedOptions) -> list[SparseVector]:
        outputs = await self._outputs(texts, options, OutputSpec(SPARSE))
        return [SparseVector(*output.text(0)) for output in outputs if isinstance(output, SparseRows)]

    async def _outputs(self, texts: Sequence[str], options: EmbedOptions, spec: OutputSpec) -> list[Output]:
        """The output for each text."""
        if not texts:
            return []
        found = await in_slices(texts, SLICE_TEXTS, SLICES_AT_ONCE, lambda part: self._run(part, options, spec))
        return [result.output.part(index) for result in found for index in range(len(result.output))]

    def _check_can_embed(self) -> None:
        name = self._model.name
        if self._model.is_sparse_only:
            raise NoDenseVector(f"model {name!r} gives sparse vectors and no others", [WayOut.SPARSE_VECTORS])
        if self._model.output.kind == TOKENS:
            kinds = " and ".join(self._model.head_outputs)
            raise NoDenseVector(
                f"model {name!r} gives {kinds} vectors, and not one dense vector per text",
                [WayOut.HEAD_VECTORS, WayOut.POOL],
            )
        if self._model.output.kind != DENSE:
            raise GivesScoresOnly(
                f"model {name!r} is a reranker, which gives scores and no vectors", [WayOut.RERANK, WayOut.POOL]
            )

    async def _rerank(self, query: str, documents: Sequence[str]) -> Vector:
        if not self._model.reranks:
            raise NotSupported(
                f"model {self._model.name!r} has no rank head, so it cannot rerank", [WayOut.COMPARE_VECTORS]
            )
        if not documents:
            return np.empty(0, np.float32)
        return (await self._service.rerank(RerankRequest(query, tuple(documents)))).scores

    async def _tokenize(self, text: str) -> list[int]:
        return await self._service.tokenize(text, model=None, add_special=True, parse_special=True)

    async def _info(self) -> Info:
        model = self._model
        return Info(
            name=model.name,
            dimensions=model.n_embd,
            max_tokens=model.max_input_tokens,
            pooling=model.pooling.value,
            prompts=dict(model.prompts),
            find_fingerprint=self._fingerprint,
        )

    @functools.cached_property
    def _digest(self) -> str:
        return file_digest(self._model.path) if self._model.path is not None else ""

    def _fingerprint(self) -> str:
        return self._digest


async def _load(service: EmbedService) -> ModelInfo:
    await service.load_first()
    return service.resolve(None).info


def _matrix(result: EmbedResult) -> FloatMatrix:
    assert isinstance(result.output, Rows), "dense output was checked"
    return result.output.matrix
