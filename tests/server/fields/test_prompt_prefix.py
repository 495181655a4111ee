"""The request fields that ask for a prefix, and the reply's field, without HTTP."""

from __future__ import annotations

import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.fields.prompt_prefix import (
    MAX_PROMPT_CHARACTERS,
    NOTHING_ADDED,
    format_applied_prompt,
    parse_prompt_choice,
)
from gguf_embed.types import AppliedPrompt, PromptChoice


@pytest.mark.parametrize(
    ("body", "choice"),
    [
        ({}, None),
        ({"input": "a", "input_type": None, "task": None, "prompt_name": None, "prompt": None}, None),
        ({"input_type": "query"}, PromptChoice(name="query", param="input_type")),
        ({"input_type": "SEARCH_DOCUMENT"}, PromptChoice(name="SEARCH_DOCUMENT", param="input_type")),
        ({"task": "retrieval.query"}, PromptChoice(name="retrieval.query", param="task")),
        ({"prompt_name": "STS"}, PromptChoice(name="STS", param="prompt_name")),
        ({"prompt": "find: "}, PromptChoice(text="find: ", param="prompt")),
        ({"prompt": ""}, PromptChoice(text="", param="prompt")),
        ({"prompt": "x" * MAX_PROMPT_CHARACTERS}, PromptChoice(text="x" * MAX_PROMPT_CHARACTERS, param="prompt")),
    ],
)
def test_each_field_asks_in_its_own_way(body, choice):
    assert parse_prompt_choice(body) == choice


@pytest.mark.parametrize(
    ("body", "choice"),
    [
        ({"input_type": "query", "task": "retrieval.query"}, PromptChoice(name="retrieval.query", param="task")),
        ({"input_type": "passage", "prompt_name": "document"}, PromptChoice(name="document", param="prompt_name")),
        ({"task": "clustering", "prompt_name": "Clustering"}, PromptChoice(name="Clustering", param="prompt_name")),
    ],
)
def test_of_fields_with_the_same_meaning_the_most_specific_one_is_used(body, choice):
    assert parse_prompt_choice(body) == choice


@pytest.mark.parametrize(
    ("body", "one", "other"),
    [
        ({"input_type": "query", "task": "retrieval.passage"}, "input_type", "task"),
        ({"input_type": "query", "prompt_name": "STS"}, "input_type", "prompt_name"),
        ({"input_type": "query", "task": "search_query", "prompt_name": "document"}, "task", "prompt_name"),
        ({"prompt_name": "query", "prompt": "query: "}, "prompt_name", "prompt"),
        ({"input_type": "query", "prompt": ""}, "input_type", "prompt"),
    ],
)
def test_fields_that_contradict_each_other_are_both_named(body, one, other):
    with pytest.raises(InvalidRequest) as caught:
        parse_prompt_choice(body)
    assert f'"{one}" (the string "{body[one]}") and "{other}" (the string "{body[other]}")' in caught.value.message
    assert caught.value.param == other


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"input_type": 1}, "input_type", "found the number 1"),
        ({"task": ["query"]}, "task", "found an array of 1"),
        ({"prompt_name": False}, "prompt_name", "found false"),
        ({"prompt": {"text": "a"}}, "prompt", "found an object"),
        ({"input_type": ""}, "input_type", '"input_type" is empty'),
        ({"prompt_name": "  "}, "prompt_name", '"prompt_name" is empty'),
        ({"prompt": "x" * (MAX_PROMPT_CHARACTERS + 1)}, "prompt", "has 10,001 characters, the limit is 10,000"),
    ],
)
def test_a_bad_value_is_named_with_its_field(body, param, message):
    with pytest.raises(InvalidRequest) as caught:
        parse_prompt_choice(body)
    assert message in caught.value.message
    assert caught.value.param == param


@pytest.mark.parametrize("prompt", ["why is the sky blue?", ["a", "b"], "x" * (MAX_PROMPT_CHARACTERS + 1)])
def test_a_prompt_field_that_is_the_input_is_not_a_prefix(prompt):
    assert parse_prompt_choice({"prompt": prompt}, prompt_is_text=False) is None
    asked = parse_prompt_choice({"prompt": prompt, "input_type": "query"}, prompt_is_text=False)
    assert asked == PromptChoice(name="query", param="input_type")


@pytest.mark.parametrize(
    ("prompt", "written"),
    [
        (None, None),
        (AppliedPrompt("query", "query: "), {"name": "query", "text": "query: "}),
        (AppliedPrompt("query", ""), {"name": "query", "text": ""}),
        (AppliedPrompt(None, "mine: "), {"name": None, "text": "mine: "}),
    ],
)
def test_the_reply_has_the_prompt_that_was_added(prompt, written):
    assert format_applied_prompt(prompt) == written


def test_the_reply_has_a_note_if_no_prompt_was_added():
    written = format_applied_prompt(AppliedPrompt(None, ""))
    assert written is not None
    assert (written["name"], written["text"]) == (None, "")
    assert written["note"] == NOTHING_ADDED
