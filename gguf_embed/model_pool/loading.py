"""Loads a model file: checks, weights, tokenizer, warm-up, workers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from gguf_embed.config import ModelConfig
from gguf_embed.engines.base import LoadedEngine, LoadSpec, TextCodec
from gguf_embed.engines.choice import choose_driver
from gguf_embed.engines.select import open_codec
from gguf_embed.errors import ConfigError, ModelFileError, WayOut
from gguf_embed.gguf_file.bounds import check_bounds
from gguf_embed.gguf_file.facts import check_can_embed, has_rank_head, pooling_type
from gguf_embed.gguf_file.header import GgufHeader, read_header
from gguf_embed.model_pool.model_info import describe_header, describe_loaded
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.preprocessing.pairs import PairForm, pair_form
from gguf_embed.preprocessing.tokens import Tokenizer, TokenLimits, choose_tokenizer, closing_ids
from gguf_embed.scheduler.image_worker import ImageWorker
from gguf_embed.scheduler.scheduler import BatchObserver, Scheduler
from gguf_embed.types import ModelInfo, OutputSpec, Pooling


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready for requests. `close` blocks until accepted work is done."""

    config: ModelConfig
    info: ModelInfo
    loaded: LoadedEngine
    tokenizer: Tokenizer
    limits: TokenLimits  # of one text
    scheduler: Scheduler
    image_worker: ImageWorker | None = None  # None: no vision tower
    in_use_forever: threading.Event = field(default_factory=threading.Event)  # a thread is lost in its tokenizer

    @property
    def codec(self) -> TextCodec:
        return self.loaded.codec

    @property
    def pair_form(self) -> PairForm:
        return pair_form(self.info.rerank_template, self.loaded.engine.info)

    def close(self) -> None:
        if self.image_worker is not None:
            self.image_worker.close()
        self.scheduler.close()
        if not self.in_use_forever.is_set():  # else freeing it would crash the process
            self.loaded.engine.close()


def load_model(
    located: LocatedModel,
    config: ModelConfig,
    cache_dir: Path,
    observer: BatchObserver,
    report: Callable[[str], None],
    on_stage: Callable[[str], None] = lambda stage: None,
) -> LoadedModel:
    """Load, warm up and start the workers. Takes seconds for large files. `report` gets lines for the operator.

    `on_stage` gets what begins now, as in `LoadSpec`. Raises `ModelFileError` or `ConfigError` with one clear line, and
    then leaves nothing open.
    """
    header = read_header(located.path)
    check_can_embed(header)
    check_bounds(header)
    pooling = choose_pooling(header, config.pooling, report)
    spec = LoadSpec(header, config, OutputSpec.of(pooling), cache_dir, report, open_codec, on_stage)
    driver = choose_driver(spec)
    on_stage(f"loading it in the engine {driver.name}")
    with ExitStack() as stack:
        loaded = driver.load(spec)
        stack.callback(loaded.engine.close)
        tokenizer = choose_tokenizer(loaded.codec, loaded.exact, config.tokenizer)
        name, *aliases = (*config.aliases, located.name)
        described = replace(describe_header(header, config), name=name, aliases=tuple(aliases), pooling=pooling)
        info = describe_loaded(described, loaded, config, tokenizer.name)
        _report_limit(info, config, report)
        image_worker = _open_image_worker(loaded, config, header)
        if image_worker is not None:
            stack.callback(image_worker.close)
        on_stage(f"computing in the engine {driver.name}")
        plan = driver.plan(loaded, spec, info.max_input_tokens)
        info = replace(info, engine=driver.name, kernels=plan.kernels)
        scheduler = Scheduler(loaded.engine, plan, config.max_queued_tokens, observer)
        scheduler.start()
        stack.pop_all()
    vocabulary = loaded.codec.vocabulary()
    limits = TokenLimits(len(vocabulary.entries), info.max_input_tokens, closing_ids(vocabulary))
    return LoadedModel(config, info, loaded, tokenizer, limits, scheduler, image_worker)


def choose_pooling(header: GgufHeader, configured: Pooling | None, report: Callable[[str], None]) -> Pooling:
    """The configured pooling, else the file's, else none like llama.cpp, which is reported because it is rarely meant.

    Raises `ModelFileError` for rank without a rank head, for which llama.cpp would return noise.
    """
    pooling = configured or pooling_type(header)
    if pooling is Pooling.RANK and not has_rank_head(header):
        raise ModelFileError(f"{header.path} has no rank head, so pooling rank cannot work: use a reranker's GGUF")
    if pooling is None:
        report(
            "the file declares no pooling, so every token gets its own vector (pooling none): "
            "use --pooling mean, cls or last for one vector per text"
        )
    return pooling or Pooling.NONE


def _open_image_worker(loaded: LoadedEngine, config: ModelConfig, header: GgufHeader) -> ImageWorker | None:
    """Load the vision tower and start its thread; None if none is configured. Raises `ModelFileError`."""
    if config.mmproj is None:
        return None
    if not config.mmproj.exists():
        raise ModelFileError(f"vision tower {config.mmproj}: no such file; check the path")
    if loaded.open_images is None:
        raise ModelFileError(
            f"{header.path.name} runs in an engine that reads text only: a vision tower needs a causal decoder"
        )
    return ImageWorker(loaded.open_images())


def _report_limit(info: ModelInfo, config: ModelConfig, report: Callable[[str], None]) -> None:
    if config.n_ctx > info.n_ctx_train:
        report(
            f"-c {config.n_ctx} is more than this model was trained for: "
            f"the limit is {info.max_input_tokens} tokens per text"
        )
    if info.max_input_tokens < 4:
        raise ConfigError(
            f"a context of {config.n_ctx} tokens leaves no room for a text; the model's own has {info.n_ctx_train}",
            [WayOut.LARGER_CONTEXT],
        )
