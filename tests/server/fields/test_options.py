"""How the fields beyond vectors are read from a body, and what contradicts what."""

from __future__ import annotations

import pytest

from gguf_embed.errors import InvalidInput, InvalidRequest, NotSupported
from gguf_embed.server.dialects.openai.embeddings import parse_openai_embed
from gguf_embed.server.fields.options import FIELDS, MAX_SPANS, EmbedOptions, parse_options, refuse_elsewhere
from gguf_embed.server.fields.options_reply import llama_details, openai_data
from gguf_embed.tokenization.offsets import OffsetUnit
from gguf_embed.types import DENSE, EmbedResult, InputFailure, Usage
from gguf_embed.vectors import Rows
from tests.server.fake_service import MODEL, vector_of


def parse(**body: object) -> EmbedOptions:
    return parse_options(body, "input", 100)


def test_without_the_fields_there_is_nothing():
    asked = parse_openai_embed({"input": "a"}, 100)
    assert (asked.options, asked.request.spans, asked.request.refused) == (None, (), {})


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_null_and_the_defaults_ask_for_nothing(field):
    assert parse(input=["a", "b"], **{field: None}) == EmbedOptions(("a", "b"))
    assert parse(
        input="a", return_tokens=False, late_chunking=False, on_error="fail", long_input="error"
    ) == EmbedOptions(("a",))


@pytest.mark.parametrize(
    ("given", "spans", "expected"),
    [
        ("the cat", [[0, 3], [4, 7]], (((0, 3), (4, 7)),)),
        (["the cat"], [[0, 3]], (((0, 3),),)),
        (["the cat"], [[[0, 3], [2, 7]]], (((0, 3), (2, 7)),)),
        (["ab", "cd"], [[[0, 1]], [[0, 2], [1, 2]]], (((0, 1),), ((0, 2), (1, 2)))),
    ],
)
def test_spans_of_one_text_or_of_each(given, spans, expected):
    assert parse(input=given, spans=spans).spans == expected


@pytest.mark.parametrize(
    ("unit", "span"), [("codepoints", [1, 2]), ("utf16", [1, 3]), ("UTF8", [1, 5]), ("utf16", [0, 4])]
)
def test_spans_count_in_the_unit_that_is_named(unit, span):
    options = parse(input="a🎉b", spans=[span], offset_unit=unit)
    assert options.spans == (((0 if span[0] == 0 else 1, 3 if span == [0, 4] else 2),),)
    assert options.unit is OffsetUnit(unit.lower())


