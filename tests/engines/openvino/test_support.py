"""Which files are refused, and with which reason; the tiny models of every architecture are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gguf_embed.config import ComputeConfig, ModelConfig, OffloadConfig
from gguf_embed.engines.openvino import support, weights
from gguf_embed.gguf_file.header import GgufHeader, TensorInfo, read_header
from tests.engines.openvino.graph_models import RUNNABLE, write_gguf
from tests.gguf_models import write_tiny_decoder, write_tiny_encoder

PLAIN = ModelConfig()
GPU = ModelConfig(compute=ComputeConfig(offload=OffloadConfig(n_gpu_layers=4)))
ALL_ON_GPU = ModelConfig(compute=ComputeConfig(offload=OffloadConfig(n_gpu_layers=-1)))
ON_DEVICE = ModelConfig(compute=ComputeConfig(offload=OffloadConfig(devices=("CUDA0",))))
VISION = ModelConfig(mmproj=Path("tower.gguf"))


@pytest.fixture
def bert(tmp_path) -> GgufHeader:
    return read_header(write_tiny_encoder(tmp_path / "m.gguf"))


@pytest.fixture
def qwen(tmp_path) -> GgufHeader:
    return read_header(write_tiny_decoder(tmp_path / "decoder.gguf"))


def with_tensor(header: GgufHeader, name: str, shape: tuple[int, ...] = (8,)) -> GgufHeader:
    tensor = TensorInfo(name, shape, "F32", 0, 4)
    return replace(header, tensors=header.tensors | {name: tensor})


def with_entries(header: GgufHeader, **entries: object) -> GgufHeader:
    """Entries of the architecture, "." written as "__"."""
    named = {f"{header.architecture}.{key.replace('__', '.')}": value for key, value in entries.items()}
    return replace(header, metadata=header.metadata | named)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_tiny_model_is_accepted(tmp_path, name):
    assert support.refusal(read_header(write_gguf(name, tmp_path / "m.gguf")), PLAIN) is None


def test_yarn_is_refused(tmp_path):
    header = read_header(write_gguf("qwen3_yarn", tmp_path / "m.gguf"))
    assert support.refusal(header, PLAIN) == "it does not compute rope scaling 'yarn'"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (PLAIN, None),
        (GPU, "it does not use GPUs"),
        (ALL_ON_GPU, "it does not use GPUs"),
        (ON_DEVICE, "it does not use GPUs"),
        (VISION, "it reads text only, and a vision tower is configured"),
    ],
)
def test_what_a_configuration_asks_for(bert, config, reason):
    assert support.refusal(bert, config) == reason


@pytest.mark.parametrize(
    "name", ["blk.0.ffn_gate_exps.weight", "blk.1.attn_sinks.weight", "rope_freqs.weight", "blk.x.attn_q.weight"]
)
def test_a_tensor_that_no_graph_has_is_named(bert, name):
    assert support.refusal(with_tensor(bert, name), PLAIN) == f"its graph for bert has no tensor {name}"


@pytest.mark.parametrize("architecture", ["llama", "nomic-bert-moe", "neo-bert", "bert2", ""])
def test_an_unknown_architecture_is_named(bert, architecture):
    found = support.refusal(replace(bert, architecture=architecture), PLAIN)
    assert found == f"it has no graph for the architecture {architecture}"


@pytest.mark.parametrize("scaling", ["yarn", "longrope", "dynamic"])
def test_rope_scaling_that_is_not_linear_is_named(qwen, scaling):
    assert support.refusal(with_entries(qwen, rope__scaling__type="linear"), PLAIN) is None
    found = support.refusal(with_entries(qwen, rope__scaling__type=scaling), PLAIN)
    assert found == f"it does not compute rope scaling {scaling!r}"


@pytest.mark.parametrize("key", ["attention.head_count", "attention.head_count_kv", "feed_forward_length"])
def test_sizes_that_differ_by_layer_are_refused(bert, key):
    arrays = replace(bert, array_lengths=bert.array_lengths | {f"bert.{key}": 2})
    assert support.refusal(arrays, PLAIN) == f"its graph for bert has one {key} for all layers"


@pytest.mark.parametrize("causal", [True, None, 0, "false"])
def test_an_encoder_must_say_that_it_is_not_causal(bert, causal):
    header = with_entries(bert, attention__causal=causal)
    if causal is None:
        header = replace(bert, metadata={k: v for k, v in bert.metadata.items() if k != "bert.attention.causal"})
    assert support.refusal(header, PLAIN) == "bert.attention.causal is not false in the file"


@pytest.mark.parametrize("causal", [True, False])
def test_a_decoder_may_be_causal_or_not(qwen, causal):
    assert support.refusal(with_entries(qwen, attention__causal=causal), PLAIN) is None


def test_a_rank_head_on_qwen2_is_refused(tmp_path):
    header = with_tensor(read_header(write_gguf("qwen2_last", tmp_path / "m.gguf")), "cls.output.weight", (8, 1))
    assert support.refusal(header, PLAIN) == "its graph for qwen2 has no rank head"


def test_without_the_package_it_says_how_to_install_it(bert, monkeypatch):
    monkeypatch.setattr(support, "find_spec", lambda name: None)
    found = support.refusal(bert, PLAIN)
    assert found == "the package openvino is not installed (pip install 'gguf-embed[openvino]')"


def test_too_little_memory_is_refused_with_both_numbers(bert, monkeypatch):
    needed = support.peak_bytes(bert, PLAIN)
    for free, accepted in ((None, True), (needed, True), (needed - 1, False)):
        monkeypatch.setattr(support, "available_bytes", lambda free=free: free)
        assert (support.refusal(bert, PLAIN) is None) is accepted
    monkeypatch.setattr(support, "available_bytes", lambda: 5 * 2**20)
    assert support.refusal(bert, PLAIN) == (
        f"its float32 weights and buffers need {needed / 2**20:,.0f} MiB of memory for texts of 64 tokens, "
        "5 are available; a smaller -c needs less"
    )


ONE_GRAPH = ModelConfig(compute=ComputeConfig(n_workers=1))
SEVERAL = ModelConfig(compute=ComputeConfig(n_threads=2))


def test_memory_counts_the_matrices_and_a_small_token_table(bert):
    more = with_tensor(bert, "blk.0.ffn_up.weight", (1000, 1000))
    for config, copies in ((ONE_GRAPH, 2), (SEVERAL, 3)):
        added = support.resident_bytes(more, config) - support.resident_bytes(bert, config)
        assert added == copies * 4 * (1_000_000 - 32 * 64)
    without = replace(bert, tensors={name: t for name, t in bert.tensors.items() if name != "token_embd.weight"})
    kept = bert.tensors["token_embd.weight"].size_bytes
    assert support.resident_bytes(bert, PLAIN) - support.resident_bytes(without, PLAIN) == kept
    large = replace(bert.tensors["token_embd.weight"], size_bytes=65 * 2**20)
    table = replace(bert, tensors=bert.tensors | {"token_embd.weight": large})
    assert support.resident_bytes(table, PLAIN) == support.resident_bytes(without, PLAIN) + 16 * 2**20
    assert support.peak_bytes(bert, PLAIN) > support.resident_bytes(bert, PLAIN)


def test_a_packed_token_table_counts_as_it_is_unpacked(bert):
    without = replace(bert, tensors={name: t for name, t in bert.tensors.items() if name != "token_embd.weight"})
    for kind, n_rows, expected in (("Q6_K", 30_000, 4 * 768 * 30_000), ("Q6_K", 100_000, 16 * 2**20)):
        stored = TensorInfo("token_embd.weight", (768, n_rows), kind, 0, 768 * n_rows // 256 * 210)
        packed = replace(bert, tensors=bert.tensors | {stored.name: stored})
        assert support.resident_bytes(packed, PLAIN) - support.resident_bytes(without, PLAIN) == expected


@pytest.mark.parametrize(("kind", "stored_bytes"), [("F16", 2), ("F32", 4), ("Q8_0", 4)])
def test_memory_follows_the_type_that_runs(bert, monkeypatch, kind, stored_bytes):
    monkeypatch.setattr(weights, "IS_X86", True)
    tensor = TensorInfo("blk.0.extra.weight", (1000, 1000), kind, 0, 1)
    more = replace(bert, tensors=bert.tensors | {tensor.name: tensor})
    for precision, n_bytes in (("bf16", stored_bytes + 2 * 2), ("f32", 3 * 4), ("auto", 3 * 4)):
        config = ModelConfig(compute=ComputeConfig(n_threads=2, precision=precision))
        assert support.resident_bytes(more, config) - support.resident_bytes(bert, config) == n_bytes * 10**6


@pytest.mark.parametrize(("kind", "stored_bytes"), [("F16", 2), ("F32", 4)])
def test_layers_in_float32_are_packed_so_for_each_graph(bert, monkeypatch, kind, stored_bytes):
    monkeypatch.setattr(weights, "IS_X86", True)
    names = ("blk.0.extra.weight", "blk.1.extra.weight", "blk.10.extra.weight", "extra.weight")
    mixed = ModelConfig(compute=ComputeConfig(n_threads=2, precision="bf16", float32_layers=(0,)))
    added = []
    for name in names:
        more = replace(bert, tensors=bert.tensors | {name: TensorInfo(name, (1000, 1000), kind, 0, 1)})
        added.append(support.resident_bytes(more, mixed) - support.resident_bytes(bert, mixed))
    kept, reduced = (stored_bytes + 2 * packed for packed in (4, 2))
    assert added == [n_bytes * 10**6 for n_bytes in (kept, reduced, reduced, reduced)]


def test_layers_in_float32_are_between_all_and_none(bert, monkeypatch):
    def needed(precision: str, *layers: int) -> int:
        config = ModelConfig(compute=ComputeConfig(n_threads=2, precision=precision, float32_layers=layers))
        return support.resident_bytes(bert, config)

    assert needed("bf16") < needed("bf16", 0) < needed("bf16", 0, 1) < needed("f32") == needed("auto")
    monkeypatch.setattr(support, "available_bytes", lambda: 5 * 2**20)
    config = ModelConfig(compute=ComputeConfig(precision="bf16", float32_layers=(0,)))
    assert str(support.refusal(bert, config)).startswith("its BF16 and float32 weights and buffers need")


def test_too_little_memory_for_bf16_is_said_of_bf16(bert, monkeypatch):
    monkeypatch.setattr(support, "available_bytes", lambda: 5 * 2**20)
    found = support.refusal(bert, ModelConfig(compute=ComputeConfig(precision="bf16")))
    assert found is not None
    assert found.startswith("its BF16 weights and buffers need")


def test_a_shorter_limit_needs_less_memory(bert):
    long = with_entries(bert, context_length=8192)
    whole, short = (support.longest_text_bytes(long, ModelConfig(n_ctx=n_ctx)) for n_ctx in (0, 512))
    assert whole >= 16 * short > 0
    assert support.longest_text_bytes(long, ModelConfig(n_ctx=99_999)) == whole


def test_alibis_masks_limit_the_length_of_texts(tmp_path):
    header = read_header(write_gguf("jina_bert_v2", tmp_path / "m.gguf"))
    long = with_entries(header, context_length=65_536)
    n_head = header.get("jina-bert-v2.attention.head_count", int)
    found = support.refusal(long, PLAIN)
    assert found is not None
    needed_mib = 4 * 65_536**2 * n_head // 2**20
    assert f"for texts of 65,536 tokens the masks of jina-bert-v2 take {needed_mib:,} MiB" in found
    assert "the limit is 1,024" in found
    allowed = int(found.rpartition(" ")[2])
    assert allowed >= 512
    assert support.refusal(long, ModelConfig(n_ctx=allowed)) is None
    assert support.refusal(long, ModelConfig(n_ctx=allowed + 256)) is not None


def test_a_model_in_several_files_is_left_to_llama_cpp(bert):
    assert support.refusal(bert, PLAIN) is None
    split = replace(bert, metadata={**bert.metadata, "split.count": 3})
    assert support.refusal(split, PLAIN) == "it reads one file, and this model is split into 3"
