"""A file that lacks something, or says something impossible, fails to load with one line that names it.

Everything here is loaded by the driver, whatever `support.refusal` has against the file.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gguf_embed.engines.openvino.driver import OpenVinoDriver
from gguf_embed.errors import EmbedError, ModelFileError
from gguf_embed.types import Pooling
from tests.engines.openvino.graph_models import write_gguf
from tests.engines.openvino.running import load_spec, open_graph
from tests.gguf_models import CLS, SEP, finish, write_tiny_decoder, write_tiny_encoder

Tensors = dict[str, np.ndarray]
Change = Callable[[Tensors], object]

UINT32, FLOAT32 = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32
HUGE = 2**31 - 1
NAN, INFINITY = float("nan"), float("inf")


def rewritten(
    original: Path,
    *,
    entries: Mapping[str, tuple[Any, Any] | None] | None = None,
    change: Change = lambda tensors: None,
) -> Path:
    """A copy of an F32 file with other entries, each (value, type) or None to remove it, and with changed tensors."""
    reader, path = gguf.GGUFReader(original), original.with_name(f"changed-{original.name}")
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in ("general.architecture", *(entries or ())):
            item = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], item)
    for key, entry in (entries or {}).items():
        if entry is not None:
            writer.add_key_value(key, *entry)
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    change(tensors)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    return finish(writer, path)


def load_error(path: Path) -> str:
    """The one line with which loading fails."""
    spec = load_spec(path, Pooling.MEAN)
    with pytest.raises(ModelFileError) as caught:
        OpenVinoDriver().load(spec).engine.close()
    (line,) = caught.value.message.splitlines()
    assert str(path) in line
    return line


def without(name: str) -> Change:
    return lambda tensors: tensors.pop(name)


def with_value(name: str, value: float, *place: int) -> Change:
    def change(tensors: Tensors) -> None:
        tensors[name][place] = value

    return change


def reshaped(name: str, *shape: int) -> Change:
    def change(tensors: Tensors) -> None:
        tensors[name] = np.zeros(shape, np.float32)

    return change


ENCODER_TENSORS = (
    *((name) for name in ("token_embd.weight", "position_embd.weight")),
    *("token_embd_norm.weight", "blk.0.attn_q.weight"),
    *("blk.1.attn_v.weight", "blk.0.attn_output.weight", "blk.0.attn_output_norm.weight", "blk.1.ffn_up.weight"),
    *("blk.1.ffn_down.weight", "blk.1.layer_output_norm.weight"),
)
DECODER_TENSORS = (
    *("output_norm.weight", "blk.0.attn_norm.weight", "blk.0.attn_k.weight", "blk.1.attn_q_norm.weight"),
    *("blk.1.ffn_norm.weight", "blk.0.ffn_up.weight", "blk.1.ffn_down.weight"),
)


@pytest.mark.parametrize("name", ENCODER_TENSORS)
def test_a_missing_tensor_of_an_encoder(tmp_path, name):
    path = rewritten(write_tiny_encoder(tmp_path / "m.gguf"), change=without(name))
    assert f"tensor {name} is missing" in load_error(path)


@pytest.mark.parametrize("name", DECODER_TENSORS)
def test_a_missing_tensor_of_a_decoder(tmp_path, name):
    path = rewritten(write_tiny_decoder(tmp_path / "m.gguf"), change=without(name))
    assert name in load_error(path)


def test_without_a_gate_the_other_matrix_must_contain_it(tmp_path):
    path = rewritten(write_tiny_decoder(tmp_path / "m.gguf"), change=without("blk.0.ffn_gate.weight"))
    assert "tensor blk.0.ffn_up.weight has shape [64, 32], expected [128, 32]" in load_error(path)


@pytest.mark.parametrize(
    "name",
    [
        "blk.0.ffn_up.weight",
        ("token_types.weight"),
        ("blk.1.attn_norm_2.weight"),  # its bias stays
    ],
)
def test_a_missing_tensor_of_jina(tmp_path, name):
    path = rewritten(write_gguf("jina_bert_v2_code", tmp_path / "m.gguf"), change=without(name))
    assert name.removesuffix("weight") in load_error(path)  # or its bias has no place


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blk.0.attn_q.weight", (32, 31)),
        ("blk.0.attn_q.weight", (31, 32)),
        ("blk.0.attn_q.weight", (32 * 32,)),
        ("blk.0.attn_q.bias", (33,)),
        ("blk.1.ffn_up.weight", (65, 32)),
        ("blk.1.ffn_down.weight", (64, 32)),
        ("blk.1.layer_output_norm.weight", (31,)),
        ("blk.1.layer_output_norm.bias", (1,)),
        ("position_embd.weight", (64, 16)),
        ("position_embd.weight", (8, 32)),  # 64 positions are declared
        ("token_types.weight", (2, 31)),
        ("token_types.weight", (32,)),
        ("token_embd.weight", (200, 16)),
        ("token_embd.weight", (32,)),
        ("token_embd.weight", (7, 32)),  # fewer rows than the vocabulary has entries
    ],
)
def test_a_tensor_of_another_shape(tmp_path, name, shape):
    path = rewritten(write_tiny_encoder(tmp_path / "m.gguf"), change=reshaped(name, *shape))
    assert name in load_error(path)


@pytest.mark.parametrize(("name", "shape"), [("cls.weight", (32, 31)), ("cls.output.weight", (1, 31))])
def test_a_rank_head_of_another_shape(tmp_path, name, shape):
    path = write_tiny_encoder(tmp_path / "m.gguf", pooling=Pooling.RANK, rank_head=True)
    assert f"tensor {name} has shape {list(shape)}" in load_error(rewritten(path, change=reshaped(name, *shape)))


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("blk.0.attn_q.weight", (3, 5)),
        ("blk.1.ffn_down.bias", (0,)),
        ("token_embd_norm.weight", (31,)),
        ("position_embd.weight", (63, 0)),
        ("token_types.weight", (1, 0)),
    ],
)
def test_a_weight_that_is_no_number(tmp_path, name, place, value):
    path = rewritten(write_tiny_encoder(tmp_path / "m.gguf"), change=with_value(name, value, *place))
    assert f"tensor {name} contains NaN or infinity (1 of " in load_error(path)


def test_infinities_of_both_signs_do_not_cancel(tmp_path):
    def change(tensors: Tensors) -> None:
        tensors["blk.0.attn_q.weight"][0, :2] = INFINITY, -INFINITY

    path = rewritten(write_tiny_encoder(tmp_path / "m.gguf"), change=change)
    assert "tensor blk.0.attn_q.weight contains NaN or infinity (2 of " in load_error(path)


def test_a_large_weight_is_a_number(tmp_path):
    def change(tensors: Tensors) -> None:
        tensors["blk.0.attn_q.weight"][:] = 3e38

    path = rewritten(write_tiny_encoder(tmp_path / "m.gguf"), change=change)
    OpenVinoDriver().load(load_spec(path, Pooling.MEAN)).engine.close()


def test_a_row_of_the_token_table_that_is_no_number_spoils_its_texts_only(tmp_path):
    original = write_tiny_encoder(tmp_path / "m.gguf")
    path = rewritten(original, change=with_value("token_embd.weight", NAN, 9, 4))
    good, bad = [CLS, 5, 6, SEP], [CLS, 9, SEP]
    with open_graph(path, Pooling.MEAN) as graph, open_graph(original, Pooling.MEAN) as whole:
        output, expected = graph.output_of([good, bad, good]), whole.rows([good])
    assert [bool(output.part(number).fault()) for number in range(3)] == [False, True, False]
    np.testing.assert_allclose(output.matrix[[0, 2]], expected[[0, 0]], atol=1e-6)


@pytest.mark.parametrize("kind", ["Q8_K", "I32", "FROM_TOMORROW"])
@pytest.mark.parametrize("name", ["blk.0.attn_q.weight", "token_embd.weight", "blk.0.attn_q.bias"])
def test_a_type_that_cannot_be_read(tmp_path, name, kind):
    spec = load_spec(write_tiny_encoder(tmp_path / "m.gguf"), Pooling.MEAN)
    tensors = spec.header.tensors | {name: replace(spec.header.tensors[name], type=kind)}
    with pytest.raises(ModelFileError, match=rf"m\.gguf: tensor {name} is stored as {kind}"):
        OpenVinoDriver().load(replace(spec, header=replace(spec.header, tensors=tensors)))


ENCODER_ENTRIES: dict[str, tuple[str, tuple[Any, Any] | None]] = {
    "heads that do not divide": ("attention.head_count", (5, UINT32)),
    "no heads": ("attention.head_count", (0, UINT32)),
    "very many heads": ("attention.head_count", (HUGE, UINT32)),
    "more heads than dimensions": ("attention.head_count", (64, UINT32)),
    "heads are missing": ("attention.head_count", None),
    "key heads that do not divide": ("attention.head_count_kv", (3, UINT32)),
    "more key heads than heads": ("attention.head_count_kv", (8, UINT32)),
    "epsilon is NaN": ("attention.layer_norm_epsilon", (NAN, FLOAT32)),
    "epsilon is negative": ("attention.layer_norm_epsilon", (-1.0, FLOAT32)),
    "epsilon is infinite": ("attention.layer_norm_epsilon", (INFINITY, FLOAT32)),
    "epsilon is missing": ("attention.layer_norm_epsilon", None),
    "no layers": ("block_count", (0, UINT32)),
    "too many layers": ("block_count", (3, UINT32)),
    "very many layers": ("block_count", (HUGE, UINT32)),
    "layers are missing": ("block_count", None),
    "a key length that does not fit": ("attention.key_length", (16, UINT32)),
    "a huge key length": ("attention.key_length", (HUGE, UINT32)),
    "no hidden dimensions": ("feed_forward_length", (0, UINT32)),
    "huge hidden dimensions": ("feed_forward_length", (HUGE, UINT32)),
    "hidden dimensions are missing": ("feed_forward_length", None),
    "no dimensions": ("embedding_length", (0, UINT32)),
    "dimensions of another model": ("embedding_length", (64, UINT32)),
    "huge dimensions": ("embedding_length", (HUGE, UINT32)),
}


@pytest.mark.parametrize(("key", "entry"), ENCODER_ENTRIES.values(), ids=ENCODER_ENTRIES)
def test_an_impossible_size_of_an_encoder(tmp_path, key, entry):
    path = rewritten(write_tiny_encoder(tmp_path / "m.gguf"), entries={f"bert.{key}": entry})
    load_error(path)


def test_a_negative_context_length(tmp_path):
    entries = {"bert.context_length": (-3, gguf.GGUFValueType.INT32)}
    load_error(rewritten(write_tiny_encoder(tmp_path / "m.gguf"), entries=entries))


def test_layers_that_the_file_does_not_count(tmp_path):
    load_error(rewritten(write_tiny_encoder(tmp_path / "m.gguf"), entries={"bert.block_count": (1, UINT32)}))


def test_an_unknown_activation(tmp_path):
    entries = {"bert.hidden_activation": ("mish", gguf.GGUFValueType.STRING)}
    path = rewritten(write_tiny_encoder(tmp_path / "m.gguf"), entries=entries)
    assert "activation 'mish' is unknown" in load_error(path)


GRAPH_ENTRIES = [
    ("qwen3_embedding", "attention.key_length", (HUGE, UINT32)),
    ("modern_bert", "block_count", (HUGE, UINT32)),
    ("gemma_periodic_layers", "block_count", (HUGE, UINT32)),
    ("jina_bert_v2", "attention.head_count", (HUGE, UINT32)),
    ("nomic_bert", "rope.freq_base", (-5.0, FLOAT32)),
    ("nomic_bert", "rope.freq_base", (NAN, FLOAT32)),
    ("qwen3_linear", "rope.scaling.factor", (0.0, FLOAT32)),
    ("modern_bert", "attention.sliding_window", (2**40, gguf.GGUFValueType.UINT64)),
]

LOAD = """
import resource, sys
from pathlib import Path
from gguf_embed.engines.openvino import runtime
from gguf_embed.engines.openvino.driver import OpenVinoDriver
from gguf_embed.errors import ModelFileError
from gguf_embed.types import Pooling
from tests.engines.openvino.running import load_spec
spec = load_spec(Path(sys.argv[1]), Pooling.MEAN)
runtime.core()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
try:
    OpenVinoDriver().load(spec)
