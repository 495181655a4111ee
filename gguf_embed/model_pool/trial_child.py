"""The child process that loads a file for the first time, tokenizes and computes: what ends it does not end the server.

It talks to its parent in lines that begin with `MARK`; everything else that it prints is a log.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gguf_embed.config import ModelConfig
from gguf_embed.engines.child_process import be_the_first_to_go
from gguf_embed.engines.reasons import leave_reasons_to_parent
from gguf_embed.engines.select import open_codec
from gguf_embed.errors import EmbedError, ModelFileError, WayOut
from gguf_embed.gguf_file import towers
from gguf_embed.gguf_file.bm25_format import ARCHITECTURE as BM25
from gguf_embed.gguf_file.bm25_format import WITHOUT_NETWORK
from gguf_embed.gguf_file.bounds import check_bounds, vocabulary_problem
from gguf_embed.gguf_file.facts import check_can_embed
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.unfinished import remove_unfinished
from gguf_embed.gguf_file.vocabulary import has_wordpiece
from gguf_embed.model_pool.loading import LoadedModel, load_model
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.preprocessing.tokens import truncate_tokens
from gguf_embed.types import ModelInfo, Output, OutputSpec, Pooling

MARK = "\x1egguf-embed "

TOKENIZING = "tokenizing"
"""Begins the name of each stage in which texts are tokenized."""

TEXTS = (
    "The cat sat on the mat.",
    "Größe: 7 % – naïve café, Ελλάδα",
    "今日は天気がいい 😀 ห้องน้ำ",
    "a" * 300,
    "\x00\x01\x7f\u200b <0x0A> [SEP] </s>\r\n\t",
)


@dataclass(frozen=True, slots=True)
class TrialJob:
    """What to try: a file, and how the server would load it."""

    path: Path
    name: str
    config: ModelConfig
    cache_dir: Path


class _NoObserver:
    def observe_batch(self, n_texts: int, n_tokens: int, budget_tokens: int, compute_s: float) -> None:
        """Nobody counts."""

    def observe_engine_restart(self, model: str) -> None:
        """The engine runs in this process."""


def main() -> None:
    """Reads a pickled `TrialJob` from stdin, which its parent keeps open: at its end the parent is gone, too."""
    job = pickle.load(sys.stdin.buffer)  # from the parent
    threading.Thread(target=_end_with_parent, daemon=True).start()
    be_the_first_to_go()
    leave_reasons_to_parent(lambda reason, line: say("report", line, reason))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("gguf_embed.llama").setLevel(logging.DEBUG)
    try:
        _try(job)
    except EmbedError as error:
        say("error", error.message, list(error.ways_out))
    except Exception as error:  # perhaps this machine's fault, so it is no verdict about the file
        traceback.print_exc()
        say("error", f"{job.path}: {type(error).__name__}: {error}", [])
    else:
        say("ok")
    os._exit(0)  # at once: nothing is worth freeing


def say(kind: str, *values: object) -> None:
    """Tell the parent, in one write, so that a log of another thread does not come between."""
    os.write(1, f"\n{MARK}{json.dumps([kind, *values])}\n".encode())


def _end_with_parent() -> None:
    while sys.stdin.buffer.read(1):
        pass
    remove_unfinished()
    os._exit(1)


def _try(job: TrialJob) -> None:
    header = towers.read_model(job.path)
    check_can_embed(header)
    check_bounds(header)
    if header.architecture not in WITHOUT_NETWORK:
        _try_vocabulary(header, job.config)
    model = load_model(
        LocatedModel(job.path, job.name),
        job.config,
        job.cache_dir,
        _NoObserver(),
        lambda line: say("report", line),
        lambda stage: say("stage", stage),
    )
    say("stage", f"{TOKENIZING} a text")
    tokens = [text for text in model.tokenizer.encode_batch(TEXTS) if text]
    say("stage", f"computing in the engine {model.info.engine}")
    check_outputs(job.path, _compute(model, tokens))


def _try_vocabulary(header: GgufHeader, config: ModelConfig) -> None:
    say("stage", "reading its vocabulary")
    problem = vocabulary_problem(header) if header.architecture != towers.TEXT else None
    if problem is not None:
        raise ModelFileError(f"{header.path}: {problem}", [WayOut.OTHER_FILE])
    if header.architecture == towers.TEXT or (has_wordpiece(header) and config.tokenizer != "llama"):
        return  # llama.cpp's tokenizer is not used
    opened = open_codec(header.path)
    for text in TEXTS:
        say("stage", f"{TOKENIZING} a text")
        opened.codec.tokenize(text, add_special=True, parse_special=True)
    opened.close()


def _compute(model: LoadedModel, texts: Sequence[Sequence[int]]) -> list[Output]:
    """The output for each text, computed alone, and of the first twice in one batch, if a context takes both."""
    plan = model.scheduler.plan
    longest = min(plan.contexts.max_tokens, model.limits.max_tokens)
    cut = [truncate_tokens(text, longest, model.limits.closing).tokens for text in texts]
    outputs: list[Output] = []
    own = () if model.info.architecture == BM25 else (OutputSpec.of(model.info.pooling or Pooling.NONE),)
    for output in (*own, *_outputs_of_heads(model.info)):
        for batch in (*([text] for text in cut), cut[:1] * 2):
            if batch and sum(map(len, batch)) <= plan.contexts.max_tokens:
                context = model.loaded.engine.open_context(plan.contexts.spec(output, sum(map(len, batch)), long=False))
                outputs.append(context.embed(batch, plan.n_threads))
                context.close()
    return outputs


def _outputs_of_heads(info: ModelInfo) -> list[OutputSpec]:
    return [OutputSpec(kind, is_query=is_query) for kind in info.head_outputs for is_query in (False, True)]


def check_outputs(path: Path, outputs: Sequence[Output]) -> None:
    """Raise `ModelFileError` if no text has an output that is one."""
    faults = [output.fault() for output in outputs]
    if faults and all(faults):
        raise ModelFileError(f"{path}: {faults[0]}, whatever the text: its weights are damaged", [WayOut.OTHER_FILE])
