"""Parsers of everything that is no request: any bytes and any text are read or refused, and end in no other error."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gguf_embed.cli import flag_types
from gguf_embed.cli.configure import origins, rerank_scores
from gguf_embed.durations import parse_go_duration
from gguf_embed.embedder.endpoint_errors import retry_after_s
from gguf_embed.errors import ConfigError, EmbedError, EngineFailure, InvalidRequest, ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.images.url_allowlist import RemoteHosts, parse_hosts
from gguf_embed.preprocessing.prompt_prefixes import parse_flag
from gguf_embed.server.fields.images import ImageRules, parse_images
from gguf_embed.server.http.content_encoding import unpack
from gguf_embed.server.http.json_text import parse_object
from tests.gguf_models import write_tiny_encoder
from tests.ingest.sources.reading import read_all

QUICK = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
NUMBERS = st.sampled_from(["inf", "nan", "-inf", "1e400", "9" * 400, "9" * 5000, "٣", "1_0", "+-1", "0x10"])
UNITS = st.sampled_from(["", "s", "h", "ns", "K", "T", "GiB", "=", ",", "/"])
TEXTS = st.one_of(st.text(max_size=12), st.tuples(NUMBERS, UNITS).map("".join))


@QUICK
@given(st.binary(max_size=64) | st.text(max_size=16).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_a_body_is_an_object_or_refused(raw):
    with suppress(InvalidRequest):
        assert isinstance(parse_object(raw), dict)


@QUICK
@given(st.binary(max_size=64), st.sampled_from(["gzip", "deflate", "x-gzip"]))
def test_packed_bytes_are_unpacked_or_refused(raw, encoding):
    with suppress(InvalidRequest):
        assert len(unpack(raw, encoding, 1000)) <= 1001


@QUICK
@given(st.text(max_size=40) | st.binary(max_size=30).map(lambda raw: "data:image/png;base64," + raw.hex()))
def test_an_image_is_read_or_refused(url):
    content = [{"content": [{"type": "image_url", "image_url": {"url": url}}]}]
    with pytest.raises(EmbedError) as caught:
        parse_images(content, "input", ImageRules(RemoteHosts(), 9))
    assert caught.value.kind in ("invalid_request", "not_supported")


@pytest.fixture(scope="module")
def header(tmp_path_factory) -> bytes:
    path = write_tiny_encoder(tmp_path_factory.mktemp("model") / "m.gguf")
    return path.read_bytes()[:12_000]


def test_a_damaged_header_is_read_or_refused(header, tmp_path):
    path = tmp_path / "m.gguf"

    @QUICK
    @given(st.integers(0, len(header) - 1), st.binary(min_size=1, max_size=9), st.integers(0, len(header)))
    def run(position: int, patch: bytes, length: int) -> None:
        damaged = bytearray(header)
        damaged[position : position + len(patch)] = patch
        check_header(path, bytes(damaged))
        check_header(path, bytes(damaged[:length]))

    run()


@QUICK
@given(st.binary(max_size=80))
def test_any_bytes_are_no_model(tmp_path_factory, raw):
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    for content in (raw, b"GGUF\x03\0\0\0" + raw):
        path.write_bytes(content)
        with pytest.raises(ModelFileError):
            read_header(path)


def check_header(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    with suppress(ModelFileError):
        read_header(path)


LINES = st.lists(st.sampled_from(['{"text":"a"}', "{", "[", '"', '""', ",", "\n", "\r", "\t", "a", "é", "\0", "1e999"]))


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv"])
def test_any_file_of_rows_is_read_or_refused(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    limit = csv.field_size_limit()

    @QUICK
    @given(LINES.map("".join).map(str.encode) | st.binary(max_size=60), st.booleans())
    def run(raw: bytes, has_header: bool) -> None:
        path.write_bytes(b'{"text": "x"}\n' + raw if has_header and ending == "jsonl" else b"text\n" * has_header + raw)
        with suppress(ConfigError, EngineFailure):
            read_all(path, **({"text_fields": ("text",)} if has_header else {}))

    run()
    csv.field_size_limit(limit)


@QUICK
@given(TEXTS)
def test_a_duration_is_a_number_or_refused(text):
    with suppress(ValueError):
        assert not math.isnan(parse_go_duration(text))


@QUICK
@given(TEXTS)
@example("Mon, 01 Jan 0001 00:00:00 GMT")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
def test_a_pause_is_finite_or_none(text):
    for name in ("Retry-After", "retry-after-ms"):
        pause_s = retry_after_s({name: text})
        assert pause_s is None or (pause_s >= 0 and math.isfinite(pause_s))


def test_a_pause_until_a_date_is_the_time_until_then():
    later = datetime.fromtimestamp(datetime.now(UTC).timestamp() + 60, UTC)
    pause_s = retry_after_s({"Retry-After": later.strftime("%a, %d %b %Y %H:%M:%S GMT")})
    assert pause_s == pytest.approx(60, abs=5)


FLAGS: dict[str, Callable[[str], Any]] = {
    "layers": lambda text: flag_types.LayerCount().convert(text, None, None),
    "prefix": lambda text: flag_types.PathPrefix().convert(text, None, None),
    "keep-alive": lambda text: flag_types.KeepAlive().convert(text, None, None),
    "memory": lambda text: flag_types.MemorySize().convert(text, None, None),
    "number": lambda text: flag_types.Number(0, 9).convert(text, None, None),
    "prompt": parse_flag,
    "origins": origins,
    "rerank-scores": lambda text: rerank_scores([text]),
    "hosts": parse_hosts,
}


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_is_read_or_refused(flag):
    @QUICK
    @given(TEXTS)
    @example("nan")
    @example("9" * 400 + "T")
    def run(text: str) -> None:
        try:
            value = FLAGS[flag](text)
        except (click.BadParameter, ConfigError):
            return
        assert value == value, "a number that is none"

    run()
