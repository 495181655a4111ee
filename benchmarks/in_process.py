"""Compares gguf-embed in process with the best loops that a user would write with other libraries, on the same tokens.

Every loop has a process of its own with the same number of threads, and only one of them computes at a time.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random
from statistics import median

import numpy as np

from benchmarks.cost import ModelCost, read_model_cost
from benchmarks.limit import MatmulRate, measure_rates
from benchmarks.loops.child import Child, start_children
from benchmarks.loops.onnx_graph import write_onnx
from benchmarks.loops.read_gguf import read_bert
from benchmarks.loops.worker import Order
from benchmarks.replies import min_cosine
from benchmarks.report import spread, table
from benchmarks.servers import OURS
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.model_store.default_model import cache_dir
from gguf_embed.types import FloatMatrix

_TUNING_SHARE = 0.25  # of a corpus, to find each loop's fastest way
_MIN_TEXTS = 64


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts of random tokens. Lengths include the special tokens, and both ends of the range."""

    name: str
    n_texts: int
    n_tokens: tuple[int, int]


CORPORA = (Corpus("short", 1000, (12, 30)), Corpus("passages", 200, (160, 260)))


@dataclass(frozen=True, slots=True)
class InProcessSettings:
    """What to measure."""

    model: Path
    torch_python: str  # an interpreter that may have torch, transformers and sentence-transformers[onnx,openvino]
    n_threads: int
    serve_flags: str = ""
    n_rounds: int = 5
    factor: float = 1.0  # of the numbers of texts
    seed: str = "1"
    cache: Path | None = None  # where gguf-embed keeps what it derives from the model; None: where it always does


@dataclass(frozen=True, slots=True)
class InProcessRun:
    """One loop over one corpus."""

    round: int
    corpus: str
    loop: str
    variant: str  # the fastest of the loop's ways for such a corpus, e.g. its batch size
    n_texts: int
    n_tokens: int
    model_flops: float
    seconds: float
    min_cosine: float  # to gguf-embed's vectors
    limit: MatmulRate  # the fastest products of the model's matrices, measured in this round


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The ids that texts are made of."""

    first: int
    last: int
    n_tokens: int


def compare_in_process(settings: InProcessSettings, say: Callable[[str], None]) -> list[InProcessRun]:
    """Measure all loops that can run here; `say` names the others.

    Raises `ConfigError` for a model that the loops do not compute, `ModelFileError`, `Unavailable`.
    """
    cost, vocabulary = read_model_cost(settings.model), read_vocabulary(settings.model)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bert = read_bert(settings.model)
        bert.save(folder / "bert.npz")
        if find_spec("onnx"):
            write_onnx(bert, folder / "bert.onnx")
        else:
            say("ONNX Runtime and OpenVINO need the package onnx: pip install onnx")
        cache = settings.cache or cache_dir(os.environ)
        order = Order(OURS, str(folder), str(settings.model), settings.n_threads, settings.serve_flags, str(cache))
        children = start_children(stack, order, settings.torch_python, say)
        return _Measurement(settings, cost, vocabulary, children, folder).run(say)


def read_vocabulary(path: Path) -> Vocabulary:
    """Raises `ModelFileError` if the file does not name the tokens at a text's beginning and end."""
    header = read_header(path)
    first, last = (header.get(f"tokenizer.ggml.{name}_token_id", int) for name in ("bos", "eos"))
    if first is None or last is None:
        raise ModelFileError(f"{path}: the tokens at a text's beginning and end are missing")
    return Vocabulary(first, last, header.array_lengths["tokenizer.ggml.tokens"])


def make_tokens(rng: Random, corpus: Corpus, vocabulary: Vocabulary, factor: float) -> list[list[int]]:
    """Texts as token ids, with the special tokens at both ends."""
    n_texts = max(_MIN_TEXTS, round(corpus.n_texts * factor))
    lengths = [rng.randint(*corpus.n_tokens) for _ in range(n_texts)]
    ids = range(vocabulary.n_tokens)
    return [[vocabulary.first, *rng.choices(ids, k=length - 2), vocabulary.last] for length in lengths]


