"""Chunks of texts of all kinds: what holds for every text, and where chunks begin and end."""

from __future__ import annotations

import random
import re
from itertools import pairwise
from pathlib import Path

import pytest

from gguf_embed.errors import ConfigError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.vocabulary import read_wordpiece_vocabulary
from gguf_embed.ingest.chunking.boundaries import Strength, strength_at
from gguf_embed.ingest.chunking.chunker import Chunker
from gguf_embed.ingest.chunking.settings import ChunkSettings
from gguf_embed.ingest.rows import Chunk
from gguf_embed.tokenization.wordpiece_codec import WordPieceCodec
from tests.ingest.chunking.texts import CHINESE, pieces_of, random_text

SENTENCES = "The cat sat on the mat today. It was red. " * 20
DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def default_offsets(default_model):
    stored = read_wordpiece_vocabulary(read_header(default_model))
    codec = WordPieceCodec(stored.vocabulary, stored.piece, strips_first_space=stored.strips_first_space)
    return lambda text: codec.tokenize_with_offsets(text)[1][1:-1]


def chunks_of(text: str, settings: ChunkSettings, kind: str = "text", **limits) -> list[str]:
    return [text[chunk.start : chunk.end] for chunk in Chunker(settings, pieces_of, **limits).split(text, kind)]


def check_cover(text: str, chunks: list[Chunk], *, overlaps: bool) -> None:
    """Chunks are trimmed, advance, and have all that is not whitespace."""
    for chunk in chunks:
        part = text[chunk.start : chunk.end]
        assert part
        assert part == part.strip()
    for one, next_ in pairwise(chunks):
        assert one.start < next_.start
        assert one.end < next_.end
        assert overlaps or one.end <= next_.start
        assert not text[one.end : next_.start].strip()
    if chunks:
        assert not (text[: chunks[0].start] + text[chunks[-1].end :]).strip()
    else:
        assert not text.strip()


def check_words(text: str, chunks: list[Chunk], size: int, count) -> None:
    """A border is inside a word only if the word has more tokens than a chunk."""
    for position in {edge for chunk in chunks for edge in (chunk.start, chunk.end)} - {0, len(text)}:
        if strength_at(text, position, set()) < Strength.SPACE:
            before = re.search(r"\S*$", text[:position])[0]
            after = re.match(r"\S*", text[position:])[0]
            assert count(before + after) >= size or not (before + after).isascii()


