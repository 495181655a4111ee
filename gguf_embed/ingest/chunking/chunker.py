"""Cuts documents into chunks of the model's own tokens, at headings, paragraphs, sentences and words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.chunking.boundaries import (
    Boundaries,
    Strength,
    find_boundaries,
    segments_of,
    soft_wraps_of,
    strength_at,
)
from gguf_embed.ingest.chunking.markdown import Outline, Section, outline_of
from gguf_embed.ingest.chunking.packing import Packing
from gguf_embed.ingest.chunking.settings import ChunkSettings
from gguf_embed.ingest.chunking.token_counts import TokenCounts, counts_of_spans, estimated_counts
from gguf_embed.ingest.rows import Chunk
from gguf_embed.ingest.sources.base import TextKind
from gguf_embed.tokenization.offsets import trim
from gguf_embed.types import Span

TokenOffsets = Callable[[str], Sequence[Span | None] | None]
"""The spans of a text's own tokens, in order; None if nothing can tokenize."""

_MAX_UNIT_CHARACTERS: Final = 200
_MIN_UNIT_CHARACTERS: Final = 8
_TOKENIZED_CHARACTERS: Final = 16_000  # at once; other threads can run in between
_CLOSE_TO_LIMIT: Final = 8  # tokens: a chunk alone may have a few more than as a part of its text