except ModelFileError as error:
    print(error.message)
"""
"""Loads a file with 256 MiB more memory than the process has already, and 20 s of a processor."""


@pytest.mark.parametrize(("model", "key", "entry"), GRAPH_ENTRIES)
def test_an_impossible_number_takes_neither_time_nor_memory(tmp_path, model, key, entry):
    original = write_gguf(model, tmp_path / "m.gguf")
    architecture = gguf.GGUFReader(original).fields["general.architecture"].contents()
    path = rewritten(original, entries={f"{architecture}.{key}": entry})
    done = subprocess.run([sys.executable, "-c", LOAD, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert str(path) in line


def test_a_head_of_odd_size_cannot_be_rotated(tmp_path):
    load_error(write_tiny_decoder(tmp_path / "m.gguf", n_embd=28))


def test_a_quantized_row_that_is_no_whole_number_of_blocks(tmp_path):
    spec = load_spec(write_tiny_encoder(tmp_path / "m.gguf", n_embd=16), Pooling.MEAN)
    tensor = spec.header.tensors["blk.0.attn_q.weight"]
    odd = replace(tensor, type="Q8_0", size_bytes=16 * 16 // 32 * 34)
    header = replace(spec.header, tensors=spec.header.tensors | {odd.name: odd})
    with pytest.raises(ModelFileError, match=r"m\.gguf.*blk\.0\.attn_q\.weight"):
        OpenVinoDriver().load(replace(spec, header=header))


def test_a_tensor_that_the_architecture_does_not_have_is_not_left_out(tmp_path):
    def change(tensors: Tensors) -> None:
        tensors["blk.0.ffn_gate.weight"] = np.ones((64, 32), np.float32)

    path = rewritten(write_tiny_encoder(tmp_path / "m.gguf"), change=change)
    spec = load_spec(path, Pooling.MEAN)
    driver = OpenVinoDriver()
    if driver.refusal(spec.header, spec.config) is None:
        assert "blk.0.ffn_gate.weight" in load_error(path)


def test_a_failed_load_closes_the_codec(tmp_path):
    path = rewritten(write_tiny_decoder(tmp_path / "m.gguf"), change=without("output_norm.weight"))
    spec = load_spec(path, Pooling.LAST)
    n_closed = []

    def open_codec(path: Path) -> Any:
        opened = spec.open_codec(path)
        return replace(opened, close=lambda: (n_closed.append(1), opened.close()))

    with pytest.raises(EmbedError):
        OpenVinoDriver().load(replace(spec, open_codec=open_codec))
    assert n_closed == [1]


def test_what_was_rewritten_is_the_same_model(tmp_path):
    original = write_tiny_encoder(tmp_path / "m.gguf")
    ids = [[CLS, 5, 6, SEP]]
    rows = []
    for path in (original, rewritten(original)):
        loaded = OpenVinoDriver().load(load_spec(path, Pooling.MEAN))
        with closing(loaded.engine), open_graph(path, Pooling.MEAN) as graph:
            rows.append(graph.rows(ids))
    np.testing.assert_array_equal(*rows)
