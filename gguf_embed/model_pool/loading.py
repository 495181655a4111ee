"""Loads a model file: checks, weights, tokenizer, warm-up, workers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from gguf_embed.config import ModelConfig
from gguf_embed.engines.base import LoadedEngine, LoadSpec, TextCodec
from gguf_embed.engines.choice import load_chosen
from gguf_embed.engines.freed_memory import give_back_memory
from gguf_embed.engines.heads.engine import with_heads
from gguf_embed.engines.select import open_codec
from gguf_embed.errors import ConfigError, ModelFileError, WayOut
from gguf_embed.gguf_file.bounds import check_bounds
from gguf_embed.gguf_file.facts import check_can_embed, has_rank_head, pooling_type
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.token_heads import TokenHeads, has_token_heads, read_token_heads
from gguf_embed.gguf_file.towers import read_model
from gguf_embed.model_pool.model_info import default_output, describe_header, describe_loaded
from gguf_embed.model_pool.model_threads import TokenizingThreads
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.preprocessing.pairs import PairForm, pair_form
from gguf_embed.preprocessing.tokenizers import Tokenizer, choose_tokenizer
from gguf_embed.preprocessing.tokens import TokenLimits, closing_ids
from gguf_embed.scheduler.image_scheduler import ImageScheduler
from gguf_embed.scheduler.scheduler import BatchObserver, Scheduler
from gguf_embed.types import EngineProcessState, ModelInfo, Pooling


class LoadObserver(BatchObserver, Protocol):
    """Counts what happens to a loaded model, for metrics. Any thread."""

    def observe_engine_restart(self, model: str) -> None: ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready for requests. `close` blocks until accepted work is done."""

    config: ModelConfig
    info: ModelInfo
    loaded: LoadedEngine
    tokenizer: Tokenizer
    limits: TokenLimits  # of one text
    scheduler: Scheduler
    heads: TokenHeads | None = None  # on its token rows
    images: ImageScheduler | None = None  # None: no vision tower
    tokenizes_inline: bool = False  # a text of n characters takes little time, whatever it is, and no other process
    threads: TokenizingThreads = field(default_factory=TokenizingThreads)
    cache_key: str = ""  # for `output_cache/`: everything that its outputs depend on; "": none are kept

    @property
    def codec(self) -> TextCodec:
        return self.loaded.codec

    def process_state(self) -> EngineProcessState | None:
        """None: the engine runs in this process."""
        return None if self.loaded.process_state is None else self.loaded.process_state()

    @property
    def pair_form(self) -> PairForm:
        return pair_form(self.info.rerank_template, self.loaded.engine.info)

    def shed(self, within_s: float) -> None:
        """Refuse what cannot be computed within this time."""
        self.scheduler.shed(within_s)
        if self.images is not None:
            self.images.shed(within_s)

    def close(self) -> None:
        if self.images is not None:
            self.images.close()
        self.scheduler.close()
        if self.threads.close() or self.loaded.process_state is not None:
            self._free()
        else:  # freeing it now would crash the process
            threading.Thread(target=self._free_later, name="free_later", daemon=True).start()

    def _free(self) -> None:
        self.loaded.engine.close()
        give_back_memory()

    def _free_later(self) -> None:
        self.threads.join()
        self._free()