_PLAIN: Final = Outline([Section(0, 0, ())], [])
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Chunker:
    """Cuts texts. Keeps nothing between two texts, so it may be used by several threads if `token_offsets` may."""

    def __init__(
        self, settings: ChunkSettings, token_offsets: TokenOffsets, *, max_tokens: int | None = None, n_special: int = 0
    ) -> None:
        """`max_tokens` is the model's limit per text, of which `n_special` are the special tokens and the prompt's.

        Raises `ConfigError` if they leave no room for a text.
        """
        self.settings = settings
        self._token_offsets = token_offsets
        self._hard_limit = None if max_tokens is None else max_tokens - n_special
        if self._hard_limit is not None and self._hard_limit < 1:
            raise ConfigError(
                f"the model takes {max_tokens} tokens per text, and {n_special} of them are special tokens and the "
                "prompt: use a shorter prompt or another model"
            )
        self.size = settings.size if self._hard_limit is None else min(settings.size, self._hard_limit)
        self._overlap = min(settings.overlap, (self.size - 1) // 2)
        self._unit_characters = _unit_characters(self.size, self._overlap)
        self._is_estimated = token_offsets("a") is None

    @property
    def is_estimated(self) -> bool:
        """Whether tokens are estimated, as four bytes each, because nothing can tokenize."""
        return self._is_estimated

    def split(self, text: str, kind: TextKind = "text") -> list[Chunk]:
        """The chunks in order. Every character that is not whitespace is in one, in two only by the overlap.

        In Markdown, a heading starts a chunk; so a text that is shorter than the size has several if it has several
        headings, unless the chunks are made by sentence or paragraph.
        """
        if not text.isascii():
            text = _SURROGATE.sub("\ufffd", text)
        outline = outline_of(text) if kind == "markdown" or self.settings.by == "markdown" else _PLAIN
        sections = outline.sections if self.settings.by in ("auto", "markdown") else outline.sections[:1]
        if len(sections) == 1 and len(text) * _max_bytes(text) <= self.size:
            spans = [(0, len(text))]
        else:
            spans = self._spans(text, outline, sections)
        trimmed = [trim(text, start, end) for start, end in spans if text[start:end].strip()]
        return [Chunk(start, end, outline.titles_of(start, end)) for start, end in trimmed]

    def _spans(self, text: str, outline: Outline, sections: Sequence[Section]) -> list[Span]:
        segments = segments_of(text, _TOKENIZED_CHARACTERS)
        counts = self._counts(text, segments)
        if len(sections) == 1 and len(segments) == 1 and len(counts) <= self.size:
            return [(0, len(text))]
        soft_wraps = soft_wraps_of(text, outline.code)
        boundaries = find_boundaries(text, self._unit_characters, soft_wraps)
        self._add_structure(text, boundaries, counts, outline)
        packing = Packing(
            text,
            boundaries,
            counts,
            {start for start, _ in soft_wraps},
            self.settings.by,
            frozenset(start for start, _ in outline.code),
        )
        starts = [section.start for section in sections]
        return [
            span
            for start, stop in zip(starts, [*starts[1:], len(text)], strict=True)
            for packed in packing.pack(start, stop, self.size, self._overlap)
            for span in self._within_limit(packing, packed)
        ]

    def _counts(self, text: str, segments: Sequence[Span]) -> TokenCounts:
        """Tokenizes each segment once."""
        parts: list[tuple[int, int, Sequence[Span | None]]] = []
        for start, end in segments:
            spans = self._token_offsets(text[start:end])
            if spans is None:
                return estimated_counts(text)
            parts.append((start, end, spans))
        return counts_of_spans(parts)

    def _add_structure(self, text: str, boundaries: Boundaries, counts: TokenCounts, outline: Outline) -> None:
        """Boundaries at headings and code. Code is cut at its lines, and not at all if it fits into a chunk."""
        for start, end in outline.code:
            if start > 0:
                boundaries.insert(start, max(Strength.SPACE, strength_at(text, start, set())))
            if end < len(text):
                boundaries.insert(end, Strength.PARAGRAPH)
            lines = [] if counts.between(start, end) <= self.size else _lines_inside(text, start, end)
            boundaries.replace_inside(start, end, [at for at, _ in lines], [strength for _, strength in lines])
        for section in outline.sections:
            if section.start > 0:
                boundaries.insert(section.start, Strength.PARAGRAPH)
            if section.start < section.content < len(text):
                # weak: headings stay with the text that follows
                boundaries.insert(section.content, Strength.SPACE)
                boundaries.replace_inside(section.start, section.content, [], [])

    def _within_limit(self, packing: Packing, span: Span) -> list[Span]:
        """The chunk, or smaller ones if it alone has more tokens than the model takes."""
        limit = self._hard_limit
        if limit is None or self._is_estimated:
            return [span]
        if packing.counts.is_exact and packing.counts.between(*span) <= limit - _CLOSE_TO_LIMIT:
            return [span]
        n_tokens = self._tokens_alone(packing.text, span)
        size = packing.counts.between(*span)
        while n_tokens > limit and size > 1:
            size = max(1, min(size - 1, size * limit // n_tokens))
            parts = packing.pack(*span, size, 0)
            if len(parts) > 1:
                return [part for whole in parts for part in self._within_limit(packing, whole)]
        return [span]

    def _tokens_alone(self, text: str, span: Span) -> int:
        start, end = trim(text, *span)
        return len(self._token_offsets(text[start:end]) or ())


def _lines_inside(text: str, start: int, end: int) -> list[tuple[int, Strength]]:
    """Where the lines of code begin, except the first. Lines that are indented less are the better places."""
    found: list[tuple[int, Strength]] = []
    for line in re.finditer(r"\n(?P<blank>\s*\n)?(?P<indent>[ \t]*)(?=\S)", text[start:end]):
        best = Strength.SPACE if line["indent"] else Strength.PARAGRAPH if line["blank"] else Strength.SENTENCE
        found.append((start + line.start("indent"), best))
    return found


def _unit_characters(size: int, overlap: int) -> int:
    """About a sixteenth of a chunk, so that little of it stays empty, and a fraction of the overlap."""
    wanted = min(size // 4, overlap or size, _MAX_UNIT_CHARACTERS)
    return max(wanted, _MIN_UNIT_CHARACTERS)


def _max_bytes(text: str) -> int:
    """A text has hardly more tokens than bytes."""
    return 1 if text.isascii() else 4
