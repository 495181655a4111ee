"""Lines of the input are checked, and those of the output can be found again. No process."""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import nullcontext
from types import SimpleNamespace

import orjson
import pytest

from gguf_embed.batch.check import check_input
from gguf_embed.batch.input_lines import LargeLine, Line, read_large, read_lines
from gguf_embed.batch.line_log import Results
from gguf_embed.batch.lines import LineReply, LineRequest, output_line, read_written
from gguf_embed.batch.records import BatchLimits
from gguf_embed.server.batch_lines import count_inputs, line_rules
from gguf_embed.server.http import json_text, large_json

KEY = "0123456789abcdef" * 2
URL = "/v1/embeddings"


def rules(**limits: int | None):
    return line_rules(frozenset({URL}), BatchLimits(**limits))


def raw(**changes: object) -> bytes:
    line = {"custom_id": "a", "method": "POST", "url": URL, "body": {"input": "x", "model": "m"}, **changes}
    return json.dumps({name: value for name, value in line.items() if value is not None}).encode() + b"\n"


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (b"{\n", "invalid_json_line", None),
        (b"[1]\n", "invalid_json_line", None),
        (b"\xff\n", "invalid_json_line", None),
        (raw(custom_id=None), "missing_required_parameter", "custom_id"),
        (raw(custom_id=5), "invalid_custom_id", "custom_id"),
        (raw(custom_id=""), "invalid_custom_id", "custom_id"),
        (raw(custom_id="a" * 513), "invalid_custom_id", "custom_id"),
        (raw(method="GET"), "invalid_method", "method"),
        (raw(method=None), "invalid_method", "method"),
        (raw(url="/v1/rerank"), "invalid_url", "url"),
        (raw(url="/v1/../etc/passwd"), "invalid_url", "url"),
        (raw(url=[URL]), "invalid_url", "url"),
        (raw(body=None), "missing_required_parameter", "body"),
        (raw(body="x"), "missing_required_parameter", "body"),
        (raw(custom_id="good"), "duplicate_custom_id", "custom_id"),
        (raw(body={"input": "x" * 20_000}), "line_too_long", None),
    ],
)
def test_a_wrong_line_is_named(line, code, param):
    checked = check_input(io.BytesIO(raw(custom_id="good") + b"\n" + line), rules(max_line_bytes=10_000))
    assert [(error.code, error.line, error.param) for error in checked.errors] == [(code, 3, param)]
    assert (checked.n_requests, checked.model) == (2, "m")


@pytest.mark.parametrize(
    "text", ["\ufeff" + raw().decode(), raw().decode().rstrip("\n"), raw(body={"input": "\ud83d"}).decode()]
)
def test_what_http_accepts_is_accepted(text):
    """A byte order mark, half a surrogate pair; and a last line without its end."""
    assert check_input(io.BytesIO(text.encode()), rules()).errors == ()


def test_a_file_has_limits_as_a_whole():
    lines = b"".join(raw(custom_id=str(number), body={"input": ["a"] * 10}) for number in range(10))
    assert check_input(io.BytesIO(lines), rules(max_requests=10, max_inputs=100)).errors == ()
    errors = check_input(io.BytesIO(lines), rules(max_requests=9, max_inputs=99)).errors
    assert [error.code for error in errors] == ["too_many_requests", "too_many_inputs"]
    assert [error.code for error in check_input(io.BytesIO(b"\n\n"), rules()).errors] == ["empty_file"]


def test_a_failed_batch_lists_a_hundred_errors_at_most():
    assert len(check_input(io.BytesIO(b"{\n" * 1000), rules()).errors) == 100


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"input": "a"}, 1),
        ({"input": ["a", "b"]}, 2),
        ({"input": [101, 102]}, 1),
        ({"input": [[101], [102], [103]]}, 3),
        ({"texts": ["a", "b"]}, 2),
        ({"input": []}, 0),
        ({}, 1),
        ({"input": 5}, 1),
    ],
)
def test_inputs_are_counted_as_the_route_reads_them(body, expected):
    assert count_inputs(URL, body) == expected


def test_documents_are_counted():
    assert count_inputs("/v1/rerank", {"query": "q", "documents": ["a", "b", "c"]}) == 3


def test_a_long_line_is_not_read_into_memory():
    class Counting(io.BytesIO):
        longest = 0

        def readline(self, size: int | None = -1) -> bytes:
            found = super().readline(size)
            self.longest = max(self.longest, len(found))
            return found

    stream = Counting(b"x" * 1_000_000 + b"\n" + raw())
    lines = list(read_lines(stream, 1000))
    assert [(line.number, line.raw is None) for line in lines if isinstance(line, Line)] == [(1, True), (2, False)]
    assert stream.longest < 10_000


