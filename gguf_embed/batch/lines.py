"""The lines of a batch: what those of the input say, and writing those of the output. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson

from gguf_embed.batch.input_lines import LARGE_LINE_BYTES, Line, LineRoom, unlimited_room
from gguf_embed.batch.records import BatchLimits
from gguf_embed.errors import InvalidRequest, PayloadTooLarge

JsonObject = Mapping[str, object]
ParseObject = Callable[[bytes | bytearray], JsonObject]
"""JSON bytes → an object, as the HTTP routes read it. Raises `InvalidRequest`, or `PayloadTooLarge` for too many
values."""

MAX_CUSTOM_ID = 512  # characters
_OUTPUT_ID = re.compile(rb'\{"id":"batch_req_([0-9a-f]{32})_(\d{1,12})_(\d{1,12})",')


@dataclass(frozen=True, slots=True)
class LineRequest:
    """A line that is a request."""

    number: int
    custom_id: str
    url: str
    body: JsonObject


@dataclass(frozen=True, slots=True)
class LineReply:
    """What a route answered to a line."""

    status: int
    body: bytes  # JSON
    n_tokens: int = 0
    model: str | None = None
    retry_after_s: float | None = None  # not None: nothing is wrong with the line, send it again later

    @property
    def is_ok(self) -> bool:
        return self.status < 400


@dataclass(frozen=True, slots=True)
class Rules:
    """What the lines of one batch must be, and how they are parsed."""

    urls: frozenset[str]
    limits: BatchLimits
    parse: ParseObject  # of lines up to `LARGE_LINE_BYTES`
    parse_large: Callable[[bytearray], JsonObject]  # like `parse`, and may change the bytes
    count_inputs: Callable[[str, JsonObject], int]  # of a URL and a body
    room: LineRoom = unlimited_room  # for large lines


class BadLine(Exception):
    """A line that is no request of its batch."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


def parse_line(line: Line, rules: Rules) -> LineRequest:
    """Raises `BadLine`. The body's own fields are left to its route."""
    if line.raw is None:
        raise BadLine("line_too_long", f"the line is over {rules.limits.max_line_bytes:,} bytes: split its inputs")
    try:
        given = _parse(line.raw, rules)
    except InvalidRequest as error:
        raise BadLine("invalid_json_line", error.message.replace("the body", "the line")) from None
    except PayloadTooLarge as error:
        raise BadLine("too_many_values", error.message.replace("the body", "the line")) from None
    custom_id, url, body = given.get("custom_id"), given.get("url"), given.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID:
        raise BadLine(
            "missing_required_parameter" if custom_id is None else "invalid_custom_id",
            f'"custom_id" must be a string of 1 to {MAX_CUSTOM_ID} characters',
            "custom_id",
        )
    if given.get("method") != "POST":
        raise BadLine("invalid_method", '"method" must be "POST"', "method")
    if not isinstance(url, str) or url not in rules.urls:
        listed = " or ".join(f'"{known}"' for known in sorted(rules.urls))
        raise BadLine("invalid_url", f'"url" must be {listed}, as for the whole batch', "url")
    if not isinstance(body, dict):
        raise BadLine("missing_required_parameter", '"body" must be an object, the body of the request', "body")
    return LineRequest(line.number, custom_id, url, body)


def _parse(raw: bytes | bytearray, rules: Rules) -> JsonObject:
    if len(raw) <= LARGE_LINE_BYTES:
        return rules.parse(raw)
    return rules.parse_large(raw if isinstance(raw, bytearray) else bytearray(raw))


def output_line(key: str, request: LineRequest, reply: LineReply) -> bytes:
    """A line of the output or error file. `key`: 32 hexadecimal digits. Its id holds the number of the line."""
    response = {
        "status_code": reply.status,
        "request_id": request_id(key, request.number),
        "body": orjson.Fragment(reply.body),
    }
    return _written(key, request.number, reply.n_tokens, request.custom_id, response, None)


def left_line(key: str, request: LineRequest, code: str, message: str) -> bytes:
    """A line of the error file for a request that was not computed."""
    return _written(key, request.number, 0, request.custom_id, None, {"code": code, "message": message})


def request_id(key: str, number: int) -> str:
    """The id under which the server's log has the request."""
    return f"batch_{key}-{number}"


def _written(key: str, number: int, n_tokens: int, custom_id: str, response: object, error: object) -> bytes:
    line = {
        "id": f"batch_req_{key}_{number}_{n_tokens}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


@dataclass(frozen=True, slots=True)
class Written:
    """What the id of an output line says."""

    number: int
    n_tokens: int


def read_written(raw: bytes, key: str) -> Written | None:
    """None for a line that is not complete, or not of this batch."""
    found = _OUTPUT_ID.match(raw)
    if found is None or found[1].decode() != key or not raw.endswith(b"}\n") or b"\0" in raw:
        return None
    return Written(int(found[2]), int(found[3]))