def load_model(
    located: LocatedModel,
    config: ModelConfig,
    cache_dir: Path,
    observer: LoadObserver,
    report: Callable[[str], None],
    on_stage: Callable[[str], None] = lambda stage: None,
) -> LoadedModel:
    """Load, warm up and start the workers. Takes seconds for large files. `report` gets lines for the operator.

    `on_stage` gets what begins now, as in `LoadSpec`. Raises `ModelFileError` or `ConfigError` with one clear line, and
    then leaves nothing open.
    """
    header = read_model(located.path)
    check_can_embed(header)
    check_bounds(header)
    pooling = choose_pooling(header, config.pooling, report)
    on_restart = partial(observer.observe_engine_restart, located.name)
    output = default_output(header, pooling)
    spec = LoadSpec(header, config, output, cache_dir, report, open_codec, on_stage, on_restart)
    driver, loaded = load_chosen(spec)
    with ExitStack() as stack:
        stack.callback(loaded.engine.close)
        tokenizer = choose_tokenizer(loaded.codec, loaded.exact, config.tokenizer)
        name, *aliases = (*config.aliases, located.name)
        described = replace(describe_header(header, config), name=name, aliases=tuple(aliases), pooling=pooling)
        info = describe_loaded(described, loaded, config, tokenizer.name)
        _report_limit(info, config, report)
        images = _schedule_images(loaded, config, header)
        if images is not None:
            stack.callback(images.close)
        on_stage(f"computing in the engine {driver.name}")
        plan = driver.plan(loaded, spec, info.max_input_tokens)
        heads = _heads_for(loaded, header, report)
        if heads is not None:
            loaded, plan = with_heads(loaded, plan, heads)
        info = replace(info, engine=driver.name, kernels=plan.kernels)
        scheduler = Scheduler(loaded.engine, plan, config.queue, observer)
        scheduler.start()
        stack.pop_all()
    vocabulary = loaded.codec.vocabulary()
    limits = TokenLimits(len(vocabulary.entries), info.max_input_tokens, closing_ids(vocabulary))
    is_elsewhere = loaded.process_state is not None and loaded.exact is not None
    tokenizes_inline = tokenizer.name == "exact" and not is_elsewhere
    return LoadedModel(config, info, loaded, tokenizer, limits, scheduler, heads, images, tokenizes_inline)


def _heads_for(loaded: LoadedEngine, header: GgufHeader, report: Callable[[str], None]) -> TokenHeads | None:
    """The file's heads, as far as the engine can feed them; None if there are none. Raises `ModelFileError`."""
    heads = read_token_heads(header)
    if heads is None or heads.late is None:
        return heads
    late, width = heads.late, loaded.engine.info.n_embd
    if late.n_inputs not in (None, width):
        raise ModelFileError(
            f"{header.path}: its ColBERT head reads rows of {late.n_inputs} numbers, and the model gives {width}; "
            "convert the model again"
        )
    if late.expansion_token is None:
        return heads
    if late.expansion_attended or loaded.engine.info.reads_unattended:
        return heads
    report(
        f"{header.path.name}: queries are not filled up with mask tokens as the original does it, because in this "
        "engine all tokens would attend to them"
    )
    return replace(heads, late=replace(late, expansion_token=None))


_OF_TOKENS = frozenset({Pooling.MEAN, Pooling.CLS, Pooling.LAST})
"""One vector per text, made of those of its tokens."""


def choose_pooling(header: GgufHeader, configured: Pooling | None, report: Callable[[str], None]) -> Pooling:
    """The configured pooling, else the file's, else none like llama.cpp, which is reported because it is rarely meant.

    Raises `ModelFileError` for rank without a rank head, for which llama.cpp would return noise.
    """
    own = pooling_type(header)
    pooling = configured or own
    if pooling is not own and {pooling, own} <= _OF_TOKENS:
        report(
            f"warning  {header.path.name} was trained with pooling {own}, so its vectors with pooling {pooling} are of "
            "little use: leave --pooling out"
        )
    if pooling is Pooling.RANK and not has_rank_head(header):
        raise ModelFileError(f"{header.path} has no rank head, so pooling rank cannot work: use a reranker's GGUF")
    if pooling is None and not has_token_heads(header):
        report(
            "the file declares no pooling, so every token gets its own vector (pooling none): "
            "use --pooling mean, cls or last for one vector per text"
        )
    return pooling or Pooling.NONE


def _schedule_images(loaded: LoadedEngine, config: ModelConfig, header: GgufHeader) -> ImageScheduler | None:
    """Load the vision tower and start its thread; None if there is none. Raises `ModelFileError`."""
    if config.mmproj is None and not loaded.images_alone:
        return None
    if config.mmproj is not None and not config.mmproj.exists():
        raise ModelFileError(f"vision tower {config.mmproj}: no such file; check the path")
    if loaded.open_images is not None:
        return ImageScheduler(loaded.open_images(), config.queue)
    if config.mmproj is None:
        return None
    raise ModelFileError(
        f"{header.path.name} runs in an engine that reads text only: a vision tower needs a causal decoder"
    )


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
