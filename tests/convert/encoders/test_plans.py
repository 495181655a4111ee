"""What a converter decides from a config, and what it refuses by name."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguf_embed.convert.architectures import SUPPORTED
from gguf_embed.convert.convert import choose_outtype, convert_directory
from gguf_embed.convert.encoder import TensorNames
from gguf_embed.convert.modern_bert import global_every
from gguf_embed.convert.plan import matrix_type
from gguf_embed.convert.source import ModelSourceDirectory
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.facts import has_rank_head, pooling_type
from gguf_embed.gguf_file.header import read_header
from gguf_embed.types import Pooling
from tests.convert.bert_directory import random_weights, write_bert_directory
from tests.convert.encoders import tiny_models as tiny
from tests.data.tiny_weights import write_safetensors

Type = gguf.GGMLQuantizationType
GLOBAL, LOCAL = "full_attention", "sliding_attention"


def ignore(_: str) -> None:
    pass


def convert(source: Path, outtype: str = "f32") -> dict:
    convert_directory(source, source.parent / "m.gguf", outtype, report=ignore)
    return read_header(source.parent / "m.gguf").metadata


def write_modules(source: Path, *modules: tuple[str, str]) -> None:
    entries = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path) in enumerate(modules)]
    (source / "modules.json").write_text(json.dumps(entries))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mpnet", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets 64 cannot be .* .only 32"),
        ("t5_gated", {"feed_forward_proj": "gated-silu"}, "feed_forward_proj 'gated-silu'"),
        ("t5_gated", {"relative_attention_max_distance": 256}, "relative_attention_max_distance 256"),
        ("t5_relu", {"feed_forward_proj": "gated-gelu"}, "ffn_gate.weight should be .96, 64., but it is missing"),
        (
            "bert",
            {"architectures": ["ElectraModel"]},
            "ElectraModel cannot be converted: ",
        ),
        ("bert", {"architectures": ["JinaBertForMaskedLM"]}, "use a ready GGUF"),
        ("bert", {"architectures": ["CLIPTextModel"]}, "only whole models are converted"),
        ("bert", {"architectures": ["LlamaModel"]}, f"LlamaModel cannot be converted .supported: {SUPPORTED[0]}"),
        ("bert", {"architectures": None, "model_type": None}, "no architecture cannot be converted"),
        ("distilbert", {"activation": "relu"}, "activation 'relu'"),
        ("bert", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, .* 1 to 512"),
        ("bert", {"num_attention_heads": 5}, "64 dimensions .* 5 heads"),
        ("bert", {"layer_norm_eps": -1}, "layer_norm_eps is -1, expected a number above 0"),
        ("roberta", {"pad_token_id": 10**30}, "pad_token_id is 10{30}, .* 0$"),
        ("modern_bert", {"rope_parameters": {GLOBAL: {"rope_theta": "x"}}}, "rope_theta is 'x', expected a number"),
        ("roberta", {"position_embedding_type": "rotary"}, "position_embedding_type 'rotary'"),
        ("jina_v3", {"position_embedding_type": "absolute"}, "position_embedding_type 'absolute'"),
        ("jina_v3", {"lora_rank": None}, "lora_rank is None, expected an integer"),
        ("jina_v3", {"lora_rank": 3}, "lora_a.weight should be .432, 9., but it is .432, 12."),
        ("jina_v3", {"lora_adaptations": ["a"]}, "lora_a.weight should be .432, 4., but it is .432, 12."),
        ("jina_v3", {"lora_adaptations": [1]}, r"lora_adaptations is \[1\], expected a list of names"),
        ("jina_v3", {"task_instructions": {"a": 1}}, "task_instructions is .*, expected an object of strings"),
        ("gte", {"rope_scaling": {"type": "ntk", "factor": 2, "mixed_b": 1}}, "rope_scaling with mixed_b"),
        ("gte", {"logn_attention_scale": True}, "logn_attention_scale True"),
        ("deberta_v2", {"pos_att_type": "c2p"}, "pos_att_type 'c2p'"),
        ("deberta_v2", {"share_att_key": False}, "share_att_key False"),
        ("deberta_v2", {"norm_rel_ebd": None}, "a DeBERTa without norm_rel_ebd"),
        ("deberta_v2", {"conv_kernel_size": 3}, "conv_kernel_size 3"),
        ("deberta_v2_reranker", {"type_vocab_size": 2}, "cross-encoder with type_vocab_size 2"),
        ("roberta", {"is_decoder": True}, "decoder"),
        ("nomic_bert", {"moe_every_n_layers": 2}, "NomicBertModel with moe_every_n_layers cannot be converted"),
        ("nomic_bert", {"prenorm": True}, "prenorm True"),
        ("nomic_bert", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
        ("modern_bert", {"norm_bias": True}, "norm_bias True cannot be converted .only False"),
        ("modern_bert", {"hidden_activation": "relu"}, "hidden_activation 'relu'"),
        ("modern_bert", {"layer_types": [LOCAL, GLOBAL, LOCAL, GLOBAL]}, "layer_types cannot be converted"),
        ("modern_bert_reranker", {"classifier_activation": "relu"}, "classifier_activation 'relu'"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused_by_name(tmp_path, name, change, message):
    source = tiny.write_directory(name, tmp_path / "hf", **change)
    with pytest.raises(ModelFileError, match=message):
        convert_directory(source, tmp_path / "m.gguf", "f32", report=ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_classifier_with_a_pooling_is_made_for_vectors(tmp_path):
    source = tiny.write_directory("bert", tmp_path / "hf", architectures=["BertForSequenceClassification"])
    convert(source)
    header = read_header(tmp_path / "m.gguf")
    assert pooling_type(header) is Pooling.MEAN
    assert not has_rank_head(header)


def test_a_head_that_is_declared_but_missing_is_named(tmp_path):
    source = tiny.write_directory("bert", tmp_path / "hf", architectures=["BertForSequenceClassification"])
    (source / "modules.json").unlink()
    with pytest.raises(ModelFileError, match=r"declares a classification head, but classifier\.weight is missing"):
        convert(source)


def test_tensors_left_from_training_are_ignored(tmp_path):
    source = tiny.write_directory("roberta", tmp_path / "hf")
    weights = {f"roberta.{name}": values for name, values in tiny.weights_of("roberta").items()}
    extra = ("lm_head.bias", "roberta.pooler.dense.bias", "classifier.out_proj.bias", "roberta.embeddings.position_ids")
    write_safetensors(source / "model.safetensors", weights | {name: np.zeros(3, np.float32) for name in extra})
    convert(source)
    stray = weights | {"roberta.encoder.layer.0.adapter.weight": np.zeros(3, np.float32)}
    write_safetensors(source / "model.safetensors", stray)
    with pytest.raises(ModelFileError, match=r"tensor roberta.encoder.layer.0.adapter.weight is unknown"):
        convert(source)


def test_labels_come_in_the_order_of_their_numbers(tmp_path):
    labels = {"2": "neutral", "0": "no", "10": "never", "1": "yes"}
    source = tiny.write_directory("roberta_reranker", tmp_path / "hf", id2label=labels)
    assert convert(source)["bert.classifier.output_labels"] == ("no", "yes", "neutral")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([("sentence_transformers.models.Dense", "2_Dense")], "Dense module after the pooling cannot be converted"),
        ([("sentence_transformers.models.CNN", "2_CNN")], "its module CNN cannot be converted"),
    ],
)
def test_steps_after_the_pooling_are_never_left_out_silently(tmp_path, change, message):
    source = tiny.write_directory("bert", tmp_path / "hf")
    first = [("sentence_transformers.models.Transformer", ""), ("sentence_transformers.models.Pooling", "1_Pooling")]
    write_modules(source, *first, *change)
    with pytest.raises(ModelFileError, match=message):
        convert(source)


def test_prompts_and_the_longest_text_are_written(tmp_path):
    found = convert(tiny.write_directory("bert", tmp_path / "hf"))
    assert {key: value for key, value in found.items() if key.startswith("gguf-embed.")} == {
        "gguf-embed.prompt.query": "search_query: ",
        "gguf-embed.prompt.document": "search_document: ",
        "gguf-embed.prompt_default": "query",
        "gguf-embed.max_sequence_length": 100,
    }


def test_the_files_of_sentence_transformers_6_are_read(tmp_path):
    source = tiny.write_directory("bert", tmp_path / "hf")
    write_modules(
        source,
        ("sentence_transformers.base.modules.transformer.Transformer", ""),
        ("sentence_transformers.sentence_transformer.modules.pooling.Pooling", "1_Pooling"),
    )
    (source / "1_Pooling" / "config.json").write_text(json.dumps({"embedding_dimension": 64, "pooling_mode": "cls"}))
    (source / "sentence_bert_config.json").write_text(json.dumps({"transformer_task": "feature-extraction"}))
    tiny.change_json(source / "tokenizer_config.json", model_max_length=77)
    found = convert(source)
    assert (found["bert.pooling_type"], found["gguf-embed.max_sequence_length"]) == (2, 77)


@pytest.mark.parametrize("length", [256, 512, 10**30, None, 0, "100"])
def test_a_maximum_length_not_below_the_context_is_not_written(tmp_path, length):
    source = tiny.write_directory("bert", tmp_path / "hf")
    (source / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length}))
    assert "gguf-embed.max_sequence_length" not in convert(source)


def test_prompts_that_are_not_strings_are_refused(tmp_path):
    source = tiny.write_directory("bert", tmp_path / "hf")
    tiny.change_json(source / "config_sentence_transformers.json", prompts={"query": 1})
    with pytest.raises(ModelFileError, match=r"config_sentence_transformers\.json: prompts is \{'query': 1\}"):
        convert(source)


@pytest.mark.parametrize(("stored", "chosen"), [("F32", "f16"), ("F16", "f16"), ("BF16", "bf16")])
def test_auto_keeps_sixteen_bits(tmp_path, stored, chosen):
    source = write_bert_directory(tmp_path / "hf", random_weights(), dtype=stored)
    assert choose_outtype(source, "auto") == chosen
    assert convert(source, "auto")["general.file_type"] == {"f16": 1, "bf16": 32}[chosen]
    assert choose_outtype(source, "q8_0") == "q8_0"


def test_progress_is_reported_in_bytes(tmp_path):
    steps: list[tuple[int, int]] = []
    source, output = tiny.write_directory("bert", tmp_path / "hf"), tmp_path / "m.gguf"
    convert_directory(source, output, "f32", report=lambda line: None, progress=lambda *step: steps.append(step))
    written = [done for done, _ in steps]
    assert written == sorted(written)
    assert {total for _, total in steps} == {written[-1]}
    assert len(steps) > 3


@pytest.mark.parametrize(
    ("outtype", "shape", "expected"),
    [
        ("f32", (3, 64), Type.F32),
        ("f16", (3, 64), Type.F16),
        ("bf16", (3, 64), Type.BF16),
        ("q8_0", (3, 64), Type.Q8_0),
        ("q8_0", (64, 33), Type.F16),
    ],
)
def test_a_matrix_takes_the_type_that_its_rows_allow(outtype, shape, expected):
    assert matrix_type(outtype, shape) == expected


def test_rows_that_q8_0_cannot_hold_are_f16(tmp_path):
    weights = random_weights()
    for layer in range(2):
        at = f"encoder.layer.{layer}"
        weights[f"{at}.intermediate.dense.weight"] = weights[f"{at}.intermediate.dense.weight"][:40].copy()
        weights[f"{at}.intermediate.dense.bias"] = weights[f"{at}.intermediate.dense.bias"][:40].copy()
        weights[f"{at}.output.dense.weight"] = weights[f"{at}.output.dense.weight"][:, :40].copy()
    convert(write_bert_directory(tmp_path / "hf", weights, intermediate_size=40), "q8_0")
    types = {name: tensor.type for name, tensor in read_header(tmp_path / "m.gguf").tensors.items()}
    assert types["blk.0.ffn_down.weight"] == "F16"
    assert types["blk.0.ffn_up.weight"] == types["token_embd.weight"] == "Q8_0"


@pytest.mark.parametrize(
    ("config", "n_layer", "expected"),
    [
        ({}, 22, 3),
        ({"global_attn_every_n_layers": 2}, 22, 2),
        ({"layer_types": [GLOBAL, LOCAL, LOCAL, GLOBAL, LOCAL]}, 5, 3),
        ({"layer_types": [GLOBAL, GLOBAL]}, 2, 1),
        ({"layer_types": [GLOBAL, LOCAL, LOCAL]}, 3, 3),
        ({"layer_types": [GLOBAL]}, 1, 1),
    ],
)
def test_global_layers_come_at_a_regular_distance(config, n_layer, expected):
    assert global_every(ModelSourceDirectory(Path("m"), config), n_layer) == expected


@pytest.mark.parametrize(
    "layers", [[LOCAL, GLOBAL], [GLOBAL, LOCAL, GLOBAL, GLOBAL], [GLOBAL, "other"], [GLOBAL, LOCAL]]
)
def test_layers_in_another_order_are_refused(layers):
    n_layer = 3 if layers == [GLOBAL, LOCAL] else len(layers)
    with pytest.raises(ModelFileError, match="layer_types cannot be converted"):
        global_every(ModelSourceDirectory(Path("m"), {"layer_types": layers}), n_layer)


NAMES = TensorNames("bert.", "encoder.layer.", {"embeddings.LayerNorm": "norm"}, {"output.dense": "down"}, ("pooler.",))


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        ("embeddings.LayerNorm.weight", "norm.weight"),
        ("bert.embeddings.LayerNorm.gamma", "norm.weight"),
        ("embeddings.LayerNorm.beta", "norm.bias"),
        ("bert.encoder.layer.11.output.dense.bias", "blk.11.down.bias"),
        ("bert.pooler.dense.weight", ""),
        ("pooler.dense.weight", ""),
        ("encoder.layer.1.other.weight", None),
        ("encoder.layer.x.output.dense.weight", None),
        ("encoder.layers.1.output.dense.weight", None),
        ("classifier.weight", None),
    ],
)
def test_names_are_looked_up_in_the_familys_table(original, expected):
    assert NAMES.find(original) == expected
