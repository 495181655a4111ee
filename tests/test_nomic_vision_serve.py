"""nomic-embed-vision beside or inside its text model: texts, with prompts, and images together, on every route."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_embed.convert.convert import convert_directory
from tests.convert.encoders import tiny_models
from tests.data.tower_directories import DATA, write_directory
from tests.nomic_models import write_nomic_text
from tests.server_process import start_server, stop
from tests.test_towers_serve import IMAGES, JPEG, PNG, assert_near, image_part, text_part
from tests.tower_models import write_own

pytest.importorskip("openvino")
pytestmark = pytest.mark.process

TEXTS = ["a photo of a cat", "two dogs running on the beach"]
FLAGS = ("--precision", "f32", "--engine", "openvino")


@pytest.fixture(scope="module")
def images():
    return np.load(DATA / "nomic_vision" / "images.npz")["images"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The text model as anybody's converter writes it, and `--mmproj`."""
    folder = tmp_path_factory.mktemp("pair")
    text = write_nomic_text(folder).rename(folder / "nomic-embed-text-v1.5.gguf")
    server = start_server(folder / "cache", "-m", text, "--mmproj", write_own("nomic_vision", folder), *FLAGS)
    yield server
    stop(server)


@pytest.fixture(scope="module")
def joined_file(tmp_path_factory):
    """Both in one file."""
    folder = tmp_path_factory.mktemp("joined")
    path = folder / "nomic-embed-vision-v1.5.gguf"
    text = tiny_models.write_directory("nomic_bert", folder / "text")
    tower = write_directory("nomic_vision", folder / "tower")
    convert_directory(text, path, "f32", report=lambda line: None, image_tower=tower)
    return path


@pytest.fixture(scope="module")
def joined(joined_file):
    server = start_server(joined_file.parent / "cache", "-m", joined_file, *FLAGS)
    yield server
    stop(server)


@pytest.fixture(params=["pair", "joined"])
def server(request):
    return request.getfixturevalue(request.param)


def test_texts_and_images_in_one_request_share_a_space(server, images):
    texts = server.embed(TEXTS)
    mixed = server.embed([TEXTS[0], *({"image": url} for url in IMAGES), TEXTS[1]])
    assert_near(mixed[1:-1], images)
    np.testing.assert_allclose(mixed[[0, -1]], texts, atol=1e-5)
    assert server.get("/props").json()["modalities"]["vision"] is True


def test_one_file_is_computed_in_the_engines_own_process(joined_file, joined, images, tmp_path):
    server = start_server(tmp_path / "cache", "-m", joined_file, *FLAGS, "--isolate")
    try:
        mixed = server.embed([TEXTS[0], *({"image": url} for url in IMAGES)])
        assert_near(mixed[1:], images)
        np.testing.assert_allclose(mixed[:1], joined.embed(TEXTS[:1]), atol=1e-5)
    finally:
        stop(server)


def test_the_start_says_what_reads_images(pair, joined):
    assert "images   nomic_vision.gguf" in pair.banner
    assert "images   the tower in its file" in joined.banner


def test_prompts_are_added_to_texts_only(server, images):
    body = {"input": [TEXTS[0], {"image": IMAGES[PNG]}], "input_type": "query"}
    reply = server.post("/v1/embeddings", body)
    np.testing.assert_allclose(reply.vectors()[:1], server.embed([f"search_query: {TEXTS[0]}"]), atol=1e-5)
    assert_near(reply.vectors()[1:], images[PNG : PNG + 1])


@pytest.mark.parametrize(
    "body",
    [
        {"input": [{"text": TEXTS[0]}, {"image": IMAGES[PNG]}]},
        {"input": [{"content": [text_part(TEXTS[0])]}, {"content": [image_part(IMAGES[PNG])]}]},
    ],
)
def test_each_shape_of_openais_route_gives_the_same(server, images, body):
    vectors = server.post("/v1/embeddings", body).vectors()
    np.testing.assert_allclose(vectors[:1], server.embed(TEXTS[:1]), atol=1e-5)
    assert_near(vectors[1:], images[PNG : PNG + 1])


def test_vllms_messages_and_infinitys_modality(server, images):
    body = {"messages": [{"role": "user", "content": [image_part(IMAGES[JPEG])]}]}
    assert_near(server.post("/v1/embeddings", body).vectors(), images[JPEG : JPEG + 1])
    body = {"model": "nomic", "input": [IMAGES[PNG]], "modality": "image"}
    assert_near(server.post("/embeddings", body).vectors(), images[PNG : PNG + 1])


def test_coheres_and_voyages_routes(server, images):
    inputs = [{"content": [text_part(TEXTS[0])]}, {"content": [image_part(IMAGES[JPEG])]}]
    body = {"inputs": inputs, "input_type": "search_query", "embedding_types": ["float"]}
    found = np.array(server.post("/v2/embed", body).json()["embeddings"]["float"], np.float32)
    np.testing.assert_allclose(found[:1], server.embed([f"search_query: {TEXTS[0]}"]), atol=1e-5)
    assert_near(found[1:], images[JPEG : JPEG + 1])
    reply = server.post("/v1/multimodalembeddings", {"inputs": inputs, "model": "voyage-multimodal-3"}).json()
    assert_near([reply["data"][1]["embedding"]], images[JPEG : JPEG + 1])
