"""A declared field: what it reads, and the schema that says so."""

from __future__ import annotations

import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.fields.field import Body, Choice, Flag, Shaped, Text, Whole, has, is_given

SIZE = Whole("size", "How many.", also=("n",), minimum=1, maximum=9, refused=(5,))
SIDE = Choice("side", words=("Left", "Right"))


@pytest.mark.parametrize(
    ("body", "value"),
    [({}, None), ({"size": None}, None), ({"size": 3}, 3), ({"n": 3.0}, 3), ({"size": 3, "n": 3.0}, 3)],
)
def test_a_field_is_read_by_any_of_its_names(body, value):
    assert SIZE.read(body) == value


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (SIZE, 0, "at least 1, found the number 0"),
        (SIZE, 10, "at most 9, found 10"),
        (SIZE, 2.5, "must be an integer"),
        (SIZE, True, "found true"),
        (SIDE, "up", 'must be one of "Left", "Right", found the string "up"'),
        (Flag("flag"), 1, "must be true or false"),
        (Text("text"), 1, "must be a string"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(field, value, words):
    with pytest.raises(InvalidRequest, match=words) as caught:
        field.read({field.name: value})
    assert caught.value.param == field.name


def test_two_names_with_different_values_are_refused():
    with pytest.raises(InvalidRequest, match='"size" and "n" contradict each other'):
        SIZE.read({"size": 3, "n": 4})


def test_a_word_is_read_in_lower_case():
    assert [SIDE.read({"side": word}) for word in ("Left", "left", "RIGHT")] == ["left", "left", "right"]


def test_the_schema_says_what_is_read_and_that_null_is_absent():
    assert SIZE.schema() == {
        "type": ["integer", "null"],
        "minimum": 1,
        "maximum": 9,
        "not": {"enum": [5]},
        "description": "How many. Other APIs' names work too: `size`, `n`.",
    }
    assert Text("text", required=True, limits={"minLength": 1}).schema() == {"type": "string", "minLength": 1}
    assert Shaped("spans", shape={"anyOf": [{"ref": "A"}]}).schema() == {"anyOf": [{"ref": "A"}, {"type": "null"}]}
    assert Shaped("span", shape={"ref": "A"}).schema() == {"anyOf": [{"ref": "A"}, {"type": "null"}]}


def test_another_of_its_names_may_come_first():
    assert SIZE.called("n").names == ("n", "size")


def test_a_body_has_its_own_fields_and_those_of_its_groups():
    group = Body("Sides", (SIDE,))
    body = Body(
        "Request",
        (SIZE, Flag("flag", required=True)),
        "A request.",
        groups=(group,),
        rules={"anyOf": [is_given("size")]},
    )
    schema = body.schema()
    assert (schema["description"], schema["allOf"]) == ("A request.", [{"ref": "Sides"}])
    assert (set(schema["properties"]), schema["required"]) == ({"size", "flag"}, ["flag"])
    assert schema["anyOf"] == [{"required": ["size"], "properties": {"size": {"not": {"type": "null"}}}}]
    assert has({"a": {"enum": [1]}}) == {"required": ["a"], "properties": {"a": {"enum": [1]}}}
