"""The official clients that send images get the vectors of a CLIP: voyageai, cohere, openai."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import cohere
import numpy as np
import openai
import pytest
import voyageai
from PIL import Image

from tests.data.tower_directories import DATA
from tests.server_process import Server, start_server, stop
from tests.tower_models import write_own

TEXT = "a photo of a cat"
FILES = sorted((DATA / "pictures").iterdir())
WIDE = next(file for file in FILES if file.name == "wide.png")
URL = f"data:image/png;base64,{base64.b64encode(WIDE.read_bytes()).decode()}"


@pytest.fixture(scope="module")
def clip(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_server(cache_dir, "-m", write_own("clip_quick", tmp_path_factory.mktemp("clip")))
    yield server
    stop(server)


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    """Of the text, then of the picture."""
    reference = np.load(DATA / "clip_quick" / "reference.npz")
    return np.stack([reference["texts"][0], reference["images"][FILES.index(WIDE)]])


def assert_near(vectors, expected):
    found = np.asarray(vectors)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(axis=1) / norms).min() > 0.9999


def test_voyages_client_sends_texts_and_pillows_images(clip, expected):
    client = voyageai.Client(api_key="unused", base_url=clip.url + "/v1")
    picture = Image.open(io.BytesIO(WIDE.read_bytes()))
    reply = client.multimodal_embed([[TEXT], [picture]], model="voyage-multimodal-3", input_type="document")
    assert_near(reply.embeddings, expected)
    assert reply.image_pixels == 160 * 90


def test_coheres_client_sends_images_and_inputs(clip, expected):
    client = cohere.ClientV2("unused", base_url=clip.url)
    reply = client.embed(model="embed-v4.0", images=[URL], input_type="image", embedding_types=["float"])
    assert_near(reply.embeddings.float_, expected[1:])
    assert [(image.width, image.height) for image in reply.images] == [(160, 90)]
    inputs = [
        {"content": [{"type": "text", "text": TEXT}]},
        {"content": [{"type": "image_url", "image_url": {"url": URL}}]},
    ]
    reply = client.embed(
        model="embed-v4.0", inputs=inputs, input_type="search_document", embedding_types=["float", "int8"]
    )
    assert_near(reply.embeddings.float_, expected)
    assert len(reply.embeddings.int8) == 2


def test_openais_client_sends_parts_and_messages_as_to_vllm(clip, expected):
    client = openai.OpenAI(api_key="unused", base_url=clip.url + "/v1")
    parts = [{"type": "image_url", "image_url": {"url": URL}}]
    reply = client.embeddings.create(model="clip", input=[TEXT, {"content": parts}])
    assert_near([item.embedding for item in reply.data], expected)
    body = {"model": "clip", "messages": [{"role": "user", "content": parts}], "encoding_format": "float"}
    said = client.post("/embeddings", cast_to=object, body=body)
    assert_near([said["data"][0]["embedding"]], expected[1:])
