"""Both engines on the same token ids in F32: the cosine of each text's vectors, by every architecture that both run."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino", reason="OpenVINO has no package for this system")

from gguf_embed.engines.openvino.support import ARCHITECTURES
from gguf_embed.gguf_file.graph_only import OWN_ARCHITECTURES, why_not_llama
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.towers import TEXT
from gguf_embed.types import Pooling
from tests.convert.encoders import tiny_models
from tests.engines.openvino.graph_models import MODELS, Array, reference, write_gguf
from tests.engines.openvino.running import open_graph

LEAST_COSINE = 0.9999
ONLY_IN_OPENVINO = {TEXT, *OWN_ARCHITECTURES, "jina-bert-v3"}
"""Architectures. llama.cpp has no adapters for tasks, and does not read the tokenizer that our files have."""

WRONG_IN_LLAMA = ("jina_bert_v2_code_fused_gate",)
"""llama.cpp takes the wrong half of the feed-forward network as its gate."""

NOT_IN_BOTH = ("qwen3_yarn", "t5_relu")
"""OpenVINO has no YaRN, llama.cpp no Dense module of a T5 encoder. It reads none of CrispEmbed's files, either."""

NAMES = [
    name
    for name, model in MODELS.items()
    if model.architecture not in ONLY_IN_OPENVINO
    and name not in (*WRONG_IN_LLAMA, *NOT_IN_BOTH)
    and "_of_crisp_embed" not in name
]

GELU_SCORE = 1e-3
"""Scores may differ by this much. llama.cpp computes GELU by tanh, from a table of half floats, where the originals of
these models use erf: on single numbers this shows, 0.0008 of about 1, and on vectors hardly, a cosine of 0.999999."""


def by_both(path: Path, name: str) -> tuple[Array, Array]:
    """OpenVINO's rows and llama.cpp's, float32[texts, n]."""
    texts = reference(name)
    with open_graph(path, texts.pooling) as graph:
        found = graph.rows(texts.ids)
    with closing(tiny_models.open_engine(path, rank_head=texts.pooling is Pooling.RANK)) as engine:
        return found, tiny_models.rows(engine, texts.ids, texts.pooling)


@pytest.mark.parametrize("name", NAMES)
def test_each_text_has_the_same_vector_in_both_engines(tmp_path, name):
    path = write_gguf(name, tmp_path / "model.gguf")
    assert why_not_llama(read_header(path)) is None
    openvino, llama = by_both(path, name)
    if reference(name).pooling is Pooling.RANK:
        np.testing.assert_allclose(openvino, llama, rtol=0, atol=GELU_SCORE)
    else:
        assert tiny_models.cosines(openvino, llama).min() >= LEAST_COSINE


def test_every_architecture_that_both_run_is_compared():
    assert {MODELS[name].architecture for name in NAMES} == set(ARCHITECTURES) - ONLY_IN_OPENVINO
