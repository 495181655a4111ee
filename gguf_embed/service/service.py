"""The use cases over all served models: embed, rerank, tokenize, load, unload, pull, delete, list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from functools import partial

from gguf_embed.errors import (
    GivesScoresOnly,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotFound,
    NotSupported,
    PermissionDenied,
    Unavailable,
    WayOut,
)
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.entry import DEFAULT_LOAD, LoadRequest
from gguf_embed.model_pool.loading import LoadedModel
from gguf_embed.model_pool.pool import ModelPool
from gguf_embed.model_pool.registry import ModelRegistry
from gguf_embed.model_pool.served_models import ModelSpec
from gguf_embed.model_store.store import ModelStore
from gguf_embed.output_cache.cache import OutputCache
from gguf_embed.service.classify import classify
from gguf_embed.service.compare import rank_by_cosine, rank_by_maxsim
from gguf_embed.service.embed_images import plan_images
from gguf_embed.service.embed_plan import plan_embed
from gguf_embed.service.embed_result import assemble, pieces_of
from gguf_embed.service.head_outputs import NoHead, check_sparse_only
from gguf_embed.service.listwise import rank_together
from gguf_embed.service.other_models import embedding_models, models_with, no_rank_head, served_names
from gguf_embed.service.pipeline import Pipeline, ServedModel, decoding, tokenizing
from gguf_embed.service.pulls import Pulls
from gguf_embed.service.rerank import plan_rerank, rank_scores
from gguf_embed.service.state import service_state
from gguf_embed.service.tokenize import token_ids, tokens_of_texts
from gguf_embed.types import (
    LISTWISE,
    NO_LOAD_OPTIONS,
    ClassifyRequest,
    ClassifyResult,
    EmbedRequest,
    EmbedResult,
    Input,
    LoadOptions,
    ModelCheck,
    ModelStatus,
    PullProgress,
    RerankRequest,
    RerankResult,
    ServiceState,
    TextTokens,
)


class EmbedService:
    """Answers requests with the model they name. Belongs to one event loop."""

    def __init__(
        self,
        registry: ModelRegistry,
        pool: ModelPool,
        store: ModelStore,
        metrics: Metrics,
        cache: OutputCache | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`report` is told when the models that are served change."""
        self._registry = registry
        self._pool = pool
        self._store = store
        self._pipeline = Pipeline(metrics, cache)
        self._pulls = Pulls(store.pull)
        self._report = report
        registry.on_change = self._on_change

    def _on_change(self, keys: Collection[str], changes: Sequence[str]) -> None:
        self._pool.retain(keys)
        for line in changes:
            self._report(line)

    async def embed(self, request: EmbedRequest, check: ModelCheck | None = None) -> EmbedResult:
        """Embed all inputs. Raises one `EmbedError`, for the first input that fails.

        `check` is called with the facts about the model before it is loaded, and may raise an `EmbedError`.
        """
        spec = self._find(request.model, strict=request.strict_name)
        info = self._pool.info(spec)
        if not info.n_embd:
            check_sparse_only(info, request.output or info.output)
        if check is not None:
            check(info)
        load = DEFAULT_LOAD
        if request.keep_alive_s is not None or request.load is not NO_LOAD_OPTIONS:
            load = LoadRequest(request.keep_alive_s, request.load)
        async with self._pool.lease(spec, load) as lease:
            return await self._embed(ServedModel(lease.model, self._pool.info(lease.spec)), request, lease.load_s)

    async def _embed(self, served: ServedModel, request: EmbedRequest, load_s: float = 0.0) -> EmbedResult:
        try:
            plan = plan_images(served, request) if request.images else plan_embed(served, request)
        except GivesScoresOnly as error:
            raise NotSupported(error.message + embedding_models(self._registry), error.ways_out) from error
        except NoHead as error:
            raise NotSupported(error.message + models_with(self._registry, error.output_kind)) from error
        computed = await self._pipeline.run(plan, load_s)
        if plan.is_heavy:
            return await served.model.threads.long.run(lambda: assemble(plan, computed), cost=plan.n_characters)
        return assemble(plan, computed)

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """Score all documents or raise one `EmbedError`. A model that gives no scores is refused without loading it."""
        spec = self._find(request.model)
        if request.method == "rank" and not spec.info.reranks:
            raise no_rank_head(self._registry, spec.info.name)
        async with self._pool.lease(spec) as lease:
            served = ServedModel(lease.model, self._pool.info(lease.spec))
            if request.method == "rank" and spec.info.n_scores:
                plan = plan_rerank(served, request)
                return rank_scores(plan, await self._pipeline.run(plan, lease.load_s))
            if request.method == "rank" and LISTWISE in spec.info.head_outputs:
                return await rank_together(request, served, lambda plan: self._pipeline.run(plan, lease.load_s))
            rank = rank_by_maxsim if request.method == "rank" else rank_by_cosine
            return await rank(request, lambda part: self._embed(served, part, lease.load_s), served)

    async def classify(self, request: ClassifyRequest) -> ClassifyResult:
        """The labels of all texts, or one `EmbedError`. A model without a rank head is refused without loading it."""
        spec = self._find(request.model)
        if not spec.info.n_scores:
            raise NotSupported(f"model {spec.info.name!r} has no classification head, so it has no labels")
        async with self._pool.lease(spec) as lease:
            served = ServedModel(lease.model, self._pool.info(lease.spec))
            return await classify(
                request,
                served,
                lambda part: self._embed(served, part, lease.load_s),
                lambda plan: self._pipeline.run(plan, lease.load_s),
            )

    def _find(self, name: str | None, *, strict: bool = False) -> ModelSpec:
        """The model that answers to a name. `strict`: only a known name counts, also one of a pulled model.

        Raises `ModelNotFound`, `ModelLoadFailed`, or `InvalidRequest` if a name is required and missing.
        """
        found = self._registry.find(name, pulled=strict)
        if found is not None:
            return found
        if name is None:
            raise InvalidRequest(
                f"the request must name a model: this server has {served_names(self._registry)}", "model"
            )
        why = self._registry.why_refused(name, pulled=strict)
        if why is not None:
            raise ModelLoadFailed(f"model {name!r} cannot be loaded: {why}")
        if not strict and self._registry.answers_name(name):
            return self._registry.specs()[0]
        if self._registry.is_reading():
            raise Unavailable(f"the folder of models is being read, and {name!r} is not known yet", [WayOut.RETRY])
        raise ModelNotFound(
            f"model {name!r} is not served here: this server has {served_names(self._registry, pulled=strict)}"
        )

    async def tokenize(self, content: Input, *, model: str | None, add_special: bool, parse_special: bool) -> list[int]:
        """The ids that the model would run. Without `parse_special`, "[SEP]" in a text is ordinary text."""
        async with self._pool.lease(self._find(model)) as lease:
            loaded = lease.model
            n_characters = sum(len(part) for part in content if isinstance(part, str))
            return await tokenizing(
                loaded, n_characters, lambda: token_ids(loaded, content, add_special, parse_special)
            )

    async def text_tokens(self, texts: Sequence[str], *, model: str | None, add_special: bool) -> list[TextTokens]:
        """Each text's tokens with pieces and offsets. Raises `InvalidRequest` if the texts exceed the offset budget."""
        async with self._pool.lease(self._find(model)) as lease:
            loaded = lease.model
            work = partial(tokens_of_texts, loaded, texts, add_special)
            return await tokenizing(loaded, sum(map(len, texts)), work, finds_offsets=True)

    async def token_pieces(self, tokens: Sequence[int], *, model: str | None) -> list[bytes]:
        async with self._pool.lease(self._find(model)) as lease:
            loaded = lease.model
            return await decoding(loaded, tokens, partial(pieces_of, loaded.codec, tokens))

    async def detokenize(self, tokens: Sequence[int], *, model: str | None) -> str:
        async with self._pool.lease(self._find(model)) as lease:
            loaded = lease.model
            work = partial(loaded.codec.detokenize, tokens)
            return await decoding(loaded, tokens, work) if tokens else ""

    def models(self, *, pulled: bool = False) -> Sequence[ModelStatus]:
        return [self._pool.status(spec) for spec in self._registry.specs(pulled=pulled)]

    def resolve(self, name: str | None, *, strict: bool = False) -> ModelStatus:
        return self._pool.status(self._find(name, strict=strict))

    async def load_first(self) -> None:
        """Load the model for requests that name none, if there is one, so that the first request need not wait."""
        first = self._registry.find(None)
        if first is not None:
            async with self._pool.lease(first):
                pass

    async def load(
        self, name: str, *, keep_alive_s: float | None = None, options: LoadOptions = NO_LOAD_OPTIONS
    ) -> float:
        async with self._pool.lease(self._find(name, strict=True), LoadRequest(keep_alive_s, options)) as lease:
            return lease.load_s

    async def unload(self, name: str) -> None:
        self._pool.unload(self._find(name, strict=True).key)

    def pull(self, name: str) -> AsyncIterator[PullProgress]:
        return self._pulls.watch(name)

    async def copy(self, source: str, destination: str) -> None:
        spec = self._find(source, strict=True)
        await asyncio.to_thread(self._store.add, destination, spec.path, spec.digest)

    async def delete(self, name: str) -> None:
        spec = self._find(name, strict=True)
        if spec.origin != "pulled":
            raise PermissionDenied(
                f"model {name!r} was not pulled, so it cannot be deleted here: remove its file, or restart without it"
            )
        self._pool.unload(spec.key)
        await asyncio.to_thread(self._store.remove, spec.info.name)

    def loaded(self) -> Sequence[LoadedModel]:
        """All models that are loaded now."""
        return self._pool.loaded()

    def state(self) -> ServiceState:
        """The state of all loaded models together."""
        return service_state(self._pool.loaded())

    def shed(self, within_s: float) -> None:
        """Before a shutdown: refuse what cannot be computed within this time."""
        for model in self._pool.loaded():
            model.shed(within_s)

    async def close(self) -> None:
        """Finish accepted requests, then free everything."""
        self._pulls.close()
        await self._pool.close()
        self._pipeline.close()
