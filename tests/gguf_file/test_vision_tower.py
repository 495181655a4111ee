"""Which files are accepted as a vision tower."""

from dataclasses import replace

import pytest

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.vision_tower import check_tower
from tests.gguf_models import write_tiny_encoder
from tests.vision_models import write_tiny_mmproj, write_tiny_qwen2vl_tower


def test_a_tower_of_either_kind_is_accepted(tmp_path):
    check_tower(read_header(write_tiny_mmproj(tmp_path / "a.gguf")))
    check_tower(read_header(write_tiny_qwen2vl_tower(tmp_path / "b.gguf")))


def test_a_text_model_is_none(tmp_path):
    with pytest.raises(ModelFileError, match=r"--mmproj .*text\.gguf is a bert model, not a vision tower"):
        check_tower(read_header(write_tiny_encoder(tmp_path / "text.gguf")))


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("clip.has_vision_encoder", False, "no vision encoder"),
        ("clip.vision.patch_size", 0, r"clip\.vision\.patch_size is 0, expected at least 1"),
        ("clip.vision.attention.head_count", 0, r"clip\.vision\.attention\.head_count is 0"),
        ("clip.vision.image_size", "large", r"clip\.vision\.image_size is None"),
    ],
)
def test_a_header_that_llama_cpp_would_trip_over_is_refused(tmp_path, key, value, problem):
    header = read_header(write_tiny_mmproj(tmp_path / "tower.gguf"))
    with pytest.raises(ModelFileError, match=problem):
        check_tower(replace(header, metadata={**header.metadata, key: value}))
