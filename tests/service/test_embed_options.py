"""Tokens, spans, windows and single failures on real engines, without HTTP."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest

from gguf_embed.config import ModelConfig
from gguf_embed.errors import InputTooLong, InvalidInput, InvalidRequest, NotSupported
from gguf_embed.types import DENSE, EmbedResult, Pooling, PromptChoice
from tests.gguf_models import write_tiny_decoder, write_tiny_encoder
from tests.running import Running, running
from tests.static_models import write_static

# of a number: with BF16 weights a vector depends a little on what shares its batch; one token more makes 0.05
TOLERANCE = 1e-3
TEXT = "The CAT sat on the mat, 中国 한 naïve ☃ words"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("extras")
    write_tiny_encoder(folder / "encoder.gguf")
    write_tiny_decoder(folder / "decoder.gguf", n_ctx=128)
    write_tiny_encoder(folder / "cls.gguf", pooling=Pooling.CLS)
    write_tiny_encoder(folder / "reranker.gguf", pooling=Pooling.RANK, rank_head=True)
    rows = np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)
    write_static(folder / "words.gguf", ["the", "cat", "sat", "中国"], rows)
    return folder


@pytest.fixture(scope="module")
def encoder(folder):
    with running(folder / "encoder.gguf", ModelConfig(), folder, {"query": "the red dog: "}) as service:
        yield service


@pytest.fixture(scope="module")
def decoder(folder):
    with running(folder / "decoder.gguf", ModelConfig(pooling=Pooling.MEAN), folder) as service:
        yield service


@pytest.fixture(scope="module")
def words(folder):
    with running(folder / "words.gguf", ModelConfig(), folder) as service:
        yield service


def told(result: EmbedResult, text: str) -> list[tuple[str, str | None]]:
    """Of each token: its piece, and the part of the text that it is said to stand for."""
    [tokens] = result.tokens
    assert tokens is not None
    pieces = [piece.decode("utf-8", "replace") for piece in tokens.pieces]
    return [(p, None if o is None else text[slice(*o)]) for p, o in zip(pieces, tokens.offsets, strict=True)]


def test_tokens_of_an_encoder_have_the_offsets_of_its_own_tokenizer(encoder):
    read = told(encoder.embed("Cats ☃ É한", return_tokens=True), "Cats ☃ É한")
    stripped = [(piece.strip(), part) for piece, part in read]
    assert stripped == [
        ("[CLS]", None),
        ("cat", "Cat"),
        ("s", "s"),
        ("[UNK]", "☃"),
        ("[UNK]", "É한"),
        ("[SEP]", None),
    ]


def test_tokens_of_a_decoder_are_its_bytes(decoder):
    text = "hello world é🎉"
    read = told(decoder.embed(text, return_tokens=True), text)
    assert ("hello", "hello") in read
    assert (" world", "world") in read
    assert [part for _, part in read].count("🎉") == 4
    assert [part for _, part in read].count("é") == 2


def test_tokens_of_a_static_model_are_words(words):
    text = "The dog, the cat 中国"
    assert told(words.embed(text, return_tokens=True), text) == [
        ("the", "The"),
        ("the", "the"),
        ("cat", "cat"),
        ("中国", "中国"),
    ]


def test_an_input_of_ids_has_pieces_and_no_offsets(encoder):
    [tokens] = encoder.embed((2, 5, 3), return_tokens=True).tokens
    assert (list(tokens.ids), list(tokens.offsets)) == ([2, 5, 3], [None] * 3)


def test_offsets_are_in_the_text_as_sent_also_after_a_prompt(encoder):
    plain = encoder.embed("the cat", return_tokens=True)
    prompted = encoder.embed("the cat", return_tokens=True, prompt=PromptChoice("query"))
    assert told(prompted, "the cat")[-3:] == told(plain, "the cat")[-3:]
    assert [part for _, part in told(prompted, "the cat")][:-3] == [None] * (len(prompted.tokens[0].ids) - 3)


def test_a_cut_text_tells_the_tokens_that_were_read(encoder):
    text = "the cat " * 60
    result = encoder.embed(text, return_tokens=True, truncate=True)
    read = told(result, text)
    assert len(read) == 64 == result.truncated[0].n_kept
    assert [part for _, part in read[1:3]] == ["the", "cat"]
    assert read[-1] == ("[SEP]", None)


def test_asking_for_tokens_changes_no_vector(encoder):
    texts = ("hello world", TEXT, "hello world")
    asked = encoder.embed(*texts, return_tokens=True)
    np.testing.assert_allclose(asked.output.matrix, encoder.embed(*texts).output.matrix, atol=TOLERANCE)
    assert asked.usage == encoder.embed(*texts).usage


@pytest.mark.parametrize("served", ["encoder", "decoder"])
@pytest.mark.parametrize("seed", range(3))
def test_a_span_s_vector_is_the_mean_of_the_rows_of_its_tokens(served, seed, request):
    service: Running = request.getfixturevalue(served)
    random = Random(seed)
    texts = (TEXT, "hello world, hello cat")
    spans = tuple(
        tuple(
            tuple(sorted(random.sample([i for i, c in enumerate(text + " ") if c == " "] + [0], 2))) for _ in range(4)
        )
        for text in texts
    )
    result = service.embed(*texts, spans=spans, dimensions=16, return_tokens=True)
    rows = service.embed(*texts, pooling=Pooling.NONE)
    assert result.output.offsets == (0, 4, 8)
    for number, text in enumerate(texts):
        own = rows.output.matrix[rows.output.offsets[number] : rows.output.offsets[number + 1]]
        offsets = result.tokens[number].offsets
        for index, (start, end) in enumerate(spans[number]):
            kept = [i for i, span in enumerate(offsets) if span and span[0] < end and span[1] > start]
            if start == 0:
                kept = [*range(kept[0]), *kept]
            if end == len(text):
                kept = [*kept, *range(kept[-1] + 1, len(offsets))]
            mean = own[min(kept) : max(kept) + 1, :16].mean(axis=0)
            np.testing.assert_allclose(
                result.output.matrix[4 * number + index], mean / np.linalg.norm(mean), atol=TOLERANCE
            )


@pytest.mark.parametrize("served", ["encoder", "decoder", "words"])
def test_the_span_of_a_whole_text_is_the_text(served, request):
    service: Running = request.getfixturevalue(served)
    whole = service.embed("the cat sat")
    spans = service.embed("the cat sat", spans=(((0, 11),),), prompt=None)
    np.testing.assert_allclose(spans.output.matrix, whole.output.matrix, atol=TOLERANCE)
    assert spans.output.kind == DENSE


def test_equal_texts_may_have_different_spans(encoder):
    result = encoder.embed("the cat", "the cat", spans=(((0, 3),), ((4, 7), (0, 7))))
    assert result.output.offsets == (0, 1, 3)
    np.testing.assert_allclose(result.output.matrix[2], encoder.embed("the cat").output.matrix[0], atol=TOLERANCE)


def test_the_error_for_a_span_without_tokens_names_the_span_and_the_reason(encoder):
    with pytest.raises(InvalidInput, match=r"^input 1, span 1 \(characters 3 to 4\): .*no token") as caught:
        encoder.embed("a", "the cat", spans=(((0, 1),), ((0, 3), (3, 4))))
    assert (caught.value.index, caught.value.param) == (1, "spans")
    text = "the cat " * 60
    with pytest.raises(InvalidInput, match="truncation"):
        encoder.embed(text, spans=(((400, 410),),), truncate=True)


def test_a_long_text_is_the_mean_of_its_windows_by_their_length(encoder):
    words = ["the", "cat", "sat", "on", "mat"] * 30
    text = " ".join(words)
    result = encoder.embed("hello", text, long_input="chunk_mean")
    parts = [" ".join(words[i : i + 62]) for i in range(0, 150, 62)]
    vectors = encoder.embed(*parts).output.matrix
    mean = np.average(vectors, axis=0, weights=[62, 62, 26])
    np.testing.assert_allclose(result.output.matrix[1], mean / np.linalg.norm(mean), atol=TOLERANCE)
    np.testing.assert_allclose(result.output.matrix[0], encoder.embed("hello").output.matrix[0], atol=TOLERANCE)
    [windowed] = result.windowed
    assert (windowed.index, windowed.n_tokens, windowed.n_windows) == (1, 152, 3)
    assert result.usage.prompt_tokens == 3 + 150 + 2 * 3
    assert result.truncated == ()


def test_every_window_begins_with_the_prompt(encoder):
    words = ["the", "cat", "sat", "on", "mat"] * 24
    result = encoder.embed(" ".join(words), long_input="chunk_mean", prompt=PromptChoice("query"))
    n_prefix = result.windowed[0].n_tokens - 2 - len(words)
    room = 62 - n_prefix
    parts = [words[i : i + room] for i in range(0, len(words), room)]
    vectors = encoder.embed(*map(" ".join, parts), prompt=PromptChoice("query")).output.matrix
    mean = np.average(vectors, axis=0, weights=[len(part) for part in parts])
    np.testing.assert_allclose(result.output.matrix[0], mean / np.linalg.norm(mean), atol=TOLERANCE)


def test_a_prompt_that_fills_a_window_is_refused(encoder):
    with pytest.raises(InvalidRequest, match="64 tokens") as caught:
        encoder.embed("the cat " * 30, long_input="chunk_mean", prompt=PromptChoice(text="the dog " * 32))
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("served", ["decoder", "words"])
def test_windows_of_models_with_other_special_tokens(served, request):
    service: Running = request.getfixturevalue(served)
    text = "the cat " * 700
    result = service.embed(text, long_input="chunk_mean", return_tokens=True)
    [windowed] = result.windowed
    limit = result.model.max_input_tokens
    assert windowed.n_windows == -(-windowed.n_tokens // limit) or windowed.n_windows > windowed.n_tokens // limit
    assert len(result.tokens[0].ids) == result.usage.prompt_tokens
    assert abs(float(np.linalg.norm(result.output.matrix)) - 1) < 1e-5


def test_a_long_text_is_not_split_into_windows_unless_requested(encoder):
    with pytest.raises(InputTooLong):
        encoder.embed("the cat " * 60)
    with pytest.raises(InputTooLong):
        encoder.embed("the cat " * 60, return_tokens=True)


def test_ids_over_the_limit_are_read_in_windows_too(encoder):
    ids = (2, *([5, 6, 7] * 50), 3)
    result = encoder.embed(ids, long_input="chunk_mean", return_tokens=True)
    starts = [i for i, token in enumerate(result.tokens[0].ids) if token == 2]
    assert starts == [0, 64, 128]


def test_a_bad_input_is_skipped_and_named(encoder):
    long = "the cat " * 60
    result = encoder.embed("hello", long, (5, 10_000), "cat", long, on_error="skip", return_tokens=True)
    assert result.output.offsets == (0, 1, 1, 1, 2, 2)
    assert [(failure.index, type(failure.error)) for failure in result.failures] == [
        (1, InputTooLong),
        (2, InvalidInput),
        (4, InputTooLong),
    ]
    assert result.failures[2].error.message.startswith("input 4 is too large (122 tokens")
    assert result.failures[1].error.message.startswith("input 2: token id 10000 is not in")
    assert [tokens is None for tokens in result.tokens] == [False, True, True, False, True]
    np.testing.assert_allclose(result.output.matrix, encoder.embed("hello", "cat").output.matrix, atol=TOLERANCE)
    assert result.usage == encoder.embed("hello", "cat").usage


def test_a_span_without_tokens_fails_its_input_alone(encoder):
    result = encoder.embed("the cat", "the cat", on_error="skip", spans=(((3, 4),), ((0, 3), (4, 7))))
    assert [failure.index for failure in result.failures] == [0]
    assert result.output.matrix.shape == (2, 32)


def test_when_all_fail_there_are_no_vectors(encoder):
    result = encoder.embed((10_000,), on_error="skip")
    assert (len(result.output.matrix), len(result.failures), result.usage.prompt_tokens) == (0, 1, 0)


def test_inputs_that_could_not_be_parsed_keep_their_indexes(encoder):
    refused = {1: InvalidRequest("no text")}
    result = encoder.embed("hello", "", "cat", on_error="skip", refused=refused)
    assert [(failure.index, failure.error) for failure in result.failures] == [(1, refused[1])]
    np.testing.assert_allclose(result.output.matrix, encoder.embed("hello", "cat").output.matrix, atol=TOLERANCE)


@pytest.mark.parametrize("fields", [{}, {"on_error": "fail", "return_tokens": True}])
def test_an_error_has_the_index_in_the_request_although_equal_inputs_are_read_once(encoder, fields):
    with pytest.raises(InputTooLong) as caught:
        encoder.embed("a", "a", "a", "the cat " * 60, **fields)
    assert (caught.value.index, caught.value.n_tokens, caught.value.limit) == (3, 122, 64)
    with pytest.raises(InvalidInput, match="input 2: token id") as wrong:
        encoder.embed("a", "a", (10_000,), **fields)
    assert wrong.value.index == 2


SPANS = (((0, 3),),)


@pytest.mark.parametrize(
    ("model", "fields", "kind", "param", "facts"),
    [
        ("encoder", {"spans": SPANS, "pooling": Pooling.CLS}, InvalidRequest, "pooling", "spans? .*pooling cls"),
        ("encoder", {"spans": SPANS, "pooling": Pooling.NONE}, InvalidRequest, "pooling", "spans? .*pooling none"),
        ("cls", {"spans": SPANS}, InvalidRequest, "pooling", "span .*cls.*pooling mean"),
        ("reranker", {"spans": SPANS, "scores": True}, NotSupported, None, "scores.*spans"),
        ("encoder", {"spans": SPANS, "long_input": "chunk_mean"}, InvalidRequest, "long_input", "^spans .*windows"),
        (
            "encoder",
            {"spans": SPANS, "spans_are_inputs": True, "long_input": "chunk_mean"},
            InvalidRequest,
            "long_input",
            "^chunks .*windows",
        ),
        ("words", {"pooling": Pooling.LAST, "on_error": "skip"}, NotSupported, None, "pooling last"),
        ("encoder", {"long_input": "chunk_mean", "truncate": True}, InvalidRequest, "long_input", "truncat.*windows"),
        (
            "encoder",
            {"long_input": "chunk_mean", "pooling": Pooling.NONE},
            InvalidRequest,
            "long_input",
            "windows.*pooling none",
        ),
        ("reranker", {"long_input": "chunk_mean", "scores": True}, NotSupported, None, "scores.*windows"),
        ("encoder", {"spans": SPANS, "dimensions": 33}, InvalidRequest, "dimensions", r"\b33\b.*\b32\b"),
    ],
)
def test_conflicting_options_are_refused_in_one_line(folder, model, fields, kind, param, facts):
    with (
        running(folder / f"{model}.gguf", ModelConfig(), folder) as service,
        pytest.raises(kind, match=facts) as caught,
    ):
        service.embed("the cat", **fields)
    assert getattr(caught.value, "param", None) == param
    assert "\n" not in caught.value.message


def test_offsets_are_limited_to_a_number_of_characters_per_request(encoder):
    texts = [f"{number}{'a ' * 499_990}" for number in range(3)]
    with pytest.raises(InvalidRequest, match=r"2,000,000.*2,999,943"):
        encoder.embed(*texts, return_tokens=True, truncate=True)


def test_a_model_with_cls_pooling_has_vectors_of_spans_if_pooling_mean_is_named(folder):
    with running(folder / "cls.gguf", ModelConfig(), folder) as service:
        assert service.embed("the cat", spans=SPANS, pooling=Pooling.MEAN).output.matrix.shape == (1, 32)


@pytest.mark.parametrize("seed", range(6))
def test_any_span_of_any_text_has_a_vector_or_an_error_that_names_it(encoder, seed):
    """Over texts that a tokenizer rewrites: what the spans' tokens stand for lies within the spans' neighborhood."""
    random = Random(seed)
    n_read = 0
    for _ in range(12):
        text = "".join(random.choices("abc dogÉ中한☃  ,'\u0301", k=random.randint(2, 40)))
        cuts = sorted({0, len(text), *random.sample(range(len(text)), min(3, len(text)))})
        spans = tuple(pairwise(cuts))
        result = encoder.embed(text, spans=(spans,), on_error="skip", return_tokens=True)
        if result.failures:
            assert result.failures[0].error.message.startswith("input 0")
            continue
        n_read += 1
        offsets = [span for span in result.tokens[0].offsets if span]
        assert all(0 <= start < end <= len(text) for start, end in offsets)
        assert len(result.output.matrix) == len(spans)
        for start, end in spans:
            assert any(a < end and b > start for a, b in offsets)
    assert n_read >= 3
