"""Image towers of nomic-embed-vision: what is written, and which variants are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gguf_embed.convert.convert import convert_directory
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.towers import IMAGE, image_tower
from tests.convert.encoders.tiny_models import change_json
from tests.data.tower_directories import write_directory


def convert(folder: Path, outtype: str = "f16", **config: object) -> Path:
    source = write_directory("nomic_vision", folder / "source")
    stored = json.loads((source / "config.json").read_text("utf-8")) | config
    (source / "config.json").write_text(json.dumps(stored), "utf-8")
    convert_directory(source, folder / "m.gguf", outtype, report=lambda line: None)
    return folder / "m.gguf"


def test_the_tower_has_its_sizes_and_how_it_reads_pictures(tmp_path):
    tower = image_tower(read_header(convert(tmp_path)))
    assert tower is not None
    expected = {
        "embedding_length": 64, "embedding_length_out": 64, "feed_forward_length": 256, "block_count": 2,
        "attention.head_count": 4, "image_size": 32, "patch_size": 8, "resize": "crop", "hidden_activation": "silu",
        "rope.freq_base": 10_000.0, "rope.reference_height": 6, "rope.reference_width": 6,
    }  # fmt: skip
    assert {key: tower.metadata.get(f"{IMAGE}.{key}") for key in expected} == expected


def test_what_affects_every_row_is_not_rounded(tmp_path):
    tensors = read_header(convert(tmp_path, "q8_0")).tensors
    types = {name: tensors[name].type for name in ("v.class_embd", "v.head.probe", "v.position_embd.weight")}
    assert set(types.values()) == {"F32"}
    assert tensors["v.blk.0.attn_qkv.weight"].type == "Q8_0"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation_function", "gelu"),
        ("prenorm", None),
        ("use_rotary_pos_emb", None),
        ("norm_mlp", False),
        ("global_pool", "avg"),
        ("register_tokens", 4),
        ("learned_pos_embedding", True),
        ("rotary_emb_fraction", 1.0),
        ("no_cls_token", True),
        ("ref_feat_shape", [14]),
    ],
)
def test_variants_that_no_graph_computes_are_named(tmp_path, key, value):
    with pytest.raises(ModelFileError, match=rf"config\.json: {key} "):
        convert(tmp_path, **{key: value})


def test_a_processor_with_other_steps_is_refused(tmp_path):
    source = write_directory("nomic_vision", tmp_path / "source")
    change_json(source / "preprocessor_config.json", size={"shortest_edge": 36})
    with pytest.raises(ModelFileError, match="only 32 for both"):
        convert_directory(source, tmp_path / "m.gguf", "f16", report=lambda line: None)