@pytest.mark.parametrize("seed", range(250))
def test_properties_of_random_texts(seed, default_offsets):
    random_ = random.Random(seed)
    text = random_text(seed)
    size = random_.choice([8, 16, 40, 128, 256])
    overlap = random_.choice([0, 0, (size - 1) // 2, size // 4])
    by = random_.choice(["auto", "sentence", "paragraph", "markdown"])
    offsets = random_.choice([default_offsets, pieces_of])
    chunker = Chunker(ChunkSettings(size, overlap, by), offsets, max_tokens=size + random_.choice([2, -2]), n_special=2)
    chunks = chunker.split(text, random_.choice(["text", "markdown"]))
    check_cover(text, chunks, overlaps=overlap > 0)
    check_words(text, chunks, chunker.size, lambda word: len(offsets(word)))
    for chunk in chunks:
        assert len(offsets(text[chunk.start : chunk.end])) <= chunker.size or chunk.end - chunk.start == 1


@pytest.mark.parametrize("kind", ["text", "markdown"])
def test_real_documents_fill_their_chunks(kind, default_offsets):
    chunker = Chunker(ChunkSettings(128, 16), default_offsets, max_tokens=256, n_special=2)
    counts = []
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text()
        chunks = chunker.split(text, kind)
        check_cover(text, chunks, overlaps=True)
        check_words(text, chunks, 128, lambda word: len(default_offsets(word)))
        counts += [len(default_offsets(text[chunk.start : chunk.end])) for chunk in chunks]
    assert max(counts) <= 130
    assert sum(counts) / len(counts) > {"text": 90, "markdown": 60}[kind]


@pytest.mark.parametrize("offsets", [pieces_of, lambda text: None])
def test_offsets_count_code_points(offsets):
    text = "👩‍👩‍👧‍👦 first.\r\n\r\n" * 30 + "last"
    chunks = Chunker(ChunkSettings(40), offsets).split(text)
    check_cover(text, chunks, overlaps=False)
    assert all(text[chunk.start : chunk.end].startswith(("👩‍👩‍👧‍👦", "last")) for chunk in chunks)


def test_a_short_text_is_one_chunk():
    assert Chunker(ChunkSettings(256), pieces_of).split(" \n one. Two.\n\nThree \t") == [Chunk(3, 19)]


@pytest.mark.parametrize("text", ["", " ", "\r\n\t \u3000\n" * 500])
def test_a_text_of_whitespace_has_no_chunks(text):
    assert Chunker(ChunkSettings(8), pieces_of).split(text, "markdown") == []


def test_chunks_end_with_sentences():
    chunks = chunks_of(SENTENCES, ChunkSettings(32, by="sentence"))
    assert all(chunk.endswith(".") for chunk in chunks)
    assert all(12 <= len(pieces_of(chunk)) <= 32 for chunk in chunks[:-1])


def test_wrapped_lines_are_no_ends_of_sentences():
    words = " ".join(f"Word{n}" if n % 15 == 0 else f"word{n}." if n % 15 == 14 else f"word{n}" for n in range(300))
    wrapped = re.sub(r"(.{50,70}) (?=w)", r"\1\n", words)
    assert wrapped.count("\n") > 20
    assert all(chunk.endswith(".") for chunk in chunks_of(wrapped, ChunkSettings(64)))


def test_paragraphs_stay_whole_if_they_fit():
    paragraphs = [("word " * n).strip() + "." for n in (20, 10, 25, 5, 30, 28)]
    chunks = chunks_of("\n\n".join(paragraphs), ChunkSettings(40, by="paragraph"))
    assert [part for chunk in chunks for part in chunk.split("\n\n")] == paragraphs


def test_the_overlap_has_whole_sentences():
    text = " ".join(f"Number {n} is here." for n in range(60))
    chunks = Chunker(ChunkSettings(40, 12), pieces_of).split(text)
    for one, next_ in pairwise(chunks):
        repeated = text[next_.start : one.end]
        assert re.fullmatch(r"(Number \d+ is here\.\s?)+", repeated)
        assert len(pieces_of(repeated)) <= 12


def test_a_word_longer_than_a_chunk_is_cut_at_tokens():
    chunks = chunks_of("short " + "x" * 400 + " end", ChunkSettings(10))
    assert chunks[0] == "short"
    assert chunks[1] == "x" * 40
    assert chunks[-1] == "end"


def test_chinese_is_cut_after_sentences_and_between_words():
    chunks = chunks_of(CHINESE * 10, ChunkSettings(90))
    assert all(chunk[-1] in "。！" for chunk in chunks)
    without_marks = "資料庫儲存了許多文件" * 30
    offsets = [(at, at + 1) for at in range(len(without_marks))]
    chunks = Chunker(ChunkSettings(50), lambda text: offsets[: len(text)]).split(without_marks)
    assert [chunk.end - chunk.start for chunk in chunks] == [50] * 6


def test_a_heading_starts_a_chunk_and_stays_with_its_text():
    text = "intro\n\n# Guide\n\n## Install\n\nRun it.\n\n## Use\n" + SENTENCES
    chunks = Chunker(ChunkSettings(32), pieces_of).split(text, "markdown")
    parts = [text[chunk.start : chunk.end] for chunk in chunks]
    assert parts[:2] == ["intro", "# Guide\n\n## Install\n\nRun it."]
    assert parts[2].startswith("## Use\nThe cat")
    assert [chunk.headings for chunk in chunks[:2]] == [(), ("Guide", "Install")]
    assert {chunk.headings for chunk in chunks[2:]} == {("Guide", "Use")}


def test_plain_text_has_no_headings_unless_markdown_is_asked_for():
    text = "# One\ntext\n\n# Two\ntext"
    assert len(chunks_of(text, ChunkSettings(32))) == 1
    assert len(chunks_of(text, ChunkSettings(32, by="markdown"))) == 2
    assert len(chunks_of(text, ChunkSettings(32, by="sentence"), "markdown")) == 1


def test_only_headings_are_one_chunk():
    assert chunks_of("# One\n\n## Two\n\n# Three\n", ChunkSettings(32), "markdown") == ["# One\n\n## Two\n\n# Three"]


@pytest.mark.parametrize("before", ["", "# Title\n\n", "One sentence.\n\n", SENTENCES + "\n\n"])
@pytest.mark.parametrize("overlap", [0, 30])
def test_code_that_fits_is_not_split(before, overlap):
    code = "```sh\n# a comment\n" + "run --this now\n\n" * 12 + "```"
    size = len(pieces_of(code))
    chunks = chunks_of(f"{before}{code}\n\nafter. " + SENTENCES, ChunkSettings(size, overlap), "markdown")
    assert any(code in chunk for chunk in chunks)


def test_longer_code_is_cut_between_lines():
    code = "```\n" + "call(one, two)\n" * 60 + "```"
    chunks = chunks_of(code, ChunkSettings(30), "markdown")
    assert len(chunks) > 8
    assert all(line in ("call(one, two)", "```") for chunk in chunks for line in chunk.splitlines())


def test_chunks_leave_room_for_special_tokens():
    chunks = chunks_of(SENTENCES, ChunkSettings(64), max_tokens=20, n_special=5)
    assert max(len(pieces_of(chunk)) for chunk in chunks) <= 15
    with pytest.raises(ConfigError, match="takes 8 tokens per text, and 9 of them"):
        Chunker(ChunkSettings(64), pieces_of, max_tokens=8, n_special=9)


def test_a_chunk_that_has_more_tokens_alone_is_cut_again():
    """A tokenizer that spells out the first word of each text: six tokens more for it."""

    def offsets(text):
        first = re.match(r"\s*(\S+)", text)
        return [*([first.span(1)] * 6 if first else []), *pieces_of(text)]

    chunks = Chunker(ChunkSettings(32), offsets, max_tokens=32).split(SENTENCES)
    check_cover(SENTENCES, chunks, overlaps=False)
    assert max(len(offsets(SENTENCES[chunk.start : chunk.end])) for chunk in chunks) <= 32


def test_without_a_tokenizer_tokens_are_estimated():
    chunker = Chunker(ChunkSettings(16), lambda text: None, max_tokens=512, n_special=2)
    assert chunker.is_estimated
    assert not Chunker(ChunkSettings(16), pieces_of).is_estimated
    chunks = chunker.split(SENTENCES)
    check_cover(SENTENCES, chunks, overlaps=False)
    assert max(chunk.end - chunk.start for chunk in chunks) <= 64


def test_each_document_is_tokenized_once():
    seen: list[str] = []
    text = SENTENCES * 60
    Chunker(ChunkSettings(128), lambda part: seen.append(part) or pieces_of(part), max_tokens=512).split(text)
    assert "".join(seen[1:]) == text
    assert max(map(len, seen)) <= 16_000


def test_lone_surrogates_keep_the_offsets():
    text = "one \ud800 two. " * 50
    check_cover(text, Chunker(ChunkSettings(16), pieces_of).split(text), overlaps=False)
