"""Standard input."""

from __future__ import annotations

import io

import pytest

from gguf_embed.errors import ConfigError, EngineFailure
from gguf_embed.ingest.sources.base import SourceOptions
from gguf_embed.ingest.sources.open import open_source
from tests.ingest.sources.reading import Document, read, read_all, reasons, texts


def test_objects_are_rows(tmp_path):
    stream = io.BytesIO(b'\n{"id": 7, "text": "a", "n": 1}\nbroken\n{"text": "b"}\n')
    source = open_source("-", SourceOptions(metadata=("*",)), stdin=stream)
    assert source.name == "stdin (JSON Lines)"
    found = read(source)
    assert found[0] == Document("7", "a", '{"n":1}', "stdin:2")
    assert found[2] == Document(None, "b", "{}", "stdin:4")
    assert list(reasons(found)) == ["stdin:3"]


def test_other_lines_are_texts_with_their_numbers_as_places():
    stream = io.BytesIO(b"\xef\xbb\xbf\n\nfirst line\r\n  indented\n\n{}\nnot \xff\nlast")
    source = open_source("-", SourceOptions(), stdin=stream)
    assert source.name == "stdin (one text per line)"
    found = read(source)
    assert [(each.id, each.place, each.text) for each in found if isinstance(each.text, str)] == [
        (None, "stdin:3", "first line"),
        (None, "stdin:4", "  indented"),
        (None, "stdin:6", "{}"),
        (None, "stdin:8", "last"),
    ]
    assert reasons(found) == {"stdin:7": "is not UTF-8"}


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_nothing_has_no_documents(content):
    assert read_all("-", stdin=io.BytesIO(content)) == []


@pytest.mark.parametrize("first", [b'{"text": "cut', b"[1]", b"\xef\xbb\xbf{ }"])
def test_a_broken_first_row_does_not_turn_rows_into_texts(first):
    found = read_all("-", stdin=io.BytesIO(first + b'\n{"text": "x"}\n'), text_fields=("text",))
    assert texts(found)[1] == "x"
    assert list(reasons(found)) == ["stdin:1"]


def test_a_missing_field_is_an_error_at_the_start():
    with pytest.raises(ConfigError, match="stdin has no field 'body' in its first rows: it has 'text'"):
        open_source("-", SourceOptions(text_fields=("body",)), stdin=io.BytesIO(b'{"text": "x"}\n'))


def test_it_can_be_read_once():
    source = open_source("-", SourceOptions(), stdin=io.BytesIO(b"x\n"))
    assert texts(read(source)) == ["x"]
    with pytest.raises(ConfigError, match="only once"):
        list(source.batches(10))
    source.close()


def test_a_stream_that_breaks_is_an_error_after_what_was_read():
    class Breaking(io.BytesIO):
        def readline(self, size=-1):
            line = super().readline(size)
            if not line:
                raise OSError(5, "Input/output error")
            return line

    source = open_source("-", SourceOptions(), stdin=Breaking(b"one\ntwo\n"))
    batches = source.batches(10)
    assert list(next(batches).texts) == ["one", "two"]
    with pytest.raises(EngineFailure, match="stdin after line 2 cannot be read: Input/output error"):
        next(batches)
