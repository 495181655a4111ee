"""The lines of a batch: reading and checking those of the input, writing those of the output. Pure but for reading."""

from __future__ import annotations

import codecs
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import orjson

from gguf_embed.batch.records import BatchLimits, LineError
from gguf_embed.errors import InvalidRequest

JsonObject = Mapping[str, object]
ParseObject = Callable[[bytes], JsonObject]
"""JSON bytes → an object, as the HTTP routes read it. Raises `InvalidRequest`."""

MAX_CUSTOM_ID = 512  # characters
MAX_ERRORS = 100
"""How many wrong lines a failed batch lists."""

_LINES_PER_TURN = 32
_AROUND_BODY_BYTES = 4096
"""What a line may have around its body."""

_OUTPUT_ID = re.compile(rb'\{"id":"batch_req_([0-9a-f]{32})_(\d{1,12})_(\d{1,12})",')


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the input. `number` counts from 1, as an editor does; `raw` is None for a line that is too long."""

    number: int
    raw: bytes | None


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
    """What the lines of one batch must be."""

    urls: frozenset[str]
    limits: BatchLimits
    parse: ParseObject
    count_inputs: Callable[[str, JsonObject], int]  # of a URL and a body


class BadLine(Exception):
    """A line that is no request of its batch."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


def read_lines(stream: BinaryIO, max_body_bytes: int) -> Iterator[Line]:
    """The lines that are not blank. Holds one line in memory, and of a longer one only its beginning."""
    max_bytes = max_body_bytes + _AROUND_BODY_BYTES
    number = 0
    while raw := stream.readline(max_bytes + 1):
        number += 1
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        if len(raw) > max_bytes:
            while raw and not raw.endswith(b"\n"):
                raw = stream.readline(max_bytes)
            yield Line(number, None)
        elif raw.strip():
            yield Line(number, raw)


def parse_line(line: Line, rules: Rules) -> LineRequest:
    """Raises `BadLine`. The body's own fields are left to its route."""
    if line.raw is None:
        raise BadLine("line_too_long", f"the line is over {rules.limits.max_line_bytes:,} bytes: split its inputs")
    try:
        given = rules.parse(line.raw)
    except InvalidRequest as error:
        raise BadLine("invalid_json_line", error.message.replace("the body", "the line")) from None
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


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of reading a whole input. Without errors it can be computed."""

    n_requests: int
    errors: tuple[LineError, ...]
    model: str | None  # of the first line
    sha256: str


class _Hashed:
    """A stream whose bytes are hashed as they are read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()

    def readline(self, limit: int) -> bytes:
        raw = self._stream.readline(limit)
        self.sha256.update(raw)
        return raw


def check_input(stream: BinaryIO, rules: Rules) -> Checked:
    """Read all lines. Memory grows with their number only, by about 100 bytes each. May take seconds."""
    hashed = _Hashed(stream)
    seen: set[bytes] = set()
    errors: list[LineError] = []
    n_requests = n_inputs = 0
    model: str | None = None
    limits = rules.limits
    for line in read_lines(hashed, limits.max_line_bytes):  # type: ignore[arg-type]  # it only calls readline
        n_requests += 1
        if n_requests % _LINES_PER_TURN == 0:
            time.sleep(0)  # lets the event loop have the interpreter at once
        try:
            request = _checked(line, rules, seen)
        except BadLine as bad:
            if len(errors) < MAX_ERRORS:
                errors.append(LineError(bad.code, bad.message, line.number, bad.param))
            continue
        n_inputs += rules.count_inputs(request.url, request.body)
        if model is None and isinstance(request.body.get("model"), str):
            model = str(request.body["model"])
    return Checked(n_requests, (*_of_all(n_requests, n_inputs, limits), *errors), model, hashed.sha256.hexdigest())


def _checked(line: Line, rules: Rules, seen: set[bytes]) -> LineRequest:
    request = parse_line(line, rules)
    digest = hashlib.blake2b(request.custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    if digest in seen:
        raise BadLine("duplicate_custom_id", "an earlier line has the same custom_id", "custom_id")
    seen.add(digest)
    return request


def _of_all(n_requests: int, n_inputs: int, limits: BatchLimits) -> Iterator[LineError]:
    """What is wrong with the input as a whole."""
    if n_requests == 0:
        yield LineError("empty_file", "the input file has no lines: write one request per line")
    if limits.max_requests is not None and n_requests > limits.max_requests:
        yield LineError(
            "too_many_requests",
            f"the input file has {n_requests} requests, the limit is {limits.max_requests}: split it",
        )
    if limits.max_inputs is not None and n_inputs > limits.max_inputs:
        yield LineError(
            "too_many_inputs", f"the input file has {n_inputs} inputs, the limit is {limits.max_inputs}: split it"
        )


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
