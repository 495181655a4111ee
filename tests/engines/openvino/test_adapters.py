"""jina-embeddings-v3: each task's adapter gives the vectors of the model into which the original merges it."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from gguf_embed.config import ModelConfig
from gguf_embed.engines.llama.driver import LlamaDriver
from gguf_embed.engines.openvino import support
from gguf_embed.gguf_file.graph_only import why_not_llama
from gguf_embed.gguf_file.header import read_header
from gguf_embed.types import Pooling
from tests.convert.encoders import tiny_models as tiny
from tests.engines.openvino.graph_models import write_gguf
from tests.engines.openvino.running import open_graph
from tests.engines.openvino.test_bad_files import (
    INFINITY,
    NAN,
    UINT32,
    load_error,
    reshaped,
    rewritten,
    with_value,
    without,
)

TASKS = ("retrieval.query", "retrieval.passage", "separation")
FLOAT32, ARRAY = gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.ARRAY
PREFIX = "jina-bert-v3.adapter"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_gguf("jina_v3", tmp_path_factory.mktemp("jina") / "m.gguf")


def for_task(ids: list[list[int]], task: int, n_vocab: int) -> list[list[int]]:
    return [[token + n_vocab * (1 + task) for token in text] for text in ids]


def test_every_task_has_the_vectors_of_the_merged_model(path):
    stored = tiny.reference("jina_v3")
    ids = tiny.ids_of(stored)
    with open_graph(path, Pooling.MEAN) as graph:
        info = graph.loaded.engine.info
        assert info.tasks == TASKS
        for task in range(len(TASKS)):
            found = graph.rows(for_task(ids, task, info.n_vocab))
            assert tiny.cosines(found, stored[f"vectors_{task}"]).min() > 0.99999
            assert tiny.cosines(found, stored["vectors_None"]).max() < 0.999


def test_texts_for_different_tasks_share_a_batch(path):
    stored = tiny.reference("jina_v3")
    ids = tiny.ids_of(stored)[:4]
    with open_graph(path, Pooling.MEAN) as graph:
        n_vocab = graph.loaded.engine.info.n_vocab
        mixed = [ids[0], *(for_task([text], task, n_vocab)[0] for task, text in enumerate(ids[1:]))]
        found = graph.rows(mixed)
    expected = [stored[f"vectors_{task}"][row] for row, task in enumerate((None, 0, 1, 2))]
    assert tiny.cosines(found, np.array(expected)).min() > 0.99999


def test_llama_cpp_is_not_asked(path):
    header = read_header(path)
    assert support.refusal(header, ModelConfig()) is None
    assert why_not_llama(header) == "it does not compute the adapters in the file"
    assert LlamaDriver().refusal(header, ModelConfig()) == why_not_llama(header)


@pytest.mark.parametrize(
    ("key", "entry", "problem"),
    [
        ("tasks", None, "adapter.tasks is None, expected 1 to 64 different names"),
        ("tasks", (["a", "a", "b"], ARRAY), "adapter.tasks is ('a', 'a', 'b')"),
        ("tasks", ([1, 2, 3], ARRAY), "adapter.tasks is (1, 2, 3)"),
        ("tasks", (["a", "b"], ARRAY), "has shape"),
        ("rank", None, "adapter.rank is None, expected 1 to 256"),
        ("rank", (0, UINT32), "adapter.rank is 0"),
        ("rank", (2**31 - 1, UINT32), "adapter.rank is 2147483647"),
        ("rank", (5, UINT32), "has shape"),
        ("scale", None, "adapter.scale is None, expected a positive number"),
        ("scale", (NAN, FLOAT32), "adapter.scale is nan"),
    ],
)
def test_an_impossible_adapter(path, key, entry, problem):
    assert problem in load_error(rewritten(path, entries={f"{PREFIX}.{key}": entry}))


@pytest.mark.parametrize(
    "name", ["token_embd.lora_b.weight", "token_types.lora_a.weight", "blk.0.attn_qkv.lora_b.weight"]
)
def test_a_missing_part_of_an_adapter(path, name):
    assert name in load_error(rewritten(path, change=without(name)))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blk.1.ffn_down.lora_a.weight", (12, 64)),
        ("blk.1.ffn_down.lora_b.weight", (64, 13)),
        ("token_embd.lora_a.weight", (431, 12)),
        ("token_embd.lora_b.weight", (63, 12)),
        ("token_types.lora_b.weight", (64,)),
    ],
)
def test_a_part_of_another_shape(path, name, shape):
    assert name in load_error(rewritten(path, change=reshaped(name, *shape)))


@pytest.mark.parametrize("value", [NAN, INFINITY])
@pytest.mark.parametrize(
    "name",
    [
        "blk.0.attn_qkv.lora_a.weight",
        *(f"{table}.{part}.weight" for table in ("token_embd", "token_types") for part in ("lora_a", "lora_b")),
    ],
)
def test_a_part_that_is_no_number(path, name, value):
    assert f"tensor {name} contains NaN" in load_error(rewritten(path, change=with_value(name, value, 0, 0)))
