"""Compares static models with the `model2vec` package on the same texts, in one process and over HTTP."""

from __future__ import annotations

import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np

from benchmarks.load import frame_request, run_load
from benchmarks.loops.ours import embed_tokens
from benchmarks.models import default_tokenizer
from benchmarks.replies import min_cosine, read_replies
from benchmarks.report import table
from benchmarks.safetensors_file import write_safetensors
from benchmarks.scenarios import encode_body
from benchmarks.servers import OURS, RunningServer, ServerSetup, running
from benchmarks.tasks import EMBED
from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.convert.static import convert_static
from gguf_embed.errors import ConfigError
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.loading import LoadedModel, load_model
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.preprocessing.tokens import prepare
from gguf_embed.types import FloatMatrix

SIZES = (("short", 10_000, 10), ("long", 1_000, 400))
"""Name, texts, words per text."""

TEXTS_PER_REQUEST = 100
N_CLIENTS = 4
_N_DIMS = 256
_PARALLELISM = "TOKENIZERS_PARALLELISM"


@dataclass(frozen=True, slots=True)
class StaticSettings:
    """What to measure."""

    model: Path | None = None  # a Model2Vec directory; None: random rows for the default model's tokenizer
    n_rounds: int = 5
    factor: float = 1.0  # for the numbers of texts
    n_threads: int = 1  # for both; 1 also keeps the server and the load generator on one core
    seed: str = "1"


@dataclass(frozen=True, slots=True)
class StaticRun:
    """One set of texts, embedded in all three ways right after one another, so that other load affects all of them."""

    size: str
    n_texts: int
    package_s: float  # model2vec's encode
    process_s: float  # tokenized, through the scheduler, normalized
    http_s: float
    min_cosine: float  # between model2vec's vectors and both of ours


def compare_static(settings: StaticSettings, say: Callable[[str], None]) -> list[StaticRun]:
    """Measure, with this process limited to `n_threads`. Raises `ConfigError` if model2vec is not installed."""
    if find_spec("model2vec") is None:
        raise ConfigError("static models are compared with the package model2vec: pip install model2vec")
    with _threads(settings.n_threads), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = settings.model or write_model(folder / "model")
        convert_static(model, folder / "static.gguf", "f32", report=lambda line: None)
        package = import_module("model2vec").StaticModel.from_pretrained(model)
        flags = ("--threads", str(settings.n_threads))
        config = ModelConfig(compute=ComputeConfig(n_threads=settings.n_threads))
        loaded = load_model(LocatedModel(folder / "static.gguf", "static"), config, folder, Metrics(), say)
        try:
            setup = ServerSetup(folder / "static.gguf", our_flags=flags)
            with running(setup.contestant(OURS), folder) as server:
                gc.freeze()  # like the server, so that the collector skips loaded objects
                return _run_rounds(settings, _Contestants(package, loaded, server), say)
        finally:
            gc.unfreeze()
            loaded.close()


@contextmanager
def _threads(n_threads: int) -> Iterator[None]:
    """Limit the tokenizers package to this number of threads; for one thread, also limit the process to one core."""
    whole = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
    before = os.environ.get(_PARALLELISM)
    os.environ[_PARALLELISM] = "true" if n_threads > 1 else "false"
    try:
        if n_threads == 1 and whole:
            os.sched_setaffinity(0, {min(whole)})
        yield
    finally:
        if whole:
            os.sched_setaffinity(0, whole)
        os.environ.pop(_PARALLELISM, None) if before is None else os.environ.update({_PARALLELISM: before})


@dataclass(frozen=True, slots=True)
class _Contestants:
    package: Any
    loaded: LoadedModel
    server: RunningServer


def _run_rounds(settings: StaticSettings, contestants: _Contestants, say: Callable[[str], None]) -> list[StaticRun]:
    words = [entry for entry in contestants.package.tokens if entry.isalpha() and entry.isascii()]
    Random(settings.seed).shuffle(words)
    runs = []
    for round_ in range(settings.n_rounds + 1):
        for size, n_texts, n_words in SIZES:
            rng = Random(f"{settings.seed}/{round_}/{size}")
            texts = make_texts(rng, words, max(TEXTS_PER_REQUEST, round(n_texts * settings.factor)), n_words)
            run = _run_once(size, texts, contestants)
            if round_ > 0:  # the first warms up
                runs.append(run)
                say(f"round {round_} static {size:6} {run.n_texts / run.process_s:10,.0f} texts/s in process")
    return runs


