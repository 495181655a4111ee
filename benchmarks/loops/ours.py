"""gguf-embed in process: the loaded model and its scheduler, without HTTP and tokenization."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.loops.batches import Matrix, Tokens
from gguf_embed.cli.configure import model_config
from gguf_embed.cli.options import ServeFlags
from gguf_embed.cli.serve import serve
from gguf_embed.cli.start_lines import fact_lines
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.loading import LoadedModel, load_model
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.scheduler.scheduler import Submission
from gguf_embed.types import OutputSpec
from gguf_embed.vectors import Rows


class OurLoop:
    """All texts in one submission, with the settings that these flags of `gguf-embed serve` give."""

    def __init__(self, model: Path, n_threads: int, serve_flags: str, cache: Path) -> None:
        context = serve.make_context("serve", ["--threads", str(n_threads), *shlex.split(serve_flags)])
        config = model_config(ServeFlags(**context.params), False, _say)
        self._loaded = load_model(LocatedModel(model, "model"), config, cache, Metrics(), _say)
        self.notes = fact_lines(self._loaded)

    @property
    def variants(self) -> Sequence[str]:
        return ["scheduler"]

    def run(self, texts: Tokens, variant: str) -> Matrix:
        return embed_tokens(self._loaded, texts)


def embed_tokens(loaded: LoadedModel, texts: Tokens) -> Matrix:
    """Unit vectors with the model's pooling, from one submission."""
    answers: list[Submission] = []

    async def submit() -> None:
        """Returns nothing, because `asyncio.run` would format the result, which took 20 s for 10,000 rows."""
        answers.append(await loaded.scheduler.submit(texts, OutputSpec.of(loaded.info.pooling)))

    asyncio.run(submit())
    rows = [output for output in answers[0].outputs if isinstance(output, Rows)]
    return Rows.join(rows).finished(2, None).matrix


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
