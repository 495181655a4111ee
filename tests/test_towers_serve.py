"""A CLIP behind every route that takes texts and images, from the original's files to vectors in one space."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from tests.convert.encoders.tiny_models import cosines
from tests.data.tower_directories import DATA
from tests.server_process import start_server, stop
from tests.tower_models import write_crisp_image, write_crisp_text, write_own

pytest.importorskip("openvino")
pytestmark = pytest.mark.process

PICTURES = sorted((DATA / "pictures").iterdir())
TEXTS: list[str] = json.loads((DATA / "texts.json").read_text("utf-8"))
SHORT = TEXTS[:-1]  # without the one over 77 tokens
NAMES = [file.name for file in PICTURES]
PNG, JPEG = NAMES.index("wide.png"), NAMES.index("tall.jpg")


def b64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def data_url(file: Path) -> str:
    return f"data:image/{'png' if file.suffix == '.png' else 'jpeg'};base64,{b64(file)}"


IMAGES = [data_url(file) for file in PICTURES]


def image_part(url: str) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url}}


def text_part(text: str) -> dict[str, object]:
    return {"type": "text", "text": text}


@pytest.fixture(scope="module")
def reference():
    return np.load(DATA / "clip_quick" / "reference.npz")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    own = write_own("clip_quick", folder)
    server = start_server(tmp_path_factory.mktemp("cache"), "-m", own, "--precision", "f32")
    yield server
    stop(server)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """CrispEmbed's two files."""
    folder = tmp_path_factory.mktemp("crisp")
    own = write_own("clip_quick", folder)
    text, image = write_crisp_text(own, folder / "text.gguf"), write_crisp_image(own, folder / "image.gguf")
    server = start_server(tmp_path_factory.mktemp("cache"), "-m", text, "--mmproj", image, "--precision", "f32")
    yield server
    stop(server)


def message(reply):
    return reply.json()["error"]["message"]


def assert_near(vectors, expected):
    assert cosines(np.asarray(vectors, np.float32), expected).min() > 0.9999


def test_texts_and_images_in_one_request_have_the_originals_vectors(server, reference):
    mixed = [*SHORT, *({"content": [image_part(url)]} for url in IMAGES)]
    vectors = server.embed(mixed)
    assert_near(vectors[: len(SHORT)], reference["texts"][: len(SHORT)])
    assert_near(vectors[len(SHORT) :], reference["images"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(server.embed(SHORT), vectors[: len(SHORT)], atol=1e-5)


def test_two_files_make_one_model(pair, server, reference):
    assert_near(pair.embed([{"content": [image_part(IMAGES[PNG])]}]), reference["images"][PNG : PNG + 1])
    np.testing.assert_allclose(pair.embed(SHORT), server.embed(SHORT), atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        {"input": [{"text": TEXTS[0]}, {"image": IMAGES[PNG]}]},  # Jina
        {"input": [TEXTS[0], {"image": b64(PICTURES[PNG])}]},
        {"input": [{"content": [text_part(TEXTS[0])]}, {"content": [image_part(IMAGES[PNG])]}]},
    ],
)
def test_each_shape_of_openais_route_gives_the_same(server, reference, body):
    expected = np.stack([reference["texts"][0], reference["images"][PNG]])
    assert_near(server.post("/v1/embeddings", body).vectors(), expected)


def test_vllms_messages_are_one_input(server, reference):
    body = {"messages": [{"role": "user", "content": [image_part(IMAGES[JPEG])]}]}
    assert_near(server.post("/v1/embeddings", body).vectors(), reference["images"][JPEG : JPEG + 1])
    body = {"messages": [{"role": "user", "content": TEXTS[0]}], "encoding_format": "float"}
    assert_near(server.post("/v1/embeddings", body).vectors(), reference["texts"][:1])


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"messages": [{"role": "user", "content": "a"}] * 2}, '"messages" has 2 messages'),
        ({"messages": [{"role": "system", "content": "a"}]}, '"messages[0]" must be'),
        ({"messages": "a"}, '"messages[0]" must be'),
        ({"messages": [{"role": "user", "content": "a"}], "input": "b"}, "send only one of them"),
        ({"input": [3], "modality": "image"}, '"input[0]" must be a string with an image'),
        ({"input": ["a"], "modality": "smell"}, '"modality" must be one of "text", "image"'),
        ({"input": [{"image": 3}]}, '"input[0]".image must be a string'),
        ({"input": [{"content": [image_part(IMAGES[0]), text_part("a")]}]}, "input 0 has 2 parts"),
        ({"input": [{"image": "AAAA"}]}, "neither a PNG nor a JPEG"),
    ],
)
def test_what_cannot_be_meant_is_a_400(server, body, problem):
    reply = server.post("/v1/embeddings", body)
    assert reply.status == 400
    assert problem in message(reply)


def test_infinitys_modality_says_what_the_strings_are(server, reference):
    body = {"model": "clip_quick", "input": [IMAGES[PNG], IMAGES[JPEG]], "modality": "image"}
    for path in ("/embeddings", "/v1/embeddings"):
        assert_near(server.post(path, body).vectors(), reference["images"][[PNG, JPEG]])
    assert server.post("/v1/embeddings", body | {"modality": "audio"}).status == 501
    assert_near(
        server.post("/v1/embeddings", {"input": TEXTS[0], "modality": "text"}).vectors(), reference["texts"][:1]
    )


