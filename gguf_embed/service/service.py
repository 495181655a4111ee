"""The use cases over all served models: embed, tokenize, load and unload, pull and delete, say what is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from gguf_embed.errors import InvalidRequest, ModelNotFound, NotSupported, PermissionDenied, WayOut
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.entry import DEFAULT_LOAD, LoadRequest
from gguf_embed.model_pool.loading import LoadedModel
from gguf_embed.model_pool.pool import ModelPool
from gguf_embed.model_pool.registry import ModelRegistry, ModelSpec
from gguf_embed.model_store.store import ModelStore
from gguf_embed.service.embed_images import plan_images
from gguf_embed.service.embed_plan import GivesScoresOnly, plan_embed
from gguf_embed.service.embed_result import assemble, pieces_of
from gguf_embed.service.pipeline import Pipeline, ServedModel
from gguf_embed.service.pulls import Pulls
from gguf_embed.service.rerank import plan_rerank, rank_by_cosine, rank_scores
from gguf_embed.service.tokenize import token_ids, tokens_of_texts
from gguf_embed.types import (
    NO_LOAD_OPTIONS,
    EmbedRequest,
    EmbedResult,
    Input,
    LoadOptions,
    ModelInfo,
    ModelStatus,
    Pooling,
    PullProgress,
    RerankRequest,
    RerankResult,
    ServiceState,
    TextTokens,
)

ModelCheck = Callable[[ModelInfo], None]

MAX_NAMES_SHOWN = 20
MAX_RERANKERS_SHOWN = 3


class EmbedService:
    """Answers requests with whichever model they name. Belongs to one event loop."""

    def __init__(self, registry: ModelRegistry, pool: ModelPool, store: ModelStore, metrics: Metrics) -> None:
        self._registry = registry
        self._pool = pool
        self._store = store
        self._pipeline = Pipeline(metrics)
        self._pulls = Pulls(store.pull)
        registry.on_change = pool.retain

    async def embed(self, request: EmbedRequest, check: ModelCheck | None = None) -> EmbedResult:
        """Answer the whole request. Raises one `EmbedError`, naming the first input that fails.

        `check` is given what is known of the model that will answer, before it is loaded; what it raises is the answer.
        """
        spec = self._find(request.model, strict=request.strict_name)
        if check is not None:
            check(self._pool.info(spec))
        load = DEFAULT_LOAD
        if request.keep_alive_s is not None or request.load is not NO_LOAD_OPTIONS:
            load = LoadRequest(request.keep_alive_s, request.load)
        async with self._pool.lease(spec, load) as lease:
            return await self._embed(ServedModel(lease.model, self._pool.info(lease.spec)), request, lease.load_s)

    async def _embed(self, served: ServedModel, request: EmbedRequest, load_s: float = 0.0) -> EmbedResult:
        try:
            plan = plan_images(served, request) if request.images else plan_embed(served, request)
        except GivesScoresOnly as error:
            raise NotSupported(error.message + self._who_embeds(), error.ways_out) from error
        computed = await self._pipeline.run(plan, load_s)
        if plan.is_heavy:
            return await self._pipeline.run_on_thread(lambda: assemble(plan, computed))
        return assemble(plan, computed)

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """Score all documents or raise one `EmbedError`. A model without a rank head is not loaded for its refusal."""
        spec = self._find(request.model)
        if request.method == "rank" and not spec.info.n_scores:
            raise self._no_rank_head(spec.info.name)
        async with self._pool.lease(spec) as lease:
            served = ServedModel(lease.model, self._pool.info(lease.spec))
            if request.method == "embedding":
                return await rank_by_cosine(request, lambda wanted: self._embed(served, wanted, lease.load_s), served)
            plan = plan_rerank(served, request)
            return rank_scores(plan, await self._pipeline.run(plan, lease.load_s))

    def _no_rank_head(self, name: str) -> NotSupported:
        served = [spec.info.name for spec in self._registry.specs() if spec.info.n_scores]
        known = self._registry.known_rerankers()[:MAX_RERANKERS_SHOWN]
        facts = [f"models here that can: {', '.join(map(repr, served[:MAX_NAMES_SHOWN]))}"] if served else []
        if known and not served:
            facts.append(f"models that can be pulled: {', '.join(known)}")
        message = "; ".join([f"model {name!r} has no rank head, so it cannot rerank", *facts])
        return NotSupported(message, [WayOut.COMPARE_VECTORS])

    def _who_embeds(self) -> str:
        served = [spec.info.name for spec in self._registry.specs() if spec.info.pooling is not Pooling.RANK]
        shown = ", ".join(map(repr, served[:MAX_NAMES_SHOWN]))
        return f"; models here that give vectors: {shown}" if served else ""

    def _find(self, name: str | None, *, strict: bool = False) -> ModelSpec:
        """Raises `ModelNotFound`, or `InvalidRequest` where a name is needed and none is given."""
        found = self._registry.find(name)
        if found is not None:
            return found
        if name is None:
            raise InvalidRequest(f"a model must be named: this server has {self._names()}", "model")
        if not strict and self._registry.answers_any_name():
            return self._registry.specs()[0]
        raise ModelNotFound(f"model {name!r} is not served here: this server has {self._names()}")

    def _names(self) -> str:
        names = [spec.info.name for spec in self._registry.specs()]
        more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
        return (", ".join(map(repr, names[:MAX_NAMES_SHOWN])) + more) or "none: pull one, or put a GGUF into the folder"

    async def tokenize(self, content: Input, *, model: str | None, add_special: bool, parse_special: bool) -> list[int]:
        """The ids that the model would run. Without `parse_special`, "[SEP]" in a text is ordinary characters."""
        async with self._pool.lease(self._find(model)) as lease:
            held = lease.model
            return await self._pipeline.run_on_thread(lambda: token_ids(held, content, add_special, parse_special))

    async def text_tokens(self, texts: Sequence[str], *, model: str | None, add_special: bool) -> list[TextTokens]:
        """Each text's tokens with their pieces and offsets. Raises `InvalidRequest` for more text than is aligned."""
        async with self._pool.lease(self._find(model)) as lease:
            held = lease.model
            return await self._pipeline.find_offsets(texts, lambda: tokens_of_texts(held, texts, add_special))

    async def token_pieces(self, tokens: Sequence[int], *, model: str | None) -> list[bytes]:
        async with self._pool.lease(self._find(model)) as lease:
            codec = lease.model.codec
            return await self._pipeline.decode(tokens, lambda: pieces_of(codec, tokens))

    async def detokenize(self, tokens: Sequence[int], *, model: str | None) -> str:
        async with self._pool.lease(self._find(model)) as lease:
            codec = lease.model.codec
            return await self._pipeline.decode(tokens, lambda: codec.detokenize(tokens)) if tokens else ""

    def models(self) -> Sequence[ModelStatus]:
        return [self._pool.status(spec) for spec in self._registry.specs()]

    def resolve(self, name: str | None, *, strict: bool = False) -> ModelStatus:
        return self._pool.status(self._find(name, strict=strict))

    async def load_first(self) -> None:
        """Load the model that answers unnamed requests, if there is one, so that the first request need not wait."""
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
                f"model {name!r} was not pulled, so it is not deleted: take its file away, or start without it"
            )
        self._pool.unload(spec.key)
        await asyncio.to_thread(self._store.remove, spec.info.name)

    def loaded(self) -> Sequence[LoadedModel]:
        """All models that answer now."""
        return self._pool.loaded()

    def state(self) -> ServiceState:
        """All loaded models together; failed when a worker of any has failed."""
        queues = [(model.scheduler.state(), model.scheduler.plan) for model in self._pool.loaded()]
        failure = next((queue.failure for queue, _ in queues if queue.failure), "")
        return ServiceState(
            status="failed" if failure else "ok",
            detail=f"a worker has failed ({failure}): restart the server" if failure else "",
            queued_texts=sum(queue.n_texts for queue, _ in queues),
            queued_tokens=sum(queue.n_tokens for queue, _ in queues),
            running_texts=sum(queue.n_running_texts for queue, _ in queues),
            n_workers=sum(plan.n_workers for _, plan in queues),
            n_threads=max((plan.n_threads for _, plan in queues), default=0),
        )

    async def close(self) -> None:
        """Answer what was accepted, then free everything."""
        self._pulls.close()
        await self._pool.close()
        self._pipeline.close()
