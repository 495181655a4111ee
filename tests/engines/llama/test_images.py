"""The image context: against an independent reference, against the text path, and with what it must refuse."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.engines.llama.engine import LlamaEngine, LlamaEngineConfig
from gguf_embed.engines.llama.images import ImageContext, ImageSpec, RowPool, plan_parts
from gguf_embed.engines.llama.mtmd_api import Chunk
from gguf_embed.errors import ImageInputTooLong, InvalidRequest, ModelFileError
from gguf_embed.types import FloatMatrix, ImageInput, OutputSpec, Pooling
from tests.engines.contexts import context_spec
from tests.gguf_models import write_tiny_decoder, write_tiny_encoder
from tests.vision_models import (
    N_PATCHES,
    noise,
    png,
    png_chunk,
    write_tiny_mmproj,
    write_tiny_qwen2vl,
    write_tiny_qwen2vl_tower,
)

DATA = Path(__file__).parents[2] / "data" / "images"
REFERENCE = json.loads((DATA / "reference.json").read_text())
QWEN2VL = json.loads((DATA / "qwen2vl.json").read_text())
MAX_TOKENS = 64
MEAN = OutputSpec.of(Pooling.MEAN)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(LlamaEngineConfig(write_tiny_decoder(tmp_path_factory.mktemp("text") / "text.gguf")))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def mmproj(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_mmproj(tmp_path_factory.mktemp("tower") / "mmproj.gguf")


@pytest.fixture(scope="module")
def context(engine: LlamaEngine, mmproj: Path) -> Iterator[ImageContext]:
    context = engine.open_images(ImageSpec(mmproj, MAX_TOKENS, n_threads=1))
    yield context
    context.close()


def embed(context: ImageContext, *parts: str | bytes, pooling: Pooling = Pooling.MEAN) -> FloatMatrix:
    return context.embed(ImageInput(0, parts), OutputSpec.of(pooling)).output.matrix


def cosine(a: FloatMatrix, b: FloatMatrix) -> float:
    return float(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.LAST])
def test_an_image_between_words_gives_the_vector_of_torch_and_transformers(context, pooling):
    found = embed(context, "hello ", png(noise(1)), " world", pooling=pooling)
    assert cosine(found[0], np.array(REFERENCE[pooling.value], np.float32)) > 0.99999


def test_the_first_row_of_an_image_is_that_of_the_reference(context):
    rows = embed(context, "hello ", png(noise(1)), " world", pooling=Pooling.NONE)
    assert rows.shape == (2 + N_PATCHES + 2, 32)
    assert cosine(rows[2], np.array(REFERENCE["first_of_image"], np.float32)) > 0.9999


@pytest.mark.parametrize("part_tokens", [512, 16, 7])
@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.LAST])
def test_positions_in_two_dimensions_give_the_vector_of_transformers_qwen2_vl(tmp_path, pooling, part_tokens):
    engine = LlamaEngine(LlamaEngineConfig(write_tiny_qwen2vl(tmp_path / "text.gguf")))
    tower = write_tiny_qwen2vl_tower(tmp_path / "tower.gguf")
    context = engine.open_images(ImageSpec(tower, 128, n_threads=1, part_tokens=part_tokens))
    try:
        found = embed(context, "hello ", png(noise(1, size=64)), " world the end", pooling=pooling)
    finally:
        context.close()
        engine.close()
    assert cosine(found[0], np.array(QWEN2VL[pooling.value], np.float32)) > 0.99999


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.LAST, Pooling.CLS, Pooling.NONE])
def test_an_input_with_text_only_has_the_vector_of_the_text_path(engine, context, pooling):
    text = "hello the world, and more"
    tokens = engine.codec.tokenize(text, add_special=True, parse_special=True)
    plain = engine.open_context(context_spec(pooling, MAX_TOKENS, 1))
    expected = plain.embed([tokens], 1).matrix
    plain.close()
    assert context.embed(ImageInput(0, (text,)), OutputSpec.of(pooling)).n_tokens == len(tokens)
    np.testing.assert_allclose(embed(context, text, pooling=pooling), expected, atol=2e-5)


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.LAST, Pooling.CLS, Pooling.NONE])
@pytest.mark.parametrize("part_tokens", [1, 5, 16, 17])
def test_the_vector_does_not_depend_on_how_it_is_cut_into_parts(engine, mmproj, context, pooling, part_tokens):
    parts = ("hello the world ", png(noise(1)), png(noise(2)), "the end")
    small = engine.open_images(ImageSpec(mmproj, MAX_TOKENS, n_threads=1, part_tokens=part_tokens))
    try:
        np.testing.assert_allclose(
            embed(small, *parts, pooling=pooling), embed(context, *parts, pooling=pooling), atol=1e-3
        )
    finally:
        small.close()


def test_equal_images_have_equal_vectors_regardless_of_other_requests(context):
    first = embed(context, "a ", png(noise(1)))
    embed(context, "another ", png(noise(2)), png(noise(3)))
    np.testing.assert_array_equal(embed(context, "a ", png(noise(1))), first)


def test_different_images_and_another_order_give_different_vectors(context):
    one, two = png(noise(1)), png(noise(2))
    vectors = [
        embed(context, *parts)[0] for parts in [(one,), (two,), (one, two), (two, one), (one, " a"), ("a ", one)]
    ]
    for number, vector in enumerate(vectors):
        for other in vectors[:number]:
            assert np.abs(vector - other).max() > 1e-3


def test_an_image_of_another_size_is_resized_by_llama_cpp(context):
    assert context.embed(ImageInput(0, (png(noise(1, size=50)),)), MEAN).n_tokens == N_PATCHES + 1


def test_a_marker_in_the_words_is_words(context):
    assert context.embed(ImageInput(0, ("<__media__>",)), MEAN).n_tokens > 2


def test_too_many_tokens_are_refused_and_the_context_still_works(context):
    parts = [png(noise(number)) for number in range(4)]
    with pytest.raises(ImageInputTooLong, match=r"^input 3 is too large \(65 tokens .*\b64\b"):
        context.embed(ImageInput(3, tuple(parts)), MEAN)
    assert embed(context, *parts[:3], "hello").shape == (1, 32)


@pytest.mark.parametrize(
    "data",
    [
        png(noise(1))[:-20],
        png(noise(1))[:60] + b"\0" * 40 + png(noise(1))[100:],
        b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x10\x00\x10\x01\x11\x00",
        b"RIFF0000WAVE",
    ],
)
def test_an_image_that_cannot_be_read_is_refused_and_the_context_still_works(context, data):
    with pytest.raises(InvalidRequest, match="input 0, part 0"):
        embed(context, data)
    assert embed(context, png(noise(1))).shape == (1, 32)


@pytest.mark.parametrize("parts", [(), ("",)])
def test_an_empty_input_is_the_end_token_alone(context, parts):
    assert context.embed(ImageInput(0, parts), MEAN).n_tokens == 1


def test_a_file_that_cannot_be_decoded_is_given_to_no_other_program(context, tmp_path, monkeypatch):
    for program in ("ffprobe", "ffmpeg"):
        stub = tmp_path / program
        stub.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nprintf 'width=16\\nheight=16\\nr_frame_rate=1/1\\n'\n")
        stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    header = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    lines = zlib.compress((b"\x07" + bytes(48)) * 16)  # there is no filter 7, as only stb_image finds out
    undecodable = b"\x89PNG\r\n\x1a\n" + b"".join(
        (png_chunk(b"IHDR", header), png_chunk(b"IDAT", lines), png_chunk(b"IEND", b""))
    )
    n_open = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(InvalidRequest, match=r"^input 0, part 0: .*damaged"):
            embed(context, undecodable)
    assert not (tmp_path / "started").exists()
    assert len(os.listdir("/proc/self/fd")) == n_open


def test_images_that_are_too_large_together_are_refused_before_decoding(context):
    header = struct.pack(">IIBBBBB", 4096, 4096, 8, 2, 0, 0, 0)
    undecodable = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)
    with pytest.raises(InvalidRequest, match=r"^input 0 .*33,554,688 pixels"):
        embed(context, undecodable, "and", undecodable, png(noise(1)))


def test_decoded_images_are_freed(context):
    large = png(np.full((2048, 2048, 3), 7, np.uint8))  # 13 MB when decoded
    for _ in range(3):
        embed(context, large)
    before = resident_bytes()
    for _ in range(12):
        embed(context, large)
    assert resident_bytes() - before < 60e6


def resident_bytes() -> int:
    """What this process holds of the machine's memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_tower_of_another_width_is_refused(engine, tmp_path):
    wrong = write_tiny_mmproj(tmp_path / "wrong.gguf", n_embd_text=48)
    with pytest.raises(ModelFileError, match=r"wrong\.gguf.*n_embd = 32.*n_embd = 48"):
        engine.open_images(ImageSpec(wrong, MAX_TOKENS, n_threads=1))