def _run_once(size: str, texts: Sequence[str], contestants: _Contestants) -> StaticRun:
    started_s = time.perf_counter()
    theirs = contestants.package.encode(list(texts), max_length=None, use_multiprocessing=False)
    package_s = time.perf_counter() - started_s
    started_s = time.perf_counter()
    ours = embed_in_process(contestants.loaded, texts)
    process_s = time.perf_counter() - started_s
    groups = [tuple(texts[i : i + TEXTS_PER_REQUEST]) for i in range(0, len(texts), TEXTS_PER_REQUEST)]
    requests = [frame_request(EMBED.path, encode_body(group, "base64")) for group in groups]
    load = run_load(contestants.server.port, requests, N_CLIENTS)
    served = read_replies(load.replies, [len(group) for group in groups]).vectors
    worst = min(min_cosine(ours, theirs), min_cosine(served, theirs))
    return StaticRun(size, len(texts), package_s, process_s, load.wall_s, worst)


def embed_in_process(loaded: LoadedModel, texts: Sequence[str]) -> FloatMatrix:
    """Do what the service does for one request, from texts to finished vectors."""
    tokenized = prepare(texts, loaded.tokenizer, loaded.limits, truncate=False)
    return embed_tokens(loaded, [text.tokens for text in tokenized])


def make_texts(rng: Random, ranked: Sequence[str], n_texts: int, n_words: int) -> list[str]:
    """Sentences with word frequencies as in real text: the n-th word of `ranked` is 1/n times as frequent as the first
    (Zipf). One word in five has an ending or a punctuation mark.
    """
    weights = np.cumsum(1.0 / np.arange(1, len(ranked) + 1)).tolist()
    drawn = rng.choices(ranked, cum_weights=weights, k=n_texts * n_words)
    return [_sentence(rng, drawn[i * n_words : (i + 1) * n_words]) for i in range(n_texts)]


def _sentence(rng: Random, words: Sequence[str]) -> str:
    ended = [word + rng.choices(("", ",", ".", "s", "ing"), (80, 6, 6, 4, 4))[0] for word in words]
    return " ".join(ended).capitalize() + "."


def write_model(folder: Path) -> Path:
    """Write a Model2Vec directory with random rows for the default model's tokenizer, as fast as a trained one."""
    tokenizer = default_tokenizer()
    n_tokens = len(tokenizer["model"]["vocab"])
    rows = np.random.default_rng(0).standard_normal((n_tokens, _N_DIMS)).astype("<f4")
    folder.mkdir(parents=True)
    write_safetensors(folder / "model.safetensors", {"embeddings": rows})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    return folder


def render_static(runs: Sequence[StaticRun], n_threads: int) -> str:
    """A table of medians over the rounds. Ratios are relative to model2vec's texts per second."""
    lines = []
    for size in dict.fromkeys(run.size for run in runs):
        chosen = [run for run in runs if run.size == size]
        lines.append(
            [
                size,
                f"{median(run.n_texts / run.package_s for run in chosen):,.0f}",
                f"{median(run.n_texts / run.process_s for run in chosen):,.0f}",
                _ratios([run.package_s / run.process_s for run in chosen]),
                f"{median(run.n_texts / run.http_s for run in chosen):,.0f}",
                _ratios([run.package_s / run.http_s for run in chosen]),
                f"{min(run.min_cosine for run in chosen):.7f}",
            ]
        )
    header = ("static", "model2vec texts/s", "in process", "times", "over HTTP", "times", "worst cosine")
    threads = "1 thread" if n_threads == 1 else f"{n_threads} threads"
    return f"Static models against model2vec's encode, {threads}:\n\n{table(header, lines)}"


def _ratios(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