@dataclass(frozen=True, slots=True)
class _Measurement:
    """The children and what they compute. gguf-embed is the first of them."""

    settings: InProcessSettings
    cost: ModelCost
    vocabulary: Vocabulary
    children: Sequence[Child]
    folder: Path

    def run(self, say: Callable[[str], None]) -> list[InProcessRun]:
        variants = {
            (child.name, corpus.name): self._fastest(child, corpus) for corpus in CORPORA for child in self.children
        }
        for corpus in CORPORA:  # to warm up
            self._compute(0, corpus, self._texts(corpus, "0", self.settings.factor), variants)
        runs: list[InProcessRun] = []
        for round_ in range(1, self.settings.n_rounds + 1):
            limit = measure_rates(self.settings.n_threads, self.cost.matrices, self.settings.torch_python)[0]
            for corpus in CORPORA:
                done = self._measure(round_, corpus, variants, limit)
                runs += done
                for run in done:
                    say(f"round {round_} {corpus.name:8} {run.loop:30} {run.n_texts / run.seconds:8.1f} texts/s")
        return runs

    def _texts(self, corpus: Corpus, seed: str, factor: float) -> list[list[int]]:
        return make_tokens(Random(f"{self.settings.seed}/{seed}/{corpus.name}"), corpus, self.vocabulary, factor)

    def _fastest(self, child: Child, corpus: Corpus) -> str:
        """Try every variant, then the two best again: the first run of some libraries compiles for new lengths."""
        if len(child.variants) == 1:
            return child.variants[0]
        self._write(self._texts(corpus, "tuning", self.settings.factor * _TUNING_SHARE))
        best = sorted(child.variants, key=lambda variant: self._time(child, variant))[:2]
        return min(best, key=lambda variant: self._time(child, variant))

    def _compute(
        self, round_: int, corpus: Corpus, texts: list[list[int]], variants: Mapping[tuple[str, str], str]
    ) -> dict[str, tuple[float, FloatMatrix]]:
        """Seconds and vectors by loop. Run A B C, B C A, …: each loop goes first once in a while."""
        self._write(texts)
        turn = round_ % len(self.children)
        done: dict[str, tuple[float, FloatMatrix]] = {}
        for child in (*self.children[turn:], *self.children[:turn]):
            seconds = self._time(child, variants[child.name, corpus.name])
            done[child.name] = seconds, np.load(self._vectors_path)
        return {child.name: done[child.name] for child in self.children}

    def _measure(
        self, round_: int, corpus: Corpus, variants: Mapping[tuple[str, str], str], limit: MatmulRate
    ) -> list[InProcessRun]:
        texts = self._texts(corpus, f"{round_}", self.settings.factor)
        done = self._compute(round_, corpus, texts, variants)
        _, our_vectors = done[OURS]
        lengths = list(map(len, texts))
        return [
            InProcessRun(
                round_,
                corpus.name,
                name,
                variants[name, corpus.name],
                len(texts),
                sum(lengths),
                self.cost.of_texts(lengths),
                seconds,
                min_cosine(our_vectors, vectors),
                limit,
            )
            for name, (seconds, vectors) in done.items()
        ]

    def _write(self, texts: list[list[int]]) -> None:
        self._texts_path.write_text(json.dumps(texts))

    def _time(self, child: Child, variant: str) -> float:
        return child.run(self._texts_path, variant, self._vectors_path)

    @property
    def _texts_path(self) -> Path:
        return self.folder / "texts.json"

    @property
    def _vectors_path(self) -> Path:
        return self.folder / "vectors.npy"


def render_in_process(runs: Sequence[InProcessRun], n_threads: int) -> str:
    """A table of medians over the rounds; ratios are of runs of the same round."""
    lines = []
    for corpus, loop in dict.fromkeys((run.corpus, run.loop) for run in runs):
        ours, theirs = ([run for run in runs if (run.corpus, run.loop) == (corpus, name)] for name in (OURS, loop))
        ratio = spread([their.seconds / our.seconds for our, their in zip(ours, theirs, strict=True)])
        lines.append(
            [
                corpus,
                loop,
                theirs[0].variant,
                f"{median(run.n_texts / run.seconds for run in theirs):,.1f}",
                f"{median(run.n_tokens / run.seconds for run in theirs):,.0f}",
                f"{median(run.model_flops / run.seconds for run in theirs) / 1e9:,.0f}",
                f"{median(run.model_flops / run.seconds / run.limit.flops_per_s for run in theirs):.0%}",
                f"{ratio.median:.2f}x",
                f"{ratio.low:.2f}..{ratio.high:.2f}",
                f"{min(run.min_cosine for run in theirs):.6f}",
            ]
        )
    header = [
        "texts",
        "loop",
        "fastest way",
        "texts/s",
        "tokens/s",
        "GFLOP/s",
        "of the limit",
        f"{OURS} is",
        "min..max",
        "worst cosine",
    ]
    names = ", ".join(dict.fromkeys(run.limit.name for run in runs))
    limit = f"the fastest product of its matrices in the same round: {names}"
    return (
        f"In process, {n_threads} threads, from token ids to unit vectors; the limit is {limit}:\n\n"
        f"{table(header, lines)}"
    )