def large(**changes: object) -> bytes:
    """A line of 900 kB with many texts."""
    return raw(body={"input": [f"text {number:07}" for number in range(60_000)], **changes})


def test_a_large_line_is_parsed_in_parts(monkeypatch):
    sizes: list[int] = []

    def parse(part: bytes | bytearray | memoryview) -> object:
        sizes.append(len(part))
        return orjson.loads(part)

    for module in (large_json, json_text):
        monkeypatch.setattr(module, "orjson", SimpleNamespace(loads=parse, JSONDecodeError=orjson.JSONDecodeError))
    checked = check_input(io.BytesIO(raw(custom_id="b") + large() + raw(custom_id="c")), rules(max_inputs=60_002))
    assert (checked.errors, checked.n_requests) == ((), 3)
    assert sum(sizes) > 900_000
    assert max(sizes) < 1.2 * large_json.PART_BYTES


def test_a_large_line_has_as_many_values_as_a_large_body_at_most():
    """`[]` takes 28 times its size in memory."""
    checked = check_input(io.BytesIO(raw(body={"input": [[]] * 110_000}) + large()), rules(max_inputs=None))
    (error,) = checked.errors
    assert (error.code, error.line) == ("too_many_values", 1)
    assert error.message == "the line has more than 102,400 arrays and objects, the limit for one request"
    assert line_rules(frozenset({URL}), BatchLimits(), max_inputs=4096).parse_large(
        bytearray(orjson.dumps({"body": {"input": [[]] * 110_000}}))
    )


@pytest.mark.parametrize("blank", [b" " * 300_000 + b"\n", b" " * 600_000])
def test_a_large_blank_line_is_none(blank):
    assert check_input(io.BytesIO(raw() + blank), rules()).n_requests == 1


def test_a_large_line_is_read_when_it_is_asked_for():
    content = raw(custom_id="b") + large() + raw()
    stream = io.BytesIO(content)
    small, found, after = read_lines(stream, 2**26)
    assert isinstance(found, LargeLine)
    assert [(line.number, line.raw) for line in (small, read_large(stream, found), after)] == [
        (1, raw(custom_id="b")),
        (2, large()),
        (3, raw()),
    ]
    assert checked_sha256(content) == hashlib.sha256(content).hexdigest()


def checked_sha256(content: bytes) -> str:
    return check_input(io.BytesIO(content), rules()).sha256


def answered(number: int, status: int = 200, body: bytes = b'{"data":[]}', n_tokens: int = 7):
    return LineRequest(number, f"id {number}", URL, {}), LineReply(status, body, n_tokens, "m")


def test_an_output_line_is_found_again():
    line = output_line(KEY, *answered(12))
    found = orjson.loads(line)
    assert (found["custom_id"], found["error"]) == ("id 12", None)
    assert found["response"] == {"status_code": 200, "request_id": f"batch_{KEY}-12", "body": {"data": []}}
    written = read_written(line, KEY)
    assert written is not None
    assert (written.number, written.n_tokens) == (12, 7)
    for wrong in (line[:-1], line[5:], line.replace(b"id 12", b"\0\0\0\0\0"), b"\n", b""):
        assert read_written(wrong, KEY) is None
    assert read_written(line, "f" * 32) is None


def test_results_continue_after_a_crash_at_any_byte(tmp_path):
    whole = Results(tmp_path / "output", tmp_path / "errors", KEY)
    whole.write([answered(1), answered(2, status=400, n_tokens=0), answered(3)], nullcontext)
    whole.close()
    content = (tmp_path / "output").read_bytes()
    first = content.index(b"\n") + 1
    for n_bytes in range(len(content) + 1):
        (tmp_path / "output").write_bytes(content[:n_bytes])
        found = Results(tmp_path / "output", tmp_path / "errors", KEY)
        n_whole = 0 if n_bytes < first else 1 if n_bytes < len(content) else 2
        assert (found.n_completed, found.n_failed, found.n_tokens) == (n_whole, 1, 7 * n_whole)
        assert [found.has(number) for number in (1, 2, 3, 4)] == [n_whole > 0, True, n_whole > 1, False]
        assert found.output.n_bytes == (0, first, len(content))[n_whole] == (tmp_path / "output").stat().st_size
        found.close()


def test_zeros_that_a_power_cut_left_are_cut_off(tmp_path):
    lines = [output_line(KEY, *answered(number)) for number in (1, 2, 3)]
    (tmp_path / "output").write_bytes(lines[0] + bytes(len(lines[1])) + lines[2])
    found = Results(tmp_path / "output", tmp_path / "errors", KEY)
    assert [found.has(number) for number in (1, 2, 3)] == [True, False, False]
    found.write([answered(2), answered(3)], nullcontext)
    found.close()
    assert (tmp_path / "output").read_bytes() == b"".join(lines)
