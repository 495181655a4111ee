"""Where a text may be cut: the ends of small units, each with how good a place it is."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from semantic_text_splitter import TextSplitter

from gguf_embed.types import Span


class Strength(IntEnum):
    """What is separated at a boundary. Higher is better."""

    CHARACTER = 0  # code points that form one character, such as a letter and its accent
    WORD = 1  # letters of one word
    MARK = 2  # a word and a punctuation mark: "well-|known"
    SPACE = 3  # two words
    SENTENCE = 4  # two sentences, lines or list items
    PARAGRAPH = 5


_SPLIT_CHARACTERS: Final = 4_000
"""Texts are given to the splitter in parts of at most this size, because its time grows faster than the text."""

_SEEN: Final = 64  # characters on each side of a boundary that are looked at

_SENTENCE_END: Final = re.compile(r"[.!?…。！？｡؟।॥။።][\"'”’»›)\]』」）】*_`]*$")
_BLANK_LINE: Final = re.compile(r"(?:\r\n|\r|\n)[^\S\r\n]*(?:\r\n|\r|\n)|\f|\u2029")
_LINE_BREAK: Final = re.compile(r"[\r\n\v\u0085\u2028]")

_SOFT_WRAP: Final = re.compile(
    r"^(?![ \t]*[#|]).{39,}[^\s.!?:;…|][ \t]*(?P<wrap>\r?\n)(?=[ \t]*[^\W\d_])", re.MULTILINE
)
"""A line break inside a sentence: after a line of some length, and before a letter."""

_UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u30ff\u3100-\u312f\u31a0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)
"""Scripts without spaces between words: Thai, Lao, Burmese, Khmer, Chinese, Japanese, Yi."""

_OPENING: Final = ("Ps", "Pi")
_JOINERS: Final = "\u200d\u2060\ufeff"


@dataclass(slots=True)
class Boundaries:
    """Positions in a text, ascending, with the strength of each. The first is 0, the last the text's length."""

    positions: list[int]
    strengths: list[int]

    def insert(self, position: int, strength: int) -> None:
        """Add a position, or replace its strength."""
        index = bisect_right(self.positions, position) - 1
        if self.positions[index] == position:
            self.strengths[index] = strength
        else:
            self.positions.insert(index + 1, position)
            self.strengths.insert(index + 1, strength)

    def replace_inside(self, start: int, end: int, positions: Sequence[int], strengths: Sequence[int]) -> None:
        """Put other positions between two, which stay."""
        first, last = self.indexes_inside(start, end)
        self.positions[first:last] = positions
        self.strengths[first:last] = strengths

    def indexes_inside(self, start: int, end: int) -> tuple[int, int]:
        first = bisect_right(self.positions, start)
        return first, max(first, bisect_right(self.positions, end - 1))


def find_boundaries(text: str, unit_characters: int, soft_wraps: Sequence[Span]) -> Boundaries:
    """Units of at most `unit_characters`, as large as sentences, lines and paragraphs allow."""
    splitter = TextSplitter(unit_characters, trim=False)
    unwrapped = _unwrapped(text, soft_wraps)
    positions = [
        start + offset
        for start, end in segments_of(text, _SPLIT_CHARACTERS)
        for offset, _ in splitter.chunk_indices(unwrapped[start:end])
    ]
    wraps = {start for start, _ in soft_wraps}
    best = int(Strength.PARAGRAPH)
    strengths = [best, *(strength_at(text, position, wraps) for position in positions[1:]), best]
    return Boundaries([*positions, len(text)], strengths)