def test_coheres_images_and_inputs(server, reference):
    body = {"model": "x", "input_type": "image", "images": [IMAGES[PNG]], "embedding_types": ["float"]}
    reply = server.post("/v2/embed", body).json()
    assert_near(reply["embeddings"]["float"], reference["images"][PNG : PNG + 1])
    assert reply["images"] == [{"width": 160, "height": 90, "format": "png", "bit_depth": 8}]
    assert reply["texts"] == []
    inputs = [{"content": [text_part(TEXTS[0])]}, {"content": [image_part(IMAGES[JPEG])]}]
    reply = server.post("/v2/embed", {"inputs": inputs, "embedding_types": ["float", "int8"]}).json()
    assert_near(reply["embeddings"]["float"], np.stack([reference["texts"][0], reference["images"][JPEG]]))
    assert reply["texts"] == [TEXTS[0]]
    assert len(reply["embeddings"]["int8"]) == 2
    both = server.post("/v2/embed", {"images": [IMAGES[PNG]], "texts": ["a"]})
    assert (both.status, "cannot be sent together" in both.json()["message"]) == (400, True)


def test_voyages_multimodal_embeddings(server, reference):
    inputs = [
        {"content": [text_part(TEXTS[0])]},
        {"content": [{"type": "image_base64", "image_base64": IMAGES[PNG]}]},
    ]
    reply = server.post("/v1/multimodalembeddings", {"inputs": inputs, "model": "voyage-multimodal-3"}).json()
    expected = np.stack([reference["texts"][0], reference["images"][PNG]])
    assert_near([item["embedding"] for item in reply["data"]], expected)
    assert reply["usage"]["image_pixels"] == 160 * 90
    assert reply["usage"]["total_tokens"] > 17
    body = {"inputs": inputs, "output_encoding": "base64", "input_type": "query", "truncation": True}
    reply = server.post("/v1/multimodalembeddings", body).json()
    decoded = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in reply["data"]]
    assert_near(decoded, expected)
    wrong = server.post("/v1/multimodalembeddings", {"inputs": ["a"]}).json()
    message = '"inputs[0]" must be an object with "content", found the string "a"'
    assert wrong["detail"] == wrong["error"]["message"] == message


def test_a_text_over_77_tokens_is_refused_or_cut_visibly(server, reference):
    image = {"image": IMAGES[PNG]}
    refused = server.post("/v1/embeddings", {"input": [image, TEXTS[-1]]})
    assert refused.status == 400
    assert refused.json()["error"]["index"] == 1
    reply = server.post("/v1/embeddings", {"input": [image, TEXTS[-1]], "truncate": True})
    assert_near(reply.vectors()[1:], reference["texts"][-1:])
    (cut,) = reply.json()["truncated"]
    assert (cut["index"], cut["n_kept"]) == (1, 77)


def test_options_that_images_cannot_have_are_named(server):
    image = {"image": IMAGES[PNG]}
    assert server.post("/v1/embeddings", {"input": [image], "dimensions": 8}).vectors().shape == (1, 8)
    reply = server.post("/v1/embeddings", {"input": [image], "pooling": "mean"})
    assert (reply.status, "images have no pooling mean" in message(reply)) == (501, True)
    reply = server.post("/v1/embeddings", {"input": [image], "return_tokens": True})
    assert reply.status == 501


def test_what_it_reads_is_shown(server):
    assert server.get("/props").json()["modalities"]["vision"] is True


def test_a_picture_to_a_text_model_names_models_that_read_it(tiny_server):
    for path, body, status in (
        ("/v1/embeddings", {"input": [{"image": IMAGES[PNG]}]}, 501),
        ("/v2/embed", {"images": [IMAGES[PNG]]}, 501),
        ("/v1/multimodalembeddings", {"inputs": [{"content": [image_part(IMAGES[PNG])]}]}, 400),
    ):
        reply = tiny_server.post(path, body)
        assert reply.status == status
        assert "clip-vit-base-patch32" in str(reply.json())


def test_texts_and_images_are_computed_in_the_engines_own_process(tmp_path, reference):
    own = write_own("clip_quick", tmp_path)
    server = start_server(tmp_path / "cache", "-m", own, "--precision", "f32", "--isolate")
    try:
        found = server.embed([*SHORT, *({"content": [image_part(url)]} for url in IMAGES)])
        assert_near(found, np.concatenate([reference["texts"][: len(SHORT)], reference["images"]]))
    finally:
        stop(server)


def test_siglip_reads_64_tokens_whatever_the_text(tmp_path):
    reference = np.load(DATA / "siglip" / "reference.npz")
    server = start_server(tmp_path / "cache", "-m", write_own("siglip", tmp_path), "--precision", "f32")
    try:
        mixed = [*SHORT, *({"image": url} for url in IMAGES)]
        reply = server.post("/v1/embeddings", {"input": mixed})
        expected = np.concatenate([reference["texts"][: len(SHORT)], reference["images"]])
        assert_near(reply.vectors(), expected)
        assert reply.json()["usage"]["prompt_tokens"] == 64 * len(SHORT) + 16 * len(IMAGES)
        (cut,) = server.post("/v1/embeddings", {"input": TEXTS[-1], "truncate": True}).json()["truncated"]
        assert cut["n_kept"] == 64
    finally:
        stop(server)