def test_late_chunking_joins_the_chunks_and_makes_them_spans():
    options = parse(input=["Berlin is big. ", "It 🎉", " grows"], late_chunking=True)
    assert options.inputs == ("Berlin is big. It 🎉 grows",)
    assert options.spans == (((0, 15), (15, 19), (19, 25)),)
    assert options.chunks_joined


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"return_tokens": 1}, '"return_tokens" must be true or false'),
        ({"on_error": "ignore"}, '"on_error" must be one of "fail", "skip"'),
        ({"long_input": "mean"}, '"long_input" must be one of "error", "chunk_mean"'),
        ({"offset_unit": "chars"}, '"offset_unit" must be one of "codepoints", "utf16", "utf8"'),
        ({"spans": "all"}, '"spans" must be an array of pairs [start, end], found the string'),
        ({"spans": []}, '"spans" must be an array of pairs [start, end], found an empty array: [[0, 7]] is the whole'),
        ({"spans": [], "input": ["a", "b"]}, '"spans" has 0 entries for 2 inputs'),
        (
            {"spans": [[]]},
            '"spans[0]" must be an array of pairs [start, end], found an empty array: [[0, 7]] is the whole',
        ),
        ({"spans": [[]], "input": "🎉", "offset_unit": "utf16"}, "[[0, 2]] is the whole text"),
        (
            {"spans": [0, 3]},
            '"spans" must be an array of pairs [start, end], found an array of numbers: write [[0, 3]]',
        ),
        ({"spans": [0, 3], "input": ["a", "b"]}, "found an array of numbers: write [[0, 3]]"),
        ({"spans": [[0.5, 3]]}, '"spans[0]" must be a pair [start, end] of integers, found the number 0.5'),
        ({"spans": [[0, 3], [0]]}, '"spans[1]" must be a pair [start, end] of integers, found an array of 1'),
        ({"spans": [[0, 3.5]]}, "of integers"),
        ({"spans": [[True, 3]]}, "of integers, found true"),
        ({"spans": [[0, 3], [True, 3]]}, "of integers"),
        ({"spans": [[3, 3]]}, '"spans[0]" is [3, 3]'),
        ({"spans": [[0, 8]]}, "between 0 and 7, the length of the text in codepoints"),
        ({"spans": [[-1, 3]]}, '"spans[0]" is [-1, 3]'),
        ({"spans": [[0, 1]] * (MAX_SPANS + 1)}, f"over {MAX_SPANS:,} pairs"),
        ({"input": "🎉", "spans": [[0, 1]], "offset_unit": "utf16"}, "is [0, 1], which splits a character (utf16)"),
        ({"input": [1, 2], "spans": [[0, 1]]}, "input 0 is an array of token ids"),
        ({"input": ["a", "b"], "spans": [[0, 1]]}, "1 entries for 2 inputs"),
        ({"input": ["a", "b"], "spans": [[[0, 1]], None]}, '"spans[1]" must be an array of pairs'),
        ({"late_chunking": "yes"}, '"late_chunking" must be true or false'),
        ({"late_chunking": True, "spans": [[0, 1]]}, '"spans"'),
        ({"late_chunking": True, "on_error": "skip"}, '"on_error"'),
        ({"input": ["a", " \n"], "late_chunking": True}, '"input[1]" is a chunk without words'),
        ({"input": ["a", [1, 2]], "late_chunking": True}, '"input[1]" is an array of token ids'),
        ({"input": [], "on_error": "skip"}, "must not be empty"),
        ({"input": ["a"] * 101, "on_error": "skip"}, "the limit per request is 100"),
        ({"input": ["a", None, 3], "on_error": "skip"}, '"input[2]" is the number 3'),
        ({"input": ["a", 5], "return_tokens": True}, '"input[1]" is the number 5'),
        ({"input": ["a", 5], "spans": [[0, 1]]}, '"input[1]" is the number 5'),
        ({"input": [5, "a"], "long_input": "chunk_mean"}, '"input[0]" is the number 5'),
        ({"input": [1, 2.5], "on_error": "skip"}, '"input[1]" must be a token id'),
        ({"input": ["a"] * 100 + [2.5], "on_error": "skip"}, "the limit per request is 100"),
        ({"input": None, "on_error": "skip"}, "found null"),
    ],
)
def test_invalid_options_are_refused_in_one_line(body, message):
    with pytest.raises(InvalidRequest) as caught:
        parse(**{"input": "the cat", **body})
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_with_skip_inputs_of_the_wrong_type_are_set_aside():
    options = parse(input=["a", None, {"x": 1}, [], "b", {"prompt_string": "c"}], on_error="skip")
    assert options.inputs == ("a", "", "", "", "b", "c")
    assert sorted(options.refused) == [1, 2, 3]
    assert all(isinstance(error, InvalidRequest | NotSupported) for error in options.refused.values())
    assert '"input[1]" must be' in options.refused[1].message


def test_spans_of_an_input_that_is_set_aside_are_not_read():
    options = parse(input=["ab", None], spans=[[[0, 2]], "whatever"], on_error="skip")
    assert (options.spans[0], sorted(options.refused)) == (((0, 2),), [1])