def segments_of(text: str, n_characters: int) -> list[Span]:
    """Parts of at most `n_characters`, cut at a blank line if there is one, else a line, a sentence, a space."""
    segments: list[Span] = []
    start = 0
    while len(text) - start > n_characters:
        end = _segment_end(text, start + n_characters // 2, start + n_characters)
        segments.append((start, end))
        start = end
    return [*segments, (start, len(text))]


def _segment_end(text: str, first: int, limit: int) -> int:
    for separator in ("\n\n", "\r\n\r\n", "\n", "。", ". ", " "):
        found = text.rfind(separator, first, limit)
        if found >= 0:
            return found + len(separator)
    return limit


def soft_wraps_of(text: str, kept: Sequence[Span] = ()) -> list[Span]:
    """The line breaks inside sentences, except in the parts `kept`, which ascend: there each line counts."""
    wraps = [match.span("wrap") for match in _SOFT_WRAP.finditer(text)]
    if not kept:
        return wraps
    starts = [start for start, _ in kept]
    ends = [end for _, end in kept]
    return [wrap for wrap in wraps if bisect_right(starts, wrap[0]) <= bisect_right(ends, wrap[0])]


def _unwrapped(text: str, soft_wraps: Sequence[Span]) -> str:
    """The text with spaces for these line breaks, of the same length."""
    pieces: list[str] = []
    done = 0
    for start, end in soft_wraps:
        pieces += [text[done:start], " " * (end - start)]
        done = end
    return "".join([*pieces, text[done:]])


def strength_at(text: str, position: int, soft_wraps: set[int]) -> Strength:
    """How good it is to cut before `text[position]`, which is neither the text's first nor its end."""
    left, right = text[position - 1], text[position]
    if left.isspace() or right.isspace():
        return _strength_of_gap(text, position, soft_wraps)
    if unicodedata.combining(right) or _continues_character(left, right):
        return Strength.CHARACTER
    if left.isalnum() and right.isalnum():
        return Strength.SPACE if _UNSPACED.match(left) or _UNSPACED.match(right) else Strength.WORD
    return _strength_of_mark(left, right)


def _continues_character(left: str, right: str) -> bool:
    """Joined emoji, flags, skin tones, variation selectors, marks with their letter, CR and LF."""
    if right.isascii():
        return False
    if left in _JOINERS or right in _JOINERS or "\U0001f3fb" <= right <= "\U0001f3ff":
        return True
    if "\U0001f1e6" <= left <= "\U0001f1ff" and "\U0001f1e6" <= right <= "\U0001f1ff":
        return True  # half a flag, or two flags
    return unicodedata.category(right).startswith("M")


def _strength_of_mark(left: str, right: str) -> Strength:
    """Between two characters of which at least one is a mark."""
    if _SENTENCE_END.match(left) and not left.isascii() and not unicodedata.category(right).startswith("P"):
        return Strength.SENTENCE  # after "。"
    if unicodedata.category(left) in _OPENING:
        return Strength.MARK
    return Strength.SPACE if _UNSPACED.match(right) else Strength.MARK


def _strength_of_gap(text: str, position: int, soft_wraps: set[int]) -> Strength:
    """At whitespace."""
    before, after = text[max(0, position - _SEEN) : position], text[position : position + _SEEN]
    head = before.rstrip()
    gap = before[len(head) :] + after[: len(after) - len(after.lstrip())]
    if _BLANK_LINE.search(gap):
        return Strength.SENTENCE if head.endswith((":", "：")) else Strength.PARAGRAPH  # what follows belongs to it
    if _SENTENCE_END.search(head):
        return Strength.SENTENCE
    line_break = _LINE_BREAK.search(gap)
    if line_break is None:
        return Strength.SPACE
    is_soft = position - len(before) + len(head) + line_break.start() in soft_wraps
    return Strength.SPACE if is_soft else Strength.SENTENCE


def fine_positions(text: str, start: int, end: int, token_starts: Sequence[int]) -> Iterator[int]:
    """Every place between two positions where a token or a word begins, ascending."""
    words = {start + match.end() for match in re.finditer(r"\s+", text[start:end])}
    return iter(sorted(position for position in words.union(token_starts) if start < position < end))
