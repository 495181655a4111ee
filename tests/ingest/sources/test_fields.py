"""Which field is what, and how values become text, ids and metadata."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.rows import BadRow
from gguf_embed.ingest.sources.base import SourceOptions
from gguf_embed.ingest.sources.fields import Fields, choose_fields, columns_of, id_of, json_text, text_of

SOME_UUID = UUID("12345678-1234-5678-1234-567812345678")


def strings(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "string")


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        (strings("id", "title", "text"), {}, Fields(("text",), "id", ())),
        (strings("body", "content"), {}, Fields(("content",), None, ())),
        (strings("document", "_id", "url"), {}, Fields(("document",), "_id", ())),
        (strings("uuid", "sentence"), {}, Fields(("sentence",), "uuid", ())),
        ({"n": "int64", "line": "string"}, {}, Fields(("line",), None, ())),
        ({"text": "int64", "line": "string"}, {}, Fields(("line",), None, ())),
        (strings("id", "doc_id", "text"), {"id_field": "doc_id"}, Fields(("text",), "doc_id", ())),
        (strings("text", "line"), {"id_field": "text"}, Fields(("line",), "text", ())),
        (strings("a", "b", "c"), {"text_fields": ("b", "a")}, Fields(("b", "a"), None, ())),
        (strings("text", "url"), {"metadata": ("url", "url")}, Fields(("text",), None, ("url",))),
        (strings("text", "url"), {"metadata": ("*",)}, Fields(("text",), None, None)),
        ({}, {}, None),
    ],
)
def test_fields_are_chosen_by_name_or_because_there_is_only_one(columns, options, expected):
    if expected is None:
        assert choose_fields(SourceOptions(**options), columns, "a.jsonl", fixed=False) == Fields(("text",), "id", ())
    else:
        assert choose_fields(SourceOptions(**options), columns, "a.csv") == expected


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (strings("a", "b"), {}, "which field of a.csv is the text? Name it, or several; it has 'a', 'b'"),
        (
            {"a": "int64", "b": "bool"},
            {},
            "a.csv has no field with strings: it has 'a' (int64), 'b' (bool)",
        ),
        ({}, {}, "a.csv has no field with strings: it has no fields"),
        (strings("a", "b"), {"text_fields": ("c",)}, "a.csv has no field 'c': it has 'a', 'b'"),
        (strings("a", "b"), {"text_fields": ("a",), "id_field": "i"}, "a.csv has no field 'i': it has 'a', 'b'"),
        (strings("text"), {"metadata": ("x",)}, "a.csv has no field 'x': it has 'text'"),
    ],
)
def test_what_cannot_be_chosen_is_an_error_that_lists_the_fields(columns, options, message):
    with pytest.raises(ConfigError) as error:
        choose_fields(SourceOptions(**options), columns, "a.csv")
    assert error.value.message == message


def test_a_list_of_very_many_fields_is_cut():
    with pytest.raises(ConfigError, match=r"'f29' and 970 more$"):
        choose_fields(SourceOptions(), strings(*(f"f{number}" for number in range(1000))), "a.csv")


def test_columns_of_rows_have_the_type_of_their_first_value():
    rows = [{"a": None, "b": 1}, {"a": "x", "c": None}, {"b": "later", "d": [1], "e": {}, "f": True}]
    assert columns_of(rows) == {
        "a": "string",
        "b": "a number",
        "c": "string",
        "d": "a list",
        "e": "an object",
        "f": "a boolean",
    }


@pytest.mark.parametrize(
    ("row", "names", "expected"),
    [
        ({"text": " x "}, ("text",), " x "),
        ({"a": "x"}, ("text",), BadRow("has no field 'text'")),
        ({"text": None}, ("text",), BadRow("'text' is null")),
        ({"text": ""}, ("text",), BadRow("'text' is empty")),
        ({"text": " \n\t\u00a0"}, ("text",), BadRow("'text' is empty")),
        ({"text": 7}, ("text",), BadRow("'text' is a number, not a string")),
        ({"text": 7.5}, ("text",), BadRow("'text' is a number, not a string")),
        ({"text": True}, ("text",), BadRow("'text' is a boolean, not a string")),
        ({"text": ["x"]}, ("text",), BadRow("'text' is a list, not a string")),
        ({"text": {}}, ("text",), BadRow("'text' is an object, not a string")),
        ({"text": b"x"}, ("text",), BadRow("'text' is bytes, not a string")),
        ({"text": date(2026, 1, 1)}, ("text",), BadRow("'text' is of the type date, not a string")),
        ({"title": "t", "body": "b"}, ("title", "body"), "t\n\nb"),
        ({"title": "t", "body": "b"}, ("body", "title"), "b\n\nt"),
        ({"title": None, "body": "b"}, ("title", "body"), "b"),
        ({"body": "b"}, ("title", "body"), "b"),
        ({"title": "", "body": None}, ("title", "body"), BadRow("'title' is empty")),
        ({"title": "t", "body": 3}, ("title", "body"), BadRow("'body' is a number, not a string")),
    ],
)
def test_a_text_is_a_string_that_is_not_empty(row, names, expected):
    assert text_of(row, names) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("007", "007"),
        (None, None),
        ("", None),
        (7, "7"),
        (-(2**70), str(-(2**70))),
        (7.0, "7"),
        (Decimal("7.00"), "7"),
        (SOME_UUID, str(SOME_UUID)),
        (7.5, BadRow("'id' is 7.5, not a string or an integer")),
        (float("nan"), BadRow("'id' is nan, not a string or an integer")),
        (float("inf"), BadRow("'id' is inf, not a string or an integer")),
        (Decimal("NaN"), BadRow("'id' is NaN, not a string or an integer")),
        (True, BadRow("'id' is a boolean, not a string or an integer")),
        ([1], BadRow("'id' is a list, not a string or an integer")),
        (b"x", BadRow("'id' is bytes, not a string or an integer")),
    ],
)
def test_ids_are_text_and_whole_numbers_become_text(value, expected):
    assert id_of(value, "id") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ü", "ü"),
        (float("nan"), None),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (timedelta(days=1, seconds=1), "1 day, 0:00:01"),
        (Decimal("1.10"), "1.10"),
        (SOME_UUID, str(SOME_UUID)),
        (b"plain", "plain"),
        (b"\xff\x00", "/wA="),
        (memoryview(b"plain"), "plain"),
        ({"deep": [{"b": b"x"}, (1, 2)]}, {"deep": [{"b": "x"}, [1, 2]]}),
        ({7: "seven"}, {"7": "seven"}),
        (2**70, str(2**70)),
        ("half \ud83d", "half \\ud83d"),
    ],
)
def test_metadata_is_json_whatever_the_value(value, expected):
    assert json.loads(json_text({"a": 1, "value": value})) == {"a": 1, "value": expected}


def test_metadata_that_is_nested_without_end_is_still_json():
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    assert json.loads(json_text({"deep": deep, "a": 1}))["a"] == 1
