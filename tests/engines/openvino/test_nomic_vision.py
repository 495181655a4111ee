"""nomic-embed-vision's tower gives what the original code gives, beside or inside the file of its text model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gguf_embed.config import ModelConfig
from gguf_embed.convert.convert import convert_directory
from gguf_embed.doctor.examine import examine
from gguf_embed.doctor.findings import Severity
from gguf_embed.engines.llama.driver import LlamaDriver
from gguf_embed.engines.openvino.driver import OpenVinoDriver
from gguf_embed.engines.openvino.graphs.nomic_vision import patch_angles
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.towers import read_model
from gguf_embed.types import OutputSpec, Pooling
from tests.convert.encoders import tiny_models
from tests.convert.encoders.tiny_models import TEXTS, cosines
from tests.data.tower_directories import DATA, write_directory
from tests.engines.openvino.running import Graph
from tests.engines.openvino.test_towers import image_vectors, opened
from tests.nomic_models import write_nomic_text
from tests.tower_models import write_clip_cpp, write_crisp_nomic, write_own

NAME = "nomic_vision"
LEAST_COSINE = 0.99999
MEAN = OutputSpec.of(Pooling.MEAN)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """The text model and the image tower."""
    folder = tmp_path_factory.mktemp("nomic")
    return write_nomic_text(folder), write_own(NAME, folder)


def test_images_beside_a_text_model_have_the_originals_vectors(files):
    expected = np.load(DATA / NAME / "images.npz")["images"]
    with opened(files[0], files[1], Pooling.MEAN) as (_, reader):
        found = image_vectors(reader)
    assert cosines(found, expected).min() > LEAST_COSINE
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_tower_changes_no_text(files):
    with opened(files[0], None, Pooling.MEAN) as (loaded, reader):
        assert reader is None
        ids = [loaded.codec.tokenize(text, add_special=True, parse_special=False) for text in TEXTS]
        alone = Graph(loaded, MEAN).rows(ids)
    with opened(*files, Pooling.MEAN) as (loaded, _):
        np.testing.assert_array_equal(Graph(loaded, MEAN).rows(ids), alone)


def test_crispembeds_layout_gives_the_same(files, tmp_path):
    crisp = write_crisp_nomic(files[1], tmp_path / "crisp.gguf")
    with opened(*files, Pooling.MEAN) as (_, reader):
        images = image_vectors(reader)
    with opened(files[0], crisp, Pooling.MEAN) as (_, reader):
        np.testing.assert_allclose(image_vectors(reader), images, atol=1e-5)


@pytest.mark.parametrize("name", [NAME, "siglip"])
def test_a_quantized_tower_stays_close(name, tmp_path, files):
    path = write_own(name, tmp_path, "q8_0")
    model = (files[0], path, Pooling.MEAN) if name == NAME else (path,)
    with opened(*model) as (_, reader):
        found = image_vectors(reader)
    stored = "images.npz" if name == NAME else "reference.npz"
    assert cosines(found, np.load(DATA / name / stored)["images"]).min() > 0.99


def test_one_file_with_both_gives_the_same(files, tmp_path):
    path, text = tmp_path / "both.gguf", tiny_models.write_directory("nomic_bert", tmp_path / "text")
    convert_directory(
        text, path, "f32", report=lambda line: None, image_tower=write_directory(NAME, tmp_path / "tower")
    )
    with opened(*files, Pooling.MEAN) as (loaded, reader):
        ids = [loaded.codec.tokenize(text, add_special=True, parse_special=False) for text in TEXTS]
        texts, images = Graph(loaded, MEAN).rows(ids), image_vectors(reader)
    with opened(path, None, Pooling.MEAN) as (loaded, reader):
        np.testing.assert_array_equal(Graph(loaded, MEAN).rows(ids), texts)
        np.testing.assert_array_equal(image_vectors(reader), images)
    header = read_model(path)
    assert header.tensors.keys() == read_model(files[0]).tensors.keys()
    assert "one vector" in (LlamaDriver().refusal(header, ModelConfig()) or "")
    assert [finding.message for finding in examine(path).findings if finding.severity is Severity.SERIOUS] == []


def test_patches_are_rotated_by_row_then_by_column():
    angles = patch_angles(2, (4, 2), 100.0, 2)
    assert angles.tolist() == [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 1, 0.1],
        [2, 0.2, 0, 0],
        [2, 0.2, 1, 0.1],
    ]


def test_a_tower_of_another_width_is_refused(files, tmp_path):
    other = write_clip_cpp(write_own("clip_quick", tmp_path), tmp_path / "v.gguf", "v")
    with (
        pytest.raises(ModelFileError, match="vectors of images have 24 numbers, those of texts 64"),
        opened(files[0], other, Pooling.MEAN),
    ):
        pass


def test_llama_leaves_such_a_tower_to_openvino_and_openvino_any_other_to_llama(files, tmp_path):
    text = read_model(files[0])
    config = ModelConfig(mmproj=files[1])
    assert OpenVinoDriver().refusal(text, config) is None
    assert "one vector" in (LlamaDriver().refusal(text, config) or "")
    config = ModelConfig(mmproj=tmp_path / "missing.gguf")
    assert "reads text only" in (OpenVinoDriver().refusal(text, config) or "")
    assert LlamaDriver().refusal(text, config) is None