def test_with_skip_a_float_among_texts_is_set_aside_as_null_is():
    options = parse(input=["the cat", 5.5, None], on_error="skip")
    assert (options.inputs, sorted(options.refused)) == (("the cat", "", ""), [1, 2])
    assert "found the number 5.5" in options.refused[1].message


@pytest.mark.parametrize("fields", [{"on_error": "fail"}, {"return_tokens": False}, {"spans": None}])
def test_a_field_that_asks_for_nothing_leaves_llama_servers_mixed_form(fields):
    assert parse(input=["a", 5], **fields).inputs == (("a", 5),)


@pytest.mark.parametrize("pairs", [[[0, 8]], [[3, 3]], [[-1, 2]]])
def test_with_skip_spans_outside_of_their_text_fail_alone(pairs):
    options = parse(input=["the cat", "a dog"], spans=[pairs, [[0, 5]]], on_error="skip")
    assert (options.inputs, sorted(options.refused), options.spans[1]) == (("", "a dog"), [0], ((0, 5),))
    error = options.refused[0]
    assert isinstance(error, InvalidInput)
    assert (error.index, error.param) == (0, "spans")
    with pytest.raises(InvalidRequest, match="must be a pair"):
        parse(input=["the cat", "a dog"], spans=[["a"], [[0, 5]]], on_error="skip")


@pytest.mark.parametrize("unit", list(OffsetUnit))
def test_spans_of_a_refused_input_can_be_written_in_every_unit(unit):
    """Its text is "" by then, in which no position but 0 is."""
    body = {"input": ["the cat", {"bad": 1}], "spans": [[[0, 3]], [[0, 1]]], "on_error": "skip", "offset_unit": unit}
    options = parse(**body)
    failures = tuple(InputFailure(index, error) for index, error in options.refused.items())
    result = EmbedResult(MODEL, Rows(DENSE, vector_of("a")[None], (0, 1, 1)), Usage(3), failures=failures)
    [item] = openai_data(result, [{"embedding": [1.0]}], options)
    assert (item["index"], item["input"], item["span"]) == (0, 0, (0, 3))
    assert [sorted(item) for item in llama_details(result, options, lambda error: {"message": error.message})] == [
        ["spans"],
        ["error"],
    ]


def test_vectors_of_spans_are_numbered_within_the_reply():
    options = parse(input=["ab", None, "cd"], spans=[[[0, 1], [1, 2]], [], [[0, 2]]], on_error="skip")
    failures = tuple(InputFailure(index, error) for index, error in options.refused.items())
    result = EmbedResult(MODEL, Rows(DENSE, vector_of("a")[None], (0, 2, 2, 3)), Usage(3), failures=failures)
    items = openai_data(result, [{"embedding": [number]} for number in (1.0, 2.0, 3.0)], options)
    assert [(item["index"], item["input"], item["span"]) for item in items] == [
        (0, 0, (0, 1)),
        (1, 0, (1, 2)),
        (2, 2, (0, 2)),
    ]


@pytest.mark.parametrize("field", ["return_tokens", "spans", "late_chunking", "long_input", "on_error", "output_dtype"])
def test_other_routes_refuse_what_they_would_ignore(field):
    with pytest.raises(InvalidRequest, match=f'"{field}"') as caught:
        refuse_elsewhere({field: "x"}, ["output_dtype"])
    assert caught.value.param == field
    for nothing in (None, False, "fail", "ERROR", "float"):
        refuse_elsewhere({field: nothing}, ["output_dtype"])


@pytest.mark.parametrize("field", [{"return_tokens": True}, {"late_chunking": True}, {"spans": "unread"}])
def test_all_inputs_count_towards_the_offset_budget(field):
    """Before the spans are looked at: finding characters in another unit takes time for each text."""
    texts = ["a" * 25_000] * 100  # equal ones are read once, and told each
    with pytest.raises(InvalidRequest, match=r"2,000,000.*2,500,000"):
        parse(input=texts, **field)
    assert parse(input=texts, on_error="skip").inputs == tuple(texts)
