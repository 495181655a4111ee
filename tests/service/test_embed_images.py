"""A request with images in the service: what it is refused, what it is asked of the key, loading and unloading."""

import asyncio
import unicodedata

import numpy as np
import pytest

from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.errors import InvalidRequest, ModelLoadFailed, NotSupported, WayOut
from gguf_embed.service.embed_images import in_order
from gguf_embed.types import EmbedRequest, ImageInput, Pooling, PromptChoice
from tests.gguf_models import write_tiny_decoder
from tests.running import running
from tests.vision_models import noise, png, write_tiny_mmproj

IMAGE = png(noise(1))
ONE = ImageInput(0, ("hello ", IMAGE))
AS_IN_THE_FILE = ComputeConfig(weights="file")


@pytest.fixture
def mmproj(tmp_path):
    return write_tiny_mmproj(tmp_path / "mmproj.gguf")


@pytest.fixture
def service(tmp_path, mmproj):
    config = ModelConfig(mmproj=mmproj, compute=AS_IN_THE_FILE, warmup=False)  # what is measured may round otherwise
    with running(write_tiny_decoder(tmp_path / "text.gguf"), config, tmp_path, {"query": "say "}) as service:
        yield service


@pytest.mark.parametrize(
    ("inputs", "images", "prefix", "expected"),
    [
        (("",), [ONE], "", [ONE.parts]),
        (("",), [ONE], "q: ", [("q: hello ", IMAGE)]),
        (("",), [ImageInput(0, (IMAGE, "x"))], "q: ", [("q: ", IMAGE, "x")]),
        (("a", "", "b"), [ImageInput(1, (IMAGE,))], "q: ", [("q: a",), ("q: ", IMAGE), ("q: b",)]),
    ],
)
def test_every_input_keeps_its_index_and_gets_the_prefix_before_its_first_text(inputs, images, prefix, expected):
    texts = in_order(EmbedRequest(inputs, images=tuple(images)), prefix)
    assert [text.index for text in texts] == list(range(len(inputs)))
    assert [text.parts for text in texts] == expected


def test_token_ids_in_a_request_with_images_are_refused_with_their_index():
    with pytest.raises(InvalidRequest, match=r"^input 1 .*token ids"):
        in_order(EmbedRequest(("", (1, 2)), images=(ONE,)), "")


@pytest.mark.parametrize(
    ("fields", "error", "problem"),
    [
        ({"spans": (((0, 1),),)}, NotSupported, "spans"),
        ({"return_tokens": True}, NotSupported, "token details"),
        ({"long_input": "chunk_mean"}, NotSupported, "windows"),
        ({"on_error": "skip"}, NotSupported, "failed inputs"),
        ({"pooling": Pooling.RANK}, NotSupported, "scores"),
        ({"dimensions": 33}, InvalidRequest, r"\b33\b.*\b32\b"),
        ({"dimensions": 0}, InvalidRequest, r"\b0\b.*\b32\b"),
    ],
)
def test_an_option_that_a_request_with_images_cannot_have_is_named(service, fields, error, problem):
    with pytest.raises(error, match=problem):
        service.embed("", images=(ONE,), **fields)


def test_a_model_without_a_tower_refuses_images_and_names_the_way_out(tmp_path):
    with (
        running(write_tiny_decoder(tmp_path / "text.gguf"), ModelConfig(), tmp_path) as service,
        pytest.raises(NotSupported, match="'text'") as caught,
    ):
        service.embed("", images=(ONE,))
    assert caught.value.ways_out == (WayOut.ADD_TOWER,)


def test_the_result_has_the_prompt_and_the_number_of_tokens(service):
    result = service.embed("", images=(ONE,), prompt=PromptChoice(name="query"))
    assert (result.prompt.name, result.prompt.text) == ("query", "say ")
    plain = service.embed("", images=(ImageInput(0, ("say hello ", IMAGE)),))
    np.testing.assert_array_equal(result.output.matrix, plain.output.matrix)
    assert result.usage == plain.usage
    assert result.timings.compute_s > 0


def test_characters_are_composed_where_the_text_path_composes_them(service):
    decomposed = unicodedata.normalize("NFD", "café é")
    with_image = service.embed("", decomposed, images=(ONE,)).output.matrix[1]
    np.testing.assert_allclose(with_image, service.embed(decomposed).output.matrix[0], atol=1e-5)


def test_a_model_that_is_loaded_again_has_its_tower_again(service):
    before = service.embed("", images=(ONE,)).output.matrix
    service.run(service.service.unload("text"))
    after = service.embed("", images=(ONE,))
    np.testing.assert_array_equal(after.output.matrix, before)
    assert after.timings.load_s > 0


def test_a_load_fails_if_the_tower_s_file_is_gone(service, mmproj):
    mmproj.unlink()
    with pytest.raises(ModelLoadFailed, match="no such file"):
        service.embed("", images=(ONE,))
    write_tiny_mmproj(mmproj)
    assert service.embed("", images=(ONE,)).output.matrix.shape == (1, 32)


def test_texts_and_images_are_computed_at_the_same_time_with_the_same_results(service):
    async def together():
        requests = [EmbedRequest(("",), images=(ONE,)), EmbedRequest(("hello world",))] * 10
        return [
            r.output.matrix for r in await asyncio.gather(*(service.service.embed(request) for request in requests))
        ]

    vectors = service.run(together())
    for number, vector in enumerate(vectors):
        np.testing.assert_allclose(vector, vectors[number % 2], atol=1e-5)
