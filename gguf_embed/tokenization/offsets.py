"""Character offsets of tokens, found by aligning the tokens' pieces with the text.

For tokenizers that do not report offsets. Only certain offsets are given: a token that the tokenizer changed beyond
recognition, or that could be at two positions, gets None.
"""

from __future__ import annotations

import itertools
import unicodedata
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from gguf_embed.types import Span

MAX_OFFSET_CHARACTERS = 2_000_000
"""Characters of one request's texts for which offsets are reported: the reply contains all of them."""

MAX_ALIGNED_CHARACTERS = 200_000
"""Characters of one request's texts that `align` may process, at up to 15 microseconds each."""


class OffsetUnit(StrEnum):
    """The unit of positions in a text."""

    CODEPOINTS = "codepoints"  # Unicode code points, as Python counts
    UTF16 = "utf16"  # code units, as JavaScript, Java and C# count
    UTF8 = "utf8"  # bytes


def unit_starts(text: str, unit: OffsetUnit) -> Sequence[int]:
    """The start of each code point of the text in this unit, and the length of the text as last item."""
    if unit is OffsetUnit.CODEPOINTS or text.isascii():
        return range(len(text) + 1)
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    steps = (
        (0xFFFF,) if unit is OffsetUnit.UTF16 else (0x7F, 0x7FF, 0xFFFF)
    )  # each code point above takes one unit more
    starts = np.zeros(len(points) + 1, np.int64)
    np.cumsum(sum((points > step for step in steps), np.ones(len(points), np.int64)), out=starts[1:])
    return array("q", starts.tobytes())  # bisect reads it three times as fast as a numpy array


def code_point_at(starts: Sequence[int], position: int) -> int | None:
    """The index of the code point that begins at a position, in the unit of `starts`; None if there is none."""
    index = bisect_left(starts, position)
    return index if index < len(starts) and starts[index] == position else None


def align(text: str, pieces: Sequence[bytes | None]) -> list[Span | None]:
    """The characters of each piece: (start, end), end exclusive, in code points.

    `pieces` are in order and cover the text; None is an unknown part of it (one or more characters). Whitespace at the
    ends of a piece is excluded, unless there is nothing else; two pieces that share the bytes of a character both get
    the character. Compares exactly at first, then ignoring Unicode forms, then case, then accents, because tokenizers
    change these.
    """
    exact = _align_bytes(text, pieces)
    if exact is not None:
        return exact
    for form in _FORMS:
        found = _align_folded(text, pieces, form)
        if found is not None:
            return found
    return _align_ends(text, pieces, _FORMS[-1])


def find_in_order(text: str, words: Sequence[str]) -> list[Span | None]:
    """The position of each word, with anything between them; None for a word that could be at two positions."""
    first = _leftmost(text, words)
    last = [_mirrored(span, len(text)) for span in reversed(_leftmost(text[::-1], [w[::-1] for w in reversed(words)]))]
    return [span if span == other else None for span, other in zip(first, last, strict=True)]


def _mirrored(span: Span | None, length: int) -> Span | None:
    return None if span is None else (length - span[1], length - span[0])


def _leftmost(text: str, words: Sequence[str]) -> list[Span | None]:
    """Each word at its first position after the word before; from the first missing word on, None."""
    found: list[Span | None] = []
    begin = 0
    for word in words:
        begin = text.find(word, begin) if begin >= 0 else -1
        found.append((begin, begin + len(word)) if begin >= 0 else None)
        begin = begin + len(word) if begin >= 0 else -1
    return found


def trim(text: str, start: int, end: int) -> Span:
    """The span without whitespace at its ends, unless there is nothing else."""
    part = text[start:end]
    if not part or part.isspace():
        return start, end
    return start + len(part) - len(part.lstrip()), end - (len(part) - len(part.rstrip()))


def _align_bytes(text: str, pieces: Sequence[bytes | None]) -> list[Span | None] | None:
    """Align pieces that are the text's bytes, possibly after the space that SentencePiece adds before a text."""
    known = [piece for piece in pieces if piece is not None]
    if len(known) < len(pieces):
        return None
    joined, encoded = b"".join(known), text.encode("utf-8", "surrogatepass")
    n_added = len(joined) - len(encoded)
    if n_added not in (0, 1) or joined[n_added:] != encoded or joined[:n_added] not in (b"", b" "):
        return None
    starts = unit_starts(text, OffsetUnit.UTF8)
    spans: list[Span | None] = []
    end = -n_added
    for piece in known:
        start, end = end, end + len(piece)
        if end <= max(start, 0):
            spans.append(None)  # the added space alone, or nothing
            continue
        first = bisect_left(starts, max(start, 0) + 1) - 1
        spans.append(trim(text, first, bisect_left(starts, end)))
    return spans


@dataclass(frozen=True, slots=True)
class _Folded:
    """A text in one form, and the part of the original from which each of its characters comes."""

    text: str
    sources: Sequence[Span]


def _fold_text(text: str, form: Callable[[str], str]) -> _Folded:
    letters: list[str] = []
    sources: list[Span] = []
    known: dict[str, str] = {}
    for index, character in enumerate(text):
        folded = known.get(character)
        if folded is None:
            folded = known[character] = form(character)
        letters.append(folded)
        sources += [(index, index + 1)] * len(folded)
    return _Folded("".join(letters), sources)


