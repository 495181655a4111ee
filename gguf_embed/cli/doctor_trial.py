"""`doctor --run`: loads the model and embeds texts in a separate process, because llama.cpp aborts on bad files."""

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
"""Vectors of different texts with at least this cosine count as equal."""

_OTHER_FILE = "get another file of this model, or convert it again"


def try_model(path: Path) -> list[Finding]:
    """Runs the model. Returns an empty list if it works. Takes seconds for large files."""
    spawn = multiprocessing.get_context("spawn")  # a fork would share this process's open files
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_be_quiet) as process:
        try:
            return process.submit(_embed, path).result()
        except BrokenProcessPool:
            return [serious("run_crashed", "llama.cpp aborted while loading or running it", _OTHER_FILE)]


def _be_quiet() -> None:
    """Suppresses llama.cpp's backtrace: the crash itself is the finding."""
    os.environ["GGML_NO_BACKTRACE"] = "1"
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _embed(path: Path) -> list[Finding]:
    """Runs in the separate process."""
    from gguf_embed.config import ComputeConfig, ModelConfig
    from gguf_embed.engines.base import ContextSpec, LoadSpec
    from gguf_embed.engines.select import open_codec, select_driver
    from gguf_embed.gguf_file.facts import pooling_type
    from gguf_embed.gguf_file.graph_only import why_not_llama
    from gguf_embed.gguf_file.towers import read_model
    from gguf_embed.preprocessing.tokenizers import choose_tokenizer
    from gguf_embed.vectors import Rows

    try:
        header = read_model(path)
        pooling = pooling_type(header) or Pooling.NONE
        pooled = Pooling.MEAN if pooling is Pooling.NONE else pooling
        output = OutputSpec.of(pooled)
        chosen = "llama" if why_not_llama(header) is None else "auto"
        as_it_is = ModelConfig(compute=ComputeConfig(engine=chosen, weights="file", amx=False), warmup=False)
        spec = LoadSpec(header, as_it_is, output, path.parent, lambda line: None, open_codec)
        loaded = select_driver(header, as_it_is).load(spec)
        with closing(loaded.engine) as engine:
            tokens = choose_tokenizer(loaded.codec, loaded.exact, "auto").encode_batch(TEXTS)
            n_tokens = max(64, *map(len, tokens))
            with closing(engine.open_context(ContextSpec(output, n_tokens, 1))) as context:
                outputs = [context.embed([text], 1) for text in tokens]
        rows = np.concatenate([output.matrix for output in outputs if isinstance(output, Rows)])
    except EmbedError as error:
        return [serious("run_failed", f"it fails to run: {error.message}", _OTHER_FILE)]
    return judge_rows(rows, pooled)


def judge_rows(rows: FloatMatrix, pooling: Pooling) -> list[Finding]:
    """`rows` is float32[n, n_embd], one per text, all texts different; with pooling rank float32[n, n_scores]."""
    if not np.isfinite(rows).all():
        return [serious("run_not_finite", "its vectors contain infinities or NaN", _OTHER_FILE)]
    if pooling is Pooling.RANK:
        return _judge_scores(rows)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if float(norms.min()) < 1e-6:
        return [serious("run_zero", "its vectors are zero", _OTHER_FILE)]
    cosines = (rows / norms) @ (rows / norms).T
    if float(cosines.min()) > SAME:
        return [serious("run_same", "different texts get the same vector", f"check the pooling; {_OTHER_FILE}")]
    return []


def _judge_scores(scores: FloatMatrix) -> list[Finding]:
    if float(np.ptp(scores, axis=0).max()) == 0:
        return [serious("run_same", "different texts get the same score", _OTHER_FILE)]
    return []
