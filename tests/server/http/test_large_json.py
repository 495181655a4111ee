"""Large JSON bodies in parts: the same values as in one, and the same refusals."""

from __future__ import annotations

import codecs
import json
import random

import orjson
import pytest

from gguf_embed.errors import InvalidRequest, PayloadTooLarge
from gguf_embed.server.http import large_json
from gguf_embed.server.http.large_json import find_long_arrays, parse_large_object

MAX_INPUTS = 2048


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """So that small bodies have many parts, and parts end everywhere."""
    monkeypatch.setattr(large_json, "PART_BYTES", 16)


def text(chance: random.Random) -> str:
    return "".join(chance.choices(['"', "\\", "[", "]", "{", "}", ",", "ä", "😀", "a", " ", "\n", "\\u"], k=30))


def value(chance: random.Random, depth: int) -> object:
    match chance.randrange(7 if depth < 4 else 4):
        case 0:
            return chance.choice([None, True, 1, -2.5, 10**12])
        case 1 | 2 | 3:
            return text(chance)[: chance.randrange(30)]
        case 4 | 5:
            return [value(chance, depth + 1) for _ in range(chance.randrange(12))]
        case _:
            return {text(chance)[:5]: value(chance, depth + 1) for _ in range(chance.randrange(4))}


@pytest.mark.parametrize("seed", range(200))
def test_the_value_is_that_of_the_whole(seed):
    chance = random.Random(seed)
    body = {f"field {n}": value(chance, 1) for n in range(chance.randrange(1, 6))}
    raw = json.dumps(body, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 1])).encode()
    assert parse_large_object(bytearray(raw), MAX_INPUTS) == body


@pytest.mark.parametrize("seed", range(400))
def test_what_is_no_json_as_a_whole_is_refused(seed):
    """One byte is changed; the parts must not hide it."""
    chance = random.Random(seed)
    body = {"input": [value(chance, 2) for _ in range(12)], "other": value(chance, 1)}
    raw = bytearray(json.dumps(body, ensure_ascii=False).encode())
    raw[chance.randrange(len(raw))] = chance.choice(b'"\\,[]{}: 0x\xff')
    try:
        whole = orjson.loads(raw)
    except orjson.JSONDecodeError:
        with pytest.raises(InvalidRequest):
            parse_large_object(bytearray(raw), MAX_INPUTS)
    else:
        assert parse_large_object(bytearray(raw), MAX_INPUTS) == whole


@pytest.mark.parametrize("seed", range(200))
def test_arrays_of_nested_objects_are_parsed_in_parts_with_the_same_value(seed):
    chance = random.Random(seed)
    inner = {f"field {n}": value(chance, 2) for n in range(chance.randrange(1, 4))}
    line = {"custom_id": text(chance), "body": inner, "other": value(chance, 1)}
    raw = json.dumps(line, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 1])).encode()
    assert parse_large_object(bytearray(raw), MAX_INPUTS, is_nested=True) == line
    at = chance.randrange(len(raw))
    changed = raw[:at] + bytes([chance.choice(b'"\\,[]{}: 0x\xff')]) + raw[at + 1 :]
    try:
        whole = orjson.loads(changed)
    except orjson.JSONDecodeError:
        with pytest.raises(InvalidRequest):
            parse_large_object(bytearray(changed), MAX_INPUTS, is_nested=True)
    else:
        assert parse_large_object(bytearray(changed), MAX_INPUTS, is_nested=True) == whole


def test_the_arrays_of_objects_in_arrays_are_not_cut():
    nested = b'{"e": [1, 2, 3, 4, 5, 6, 7, 8], "f": {"g": [1, 2, 3, 4, 5, 6]}}'
    raw = b'{"a": [{"b": [1, 2, 3, 4, 5, 6, 7, 8]}, 9], "d": ' + nested + b"}"
    arrays = find_long_arrays(raw, MAX_INPUTS, is_nested=True)
    assert [raw[array.begin : array.end] for array in arrays] == [
        b'{"b": [1, 2, 3, 4, 5, 6, 7, 8]}, 9',
        b"1, 2, 3, 4, 5, 6, 7, 8",
    ]
    with pytest.raises(InvalidRequest, match="where the name of a field should be"):
        parse_large_object(bytearray(b'{"d": {[' + ENTRIES + b"]: 1}}"), MAX_INPUTS, is_nested=True)


ENTRIES = b'"one", "two", "three", "four", "five", "six"'


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"input": [' + ENTRIES + b",]}", "there is no value before byte 56"),
        (b'{"input": [' + ENTRIES + b",,1]}", "not valid JSON"),
        (b'{"input": [' + ENTRIES + b", oops]}", "at byte 57"),
        (b'{"input": ["a", ' + ENTRIES + b', "\xff"]}', "not valid UTF-8: byte 63 is 0xff"),
        (b'{"input": [' + ENTRIES, "not valid JSON"),
        (b'{"input": [' + ENTRIES + b"}}", "not valid JSON"),
        (b'{"input": [' + ENTRIES + b"]]", "not valid JSON"),
        (b"{[" + ENTRIES + b"]: 1}", "where the name of a field should be"),
        (b"[[" + ENTRIES + b"]]", "must be a JSON object, found an array of 1"),
        (b'"' + b"a" * 50 + b'"', "must be a JSON object, found the string"),
        (b"\\" * 31, "not valid JSON"),
    ],
)
def test_an_error_says_what_and_where(raw, message):
    with pytest.raises(InvalidRequest) as caught:
        parse_large_object(bytearray(raw), MAX_INPUTS)
    assert message in caught.value.message


def test_marks_and_lone_surrogates_are_repaired_as_in_small_bodies():
    body = '{"input": ["one", "two", "three", "\\ud83d", "\\ud83d\\ude00", "ä"]}'
    texts = ["one", "two", "three", "\ufffd", "😀", "ä"]
    for raw in (body.encode("utf-8-sig"), codecs.BOM_UTF16_LE + body.encode("utf-16-le")):
        assert parse_large_object(bytearray(raw), MAX_INPUTS) == {"input": texts}


def test_arrays_are_cut_at_their_own_commas_only():
    raw = b'{"a": ["x,y", [1, 2], {"b": 3, "c": [4, 5]}, "last"], "d": {"e": [1, 2, 3, 4, 5, 6, 7, 8]}}'
    (array,) = find_long_arrays(raw, MAX_INPUTS)
    assert raw[array.begin : array.end] == b'"x,y", [1, 2], {"b": 3, "c": [4, 5]}, "last"'
    assert [raw[at : at + 3] for at in array.commas] == [b", [", b", {", b', "']


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        (b'{"x": [' + b"1," * 1_300_000 + b"1]}", "1,228,800 values"),
        (b'{"x": [' + b"[]," * 110_000 + b"1]}", "102,400 arrays and objects"),
        (b"[" * 110_000, "102,400 arrays and objects"),
    ],
)
def test_more_values_than_a_request_can_need_are_refused_before_they_are_parsed(body, limit, monkeypatch):
    monkeypatch.setattr(large_json, "PART_BYTES", 2**18)
    with pytest.raises(PayloadTooLarge, match=limit):
        parse_large_object(bytearray(body), 1)


def test_commas_in_texts_are_no_values(monkeypatch):
    monkeypatch.setattr(large_json, "PART_BYTES", 2**18)
    body = {"input": ["a, [b], {c}," * 150_000]}
    assert parse_large_object(bytearray(orjson.dumps(body)), 1) == body
