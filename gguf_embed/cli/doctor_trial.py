"""`doctor --run`: load the model and embed, in a process of its own: llama.cpp ends it over bad files."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path

import numpy as np

from gguf_embed.doctor.findings import Finding, serious
from gguf_embed.errors import EmbedError
from gguf_embed.types import FloatMatrix, OutputSpec, Pooling

TEXTS = ("The cat sat on the mat.", "Prices rose by 7 % in March, the bank said.", "Wie komme ich zum Bahnhof?")
SAME = 0.99999
"""Cosine from which vectors of different texts count as equal."""

_ANOTHER = "get another file of this model, or convert it again"


def try_model(path: Path) -> list[Finding]:
    """What happens when the model really runs: nothing found is an empty list. Seconds for large files."""
    spawn = multiprocessing.get_context("spawn")  # a fork would share what this process has open
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_be_quiet) as process:
        try:
            return process.submit(_embed, path).result()
        except BrokenProcessPool:
            return [serious("run_crashed", "llama.cpp ended the process while it loaded or ran it", _ANOTHER)]


def _be_quiet() -> None:
    """Nobody wants llama.cpp's backtrace: that it crashed is the finding."""
    os.environ["GGML_NO_BACKTRACE"] = "1"
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _embed(path: Path) -> list[Finding]:
    """Runs in the other process."""
    from gguf_embed.config import ComputeConfig, ModelConfig
    from gguf_embed.engines.base import ContextSpec, LoadSpec
    from gguf_embed.engines.select import select_driver
    from gguf_embed.gguf_file.facts import pooling_type
    from gguf_embed.gguf_file.header import read_header
    from gguf_embed.preprocessing.tokens import choose_tokenizer
    from gguf_embed.vectors import Rows

    try:
        header = read_header(path)
        pooling = pooling_type(header) or Pooling.NONE
        pooled = Pooling.MEAN if pooling is Pooling.NONE else pooling
        output = OutputSpec.of(pooled)
        as_it_is = ModelConfig(compute=ComputeConfig(weights="file", amx=False))
        loaded = select_driver(header).load(LoadSpec(header, as_it_is, output, path.parent, lambda line: None))
        with closing(loaded.engine) as engine:
            tokens = choose_tokenizer(loaded.codec, loaded.exact, "auto").encode_batch(TEXTS)
            n_tokens = max(64, *map(len, tokens))
            with closing(engine.open_context(ContextSpec(output, n_tokens, 1))) as context:
                outputs = [context.embed([text], 1) for text in tokens]
        rows = np.concatenate([output.matrix for output in outputs if isinstance(output, Rows)])
    except EmbedError as error:
        return [serious("run_failed", f"it does not run: {error.message}", _ANOTHER)]
    return judge_rows(rows, pooled)


def judge_rows(rows: FloatMatrix, pooling: Pooling) -> list[Finding]:
    """`rows` is float32[n, n_embd], one per text, all texts different; with pooling rank float32[n, n_scores]."""
    if not np.isfinite(rows).all():
        return [serious("run_not_finite", "its vectors hold infinities or NaN", _ANOTHER)]
    if pooling is Pooling.RANK:
        return _judge_scores(rows)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if float(norms.min()) < 1e-6:
        return [serious("run_zero", "its vectors are zero", _ANOTHER)]
    cosines = (rows / norms) @ (rows / norms).T
    if float(cosines.min()) > SAME:
        return [serious("run_same", "different texts get the same vector", f"check the pooling; {_ANOTHER}")]
    return []


def _judge_scores(scores: FloatMatrix) -> list[Finding]:
    if float(np.ptp(scores, axis=0).max()) == 0:
        return [serious("run_same", "different texts get the same score", _ANOTHER)]
    return []