def _fold_pieces(pieces: Sequence[bytes], form: Callable[[str], str]) -> _Folded:
    """The joined pieces; the source of each character is the range of pieces from which it comes."""
    joined = b"".join(pieces).decode("utf-8", "replace")
    starts = unit_starts(joined, OffsetUnit.UTF8)
    ends = list(itertools.accumulate(map(len, pieces)))
    folded = _fold_text(joined, form)
    if ends and starts[-1] != ends[-1]:  # not UTF-8: replacement characters have another length than the bytes
        return _Folded("\0", [(0, len(pieces))])
    owners = [
        (bisect_left(ends, starts[first] + 1), bisect_left(ends, starts[stop]) + 1) for first, stop in folded.sources
    ]
    return _Folded(folded.text, owners)


def _align_folded(text: str, pieces: Sequence[bytes | None], form: Callable[[str], str]) -> list[Span | None] | None:
    """Align in one form. None if the pieces between the unknown parts are not all in the text, in order."""
    whole = _fold_text(text, form)
    segments = list(_segments(pieces, form))
    positions = _positions(whole.text, [segment.folded.text for segment in segments])
    if positions is None:
        return None
    spans: list[Span | None] = [None] * len(pieces)
    for segment, position in zip(segments, positions, strict=True):
        if position is not None:
            _assign(spans, segment, whole.sources[position : position + len(segment.folded.text)])
    _fill_unknown(text, pieces, spans)
    return [None if span is None else trim(text, *span) for span in spans]


@dataclass(frozen=True, slots=True)
class _Segment:
    """The known pieces between two unknown ones."""

    first: int  # index of its first piece
    folded: _Folded


def _segments(pieces: Sequence[bytes | None], form: Callable[[str], str]) -> Iterator[_Segment]:
    """One segment more than there are unknown pieces; some are empty."""
    first, known = 0, list[bytes]()
    for index, piece in enumerate(pieces):
        if piece is not None:
            known.append(piece)
            continue
        yield _Segment(first, _fold_pieces(known, form))
        first, known = index + 1, []
    yield _Segment(first, _fold_pieces(known, form))


def _positions(text: str, segments: Sequence[str]) -> list[int | None] | None:
    """The start of each segment, None if it could be at two positions; None if the segments do not fit the text."""
    first, *middle = segments
    if not middle:
        return [0] if text == first else None
    last = middle.pop()
    if len(first) + len(last) > len(text) or not (text.startswith(first) and text.endswith(last)):
        return None
    end = len(text) - len(last)
    leftmost = _leftmost(text[len(first) : end], middle)
    if None in leftmost:
        return None
    certain = find_in_order(text[len(first) : end], middle)
    return [0, *(None if span is None else span[0] + len(first) for span in certain), end]


def _assign(spans: list[Span | None], segment: _Segment, sources: Sequence[Span]) -> None:
    """Give each piece of a segment the characters of the text that match its own; `sources` has one span for each."""
    for (start, end), (first, stop) in zip(sources, segment.folded.sources, strict=True):
        for index in range(segment.first + first, segment.first + stop):
            span = spans[index]
            spans[index] = (start, end) if span is None else (min(start, span[0]), max(end, span[1]))


def _fill_unknown(text: str, pieces: Sequence[bytes | None], spans: list[Span | None]) -> None:
    """An unknown piece between two known spans gets the text between them; two in a row stay None."""
    ends = [(0, 0), *spans, (len(text), len(text))]
    for index, piece in enumerate(pieces):
        before, after = ends[index], ends[index + 2]
        if piece is None and before is not None and after is not None and text[before[1] : after[0]].strip():
            spans[index] = before[1], after[0]


def _align_ends(text: str, pieces: Sequence[bytes | None], form: Callable[[str], str]) -> list[Span | None]:
    """Align only the pieces that match the text from its beginning and from its end."""
    whole = _fold_text(text, form)
    segments = list(_segments(pieces, form))
    first, last = segments[0], segments[-1]
    spans: list[Span | None] = [None] * len(pieces)
    n_same = _common_prefix(whole.text, first.folded.text)
    _assign_complete(spans, first, whole.sources, 0, range(n_same))
    n_left = min(len(whole.text), len(last.folded.text)) - (n_same if len(segments) == 1 else 0)
    n_end = min(_common_prefix(whole.text[::-1], last.folded.text[::-1]), max(0, n_left))
    n_letters = len(last.folded.text)
    _assign_complete(spans, last, whole.sources, len(whole.text) - n_letters, range(n_letters - n_end, n_letters))
    return [None if span is None else trim(text, *span) for span in spans]


def _common_prefix(one: str, other: str) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _assign_complete(
    spans: list[Span | None], segment: _Segment, sources: Sequence[Span], shift: int, matching: range
) -> None:
    """Assign the pieces of a segment of which all letters match; letter i is letter `i + shift` of the text."""
    incomplete = {
        index
        for letter, (first, stop) in enumerate(segment.folded.sources)
        if letter not in matching
        for index in range(first, stop)
    }
    for letter in matching:
        start, end = sources[letter + shift]
        for index in range(*segment.folded.sources[letter]):
            if index not in incomplete:
                span = spans[segment.first + index]
                low, high = (start, end) if span is None else span
                spans[segment.first + index] = min(start, low), max(end, high)


def _compatible(character: str) -> str:
    """A character in Unicode's NFKD form; whitespace, control characters and SentencePiece's "▁" become empty."""
    if character.isspace() or character == "▁" or unicodedata.category(character) in ("Cc", "Cf"):
        return ""
    return "".join(part for part in unicodedata.normalize("NFKD", character) if not part.isspace())


def _caseless(character: str) -> str:
    return unicodedata.normalize("NFKD", _compatible(character).casefold())


def _accentless(character: str) -> str:
    return "".join(part for part in _caseless(character) if unicodedata.category(part) != "Mn")


_FORMS = (_compatible, _caseless, _accentless)
