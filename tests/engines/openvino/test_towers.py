"""CLIP's towers give what transformers gives, from the original's files and from each layout of a GGUF."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.engines.base import ImageReader, KeepsBuffers, LoadedEngine
from gguf_embed.engines.openvino import precision, runtime, stored_constants
from gguf_embed.engines.openvino.driver import OpenVinoDriver
from gguf_embed.engines.openvino.graphs.image_tower import build_image_network
from gguf_embed.engines.openvino.images import TowerReader, find_tower, pixel_form
from gguf_embed.engines.openvino.weights import GraphWeights
from gguf_embed.errors import EngineFailure, InvalidRequest, ModelFileError, NotSupported
from gguf_embed.gguf_file import towers
from gguf_embed.gguf_file.header import read_header
from gguf_embed.types import FloatMatrix, ImageInput, OutputSpec, Pooling
from gguf_embed.vectors import Rows
from tests.convert.encoders.tiny_models import cosines
from tests.data.tower_directories import DATA
from tests.engines.openvino.running import Graph, kib_in_memory, load_spec, nodes_of
from tests.tower_models import write_clip_cpp, write_crisp_image, write_crisp_text, write_own
from tests.vision_models import noise, png

MODELS = sorted(path.name for path in DATA.iterdir() if (path / "reference.npz").is_file())
PICTURES = sorted((DATA / "pictures").iterdir())
TEXTS: list[str] = json.loads((DATA / "texts.json").read_text("utf-8"))
LAST = OutputSpec.of(Pooling.LAST)
LEAST_COSINE = 0.99999


@contextmanager
def opened(
    path: Path, mmproj: Path | None = None, pooling: Pooling = Pooling.LAST
) -> Iterator[tuple[LoadedEngine, ImageReader | None]]:
    spec = load_spec(path, pooling, mmproj=mmproj)
    driver = OpenVinoDriver()
    assert driver.refusal(spec.header, spec.config) is None
    loaded = driver.load(spec)
    with closing(loaded.engine):
        reader = loaded.open_images() if loaded.open_images is not None else None
        yield loaded, reader
        if reader is not None:
            reader.close()


def tokenized(loaded: LoadedEngine) -> list[list[int]]:
    assert loaded.exact is not None
    return loaded.exact.tokenize_batch(TEXTS)


def text_vectors(loaded: LoadedEngine) -> FloatMatrix:
    longest = loaded.engine.info.n_ctx_train
    cut = [ids if len(ids) <= longest else [*ids[: longest - 1], ids[-1]] for ids in tokenized(loaded)]
    return Graph(loaded, LAST).rows(cut)


def image_vectors(reader: ImageReader | None, files: list[Path] = PICTURES) -> FloatMatrix:
    assert reader is not None
    images = [ImageInput(index, (file.read_bytes(),)) for index, file in enumerate(files)]
    outputs = [found.output for found in reader.embed_batch(images, LAST)]
    return Rows.join([output for output in outputs if isinstance(output, Rows)]).matrix


@pytest.mark.parametrize("name", MODELS)
def test_ids_and_vectors_are_those_of_the_original(tmp_path, name):
    reference = np.load(DATA / name / "reference.npz")
    with opened(write_own(name, tmp_path)) as (loaded, reader):
        expected = np.split(reference["ids"], np.cumsum(reference["n_ids"])[:-1])
        assert tokenized(loaded) == [ids.tolist() for ids in expected]
        assert cosines(text_vectors(loaded), reference["texts"]).min() > LEAST_COSINE
        found = image_vectors(reader)
    by_file = dict(zip([file.name for file in PICTURES], cosines(found, reference["images"]), strict=True))
    assert {file: float(cosine) for file, cosine in by_file.items() if cosine < LEAST_COSINE} == {}
    np.testing.assert_allclose(found, reference["images"], atol=1e-3)


@pytest.mark.skipif(not runtime.computes_bf16(), reason="this CPU has no BF16 instructions")
@pytest.mark.parametrize("name", [*MODELS, "nomic_vision"])
def test_what_is_exact_in_a_tower_runs_in_float32(tmp_path, name):
    """The products of the patches and of the projection, with and without a bias; those for residuals only write it."""
    tower = towers.image_tower(read_header(write_own(name, tmp_path)))
    assert tower is not None
    weights = GraphWeights(tower, for_bf16=True)
    network = build_image_network(weights, pixel_form(weights))
    exact, unrounded = (
        {node.get_friendly_name() for node in marked} for marked in (network.marks.exact, network.marks.unrounded)
    )
    graph = runtime.compile_graph(precision.keep_exact(network.model, network.marks), runtime.REDUCED, 1, 1)
    found = {name: node.precision for node in nodes_of(graph) for name in exact & node.names}
    assert found == dict.fromkeys(exact, "f32")
    residuals = [(node.kind, node.precision, node.written) for node in nodes_of(graph) if node.names & unrounded]
    n_expected = 2 * weights.n_layer() if weights.may_write_float32 else 0
    assert residuals == [("FullyConnected", "bf16", "f32")] * n_expected


@pytest.mark.parametrize("configured", ["auto", "bf16"])
def test_a_tower_that_cannot_be_marked_for_bf16_runs_in_float32_unless_bf16_is_configured(
    tmp_path, monkeypatch, configured
):
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(precision, "serialize", no_space)
    spec = load_spec(write_own("clip_quick", tmp_path), Pooling.LAST, configured)
    tower, expected = find_tower(spec), np.load(DATA / "clip_quick" / "reference.npz")["images"]
    assert tower is not None
    if configured == "bf16":
        with pytest.raises(EngineFailure, match="BF16 needs a folder for temporary files"):
            TowerReader(tower, spec, expected.shape[1], "bf16")
    else:
        found = image_vectors(TowerReader(tower, spec, expected.shape[1], "bf16"))
        assert cosines(found, expected).min() > LEAST_COSINE


def test_other_layouts_give_the_same(tmp_path):
    own = write_own("clip_quick", tmp_path)
    both = write_clip_cpp(own, tmp_path / "both.gguf")
    text, image = write_clip_cpp(own, tmp_path / "t.gguf", "t"), write_clip_cpp(own, tmp_path / "v.gguf", "v")
    crisp = write_crisp_text(own, tmp_path / "ct.gguf"), write_crisp_image(own, tmp_path / "ci.gguf")
    with opened(own) as (loaded, reader):
        texts, images = text_vectors(loaded), image_vectors(reader)
    for path, mmproj in ((both, None), (text, image), (text, crisp[1]), crisp):
        with opened(path, mmproj) as (loaded, reader):
            np.testing.assert_allclose(text_vectors(loaded), texts, atol=1e-5)
            np.testing.assert_allclose(image_vectors(reader), images, atol=1e-5)


def test_a_gelu_without_a_name_is_read_off_the_flag(tmp_path):
    own = write_own("clip_gelu", tmp_path)
    with opened(own) as (loaded, _):
        texts = text_vectors(loaded)
    with opened(write_clip_cpp(own, tmp_path / "both.gguf")) as (loaded, _):
        np.testing.assert_allclose(text_vectors(loaded), texts, atol=1e-5)


def test_an_image_is_the_same_alone_and_among_others(tmp_path):
    with opened(write_own("clip_quick", tmp_path)) as (_, reader):
        together = image_vectors(reader)
        alone = np.concatenate([image_vectors(reader, [file]) for file in PICTURES])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_matrices_that_came_back_are_freed(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_constants, "MIN_BYTES", 1)
    with opened(write_own("clip_quick", tmp_path)) as (_, reader):
        before = image_vectors(reader)
        assert isinstance(reader, KeepsBuffers)
        n_files = sum(kib > 0 for kib in kib_in_memory().values())
        reader.release_buffers()
        assert sum(kib > 0 for kib in kib_in_memory().values()) == n_files - (sys.platform == "linux")
        np.testing.assert_array_equal(image_vectors(reader), before)
    reader.release_buffers()  # closed


def test_a_text_tower_alone_reads_no_images(tmp_path):
    text = write_clip_cpp(write_own("clip_quick", tmp_path), tmp_path / "t.gguf", "t")
    with opened(text) as (_, reader):
        assert reader is None


def test_only_the_models_own_image_tower_is_taken(tmp_path):
    text = write_clip_cpp(write_own("clip_quick", tmp_path), tmp_path / "t.gguf", "t")
    wider = write_clip_cpp(write_own("clip_gelu", tmp_path), tmp_path / "v.gguf", "v")
    with (
        pytest.raises(ModelFileError, match="vectors of images have 32 numbers, those of texts 24"),
        opened(text, wider),
    ):
        pass
    with pytest.raises(ModelFileError, match="is not the image tower of a CLIP"), opened(text, text):
        pass


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ((png(noise(1))[:-20],), "damaged PNG"),
        ((b"GIF89a\x01\x00\x01\x00",), "neither a PNG nor a JPEG"),
        ((png(noise(1)), png(noise(2))), "input 3 has more than one image or text"),
        ((png(noise(1)), "a cat"), "input 3 has more than one image or text"),
    ],
)
def test_what_is_no_single_picture_is_refused(tmp_path, parts, problem):
    with opened(write_own("clip_quick", tmp_path)) as (_, reader):
        assert reader is not None
        with pytest.raises(InvalidRequest, match=problem):
            reader.embed_batch([ImageInput(3, parts)], LAST)
        with pytest.raises(NotSupported, match="only one vector each"):
            reader.embed_batch([ImageInput(3, (png(noise(1)),))], OutputSpec.of(Pooling.NONE))