def test_a_file_cut_short_is_refused(engine, mmproj, tmp_path):
    short = tmp_path / "short.gguf"
    short.write_bytes(mmproj.read_bytes()[:-5000])
    with pytest.raises(ModelFileError, match=r"short\.gguf"):
        engine.open_images(ImageSpec(short, MAX_TOKENS, n_threads=1))


def test_a_model_that_reads_a_text_as_a_whole_is_refused(mmproj, tmp_path):
    encoder = LlamaEngine(LlamaEngineConfig(write_tiny_encoder(tmp_path / "bert.gguf")))
    try:
        with pytest.raises(ModelFileError, match=r"bert\.gguf.*causal decoder"):
            encoder.open_images(ImageSpec(mmproj, MAX_TOKENS, n_threads=1))
    finally:
        encoder.close()


WORDS = Chunk(None, 5, 5, (1, 2, 3, 4, 5))
IMAGE = Chunk(None, 16, 4, None)  # positions in two dimensions take fewer numbers than tokens


@pytest.mark.parametrize(
    ("chunks", "part_tokens", "pooling", "expected"),
    [
        ([WORDS], 512, Pooling.MEAN, [(5, 0, True)]),
        ([WORDS], 2, Pooling.MEAN, [(2, 0, True), (2, 2, True), (1, 4, True)]),
        ([WORDS], 512, Pooling.LAST, [(4, 0, False), (1, 4, True)]),
        ([WORDS], 512, Pooling.CLS, [(1, 0, True), (4, 1, False)]),
        ([WORDS, IMAGE, WORDS], 512, Pooling.LAST, [(5, 0, False), (None, 5, False), (4, 9, False), (1, 13, True)]),
        ([WORDS, IMAGE], 512, Pooling.LAST, [(5, 0, False), (None, 5, True)]),
        ([IMAGE, WORDS], 512, Pooling.CLS, [(None, 0, True), (5, 4, False)]),
        ([IMAGE, IMAGE], 512, Pooling.NONE, [(None, 0, True), (None, 4, True)]),
    ],
)
def test_parts_ask_for_rows_only_where_pooling_reads_them(chunks, part_tokens, pooling, expected):
    parts = plan_parts(chunks, part_tokens, pooling)
    assert [(p.tokens and len(p.tokens), p.position, p.wants_rows) for p in parts] == expected


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (Pooling.MEAN, [[3.0]]),
        (Pooling.LAST, [[5.0]]),
        (Pooling.CLS, [[1.0]]),
        (Pooling.NONE, [[1.0], [2.0], [3.0], [4.0], [5.0]]),
    ],
)
def test_rows_are_pooled_over_all_parts(pooling, expected):
    pool = RowPool(pooling)
    for rows in ([[1.0], [2.0]], [[3.0], [4.0], [5.0]]):
        pool.add(np.array(rows, np.float32))
    assert pool.result().tolist() == expected
