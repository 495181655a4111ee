"""`input`/`content` parsing, without HTTP."""

from __future__ import annotations

import pytest

from gguf_embed.errors import InvalidRequest, NotSupported, WayOut
from gguf_embed.server.fields.inputs import MAX_TOKEN_ID, MixedInputs, parse_inputs


@pytest.mark.parametrize(
    ("value", "prompts"),
    [
        ("a", ("a",)),
        ("", ("",)),
        (["a", ""], ("a", "")),
        ([1, 2], ((1, 2),)),
        ([0, MAX_TOKEN_ID], ((0, MAX_TOKEN_ID),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
        (["a", 1, 2], (("a", 1, 2),)),
        ([["a", 1], "b", [2]], (("a", 1), "b", (2,))),
        ({"prompt_string": "a"}, ("a",)),
        ([{"prompt_string": "a"}, "b"], ("a", "b")),
        ([{"prompt_string": "a", "multimodal_data": []}], ("a",)),
    ],
)
def test_inputs_follow_llama_servers_rules(value, prompts):
    assert parse_inputs(value, "input", 10) == prompts


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], '"input" must not be empty'),
        ([[]], '"input[0]" must not be empty'),
        (3, "found the number 3"),
        (True, "found true"),
        ([True], '"input[0]" must be a string'),
        ([1, True], '"input[1]" must be a token id'),
        ([1.5], '"input[0]" must be a token id'),
        ([1, None], "found null"),
        ([-1], "from 0 to 2147483647, found the number -1"),
        ([2**31], "found the number 2147483648"),
        ([[1], [2, 2**40]], '"input[1][1]"'),
        (["a", None], '"input[1]" must be a string'),
        ([["a", "b"]], "found an array of strings"),
        ([[[1]]], '"input[0][0]" must be a token id'),
        ({}, "found an object"),
        ({"prompt_string": 1}, '"input.prompt_string" must be a string'),
        (["a"] * 11, "has 11 entries, the limit per request is 10"),
    ],
)
def test_a_bad_input_is_named_with_its_index_and_what_was_found(value, message):
    with pytest.raises(InvalidRequest) as caught:
        parse_inputs(value, "input", 10)
    assert message in caught.value.message
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    "value",
    [{"prompt_string": "a", "multimodal_data": ["AA=="]}, {"content": [{"type": "text", "text": "a"}]}],
)
def test_images_and_sound_are_not_supported(value):
    with pytest.raises(NotSupported, match=r'^"input\[0\]"') as caught:
        parse_inputs([value], "input", 10)
    assert caught.value.ways_out == (WayOut.EMBED_OPTIONS,)


@pytest.mark.parametrize(("value", "index"), [(["a", None], 1), ([[1], {}], 1), ([["a", "b"], "c"], 0), (3, None)])
def test_the_error_of_one_of_several_inputs_has_its_index(value, index):
    with pytest.raises(InvalidRequest) as caught:
        parse_inputs(value, "input", 10)
    assert caught.value.index == index


def test_the_error_for_an_array_that_a_number_makes_one_input_names_the_number():
    with pytest.raises(InvalidRequest, match=r'found null \(the number at "input\[1\]" makes the array one input\)'):
        parse_inputs(["a", 5, None], "input", 10)


@pytest.mark.parametrize(("value", "number"), [(["a", 5], "input[1]"), ([5, "a"], "input[0]"), ([[1], 7], "input[1]")])
def test_texts_and_numbers_are_refused_where_they_are_not_joined(value, number):
    with pytest.raises(MixedInputs) as caught:
        parse_inputs(value, "input", 10, joins_mixed=False)
    assert f'"{number}" is the number' in caught.value.message
    assert parse_inputs([1, 2], "input", 10, joins_mixed=False) == ((1, 2),)
    assert parse_inputs([["a", 5]], "input", 10, joins_mixed=False) == (("a", 5),)


def test_many_token_ids_are_one_prompt_and_not_counted_as_inputs():
    assert len(parse_inputs(list(range(100)), "input", 10)) == 1
