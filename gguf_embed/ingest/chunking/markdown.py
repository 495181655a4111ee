"""The structure of a Markdown text: sections under their titles, and code."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, takewhile
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

from gguf_embed.types import Span

_FRONT_MATTER: Final = re.compile(r"\A---[ \t]*\r?\n(?:.*\r?\n)*?(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)")
_NOT_A_LINE_BREAK: Final = re.compile(r"[^\r\n]")
_LINE_BREAK: Final = re.compile(r"\r\n?|\n")
_WHITESPACE: Final = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Section:
    """From one heading to the next. Headings with nothing between them are in one section."""

    start: int
    content: int  # where the text after its headings begins
    titles: tuple[str, ...]  # outermost first


@dataclass(frozen=True, slots=True)
class Outline:
    """The sections, in order; the first starts at 0. `code` are the parts that are code blocks, in order."""

    sections: Sequence[Section]
    code: Sequence[Span]

    def titles_of(self, start: int, end: int) -> tuple[str, ...]:
        """The titles that all text between two positions stands under."""
        first = bisect_right(self.sections, start, key=_start_of) - 1
        last = max(first, bisect_right(self.sections, end - 1, key=_start_of) - 1)
        paths = [section.titles for section in self.sections[first : last + 1]]
        return tuple(level[0] for level in takewhile(_are_equal, zip(*paths, strict=False)))


def _start_of(section: Section) -> int:
    return section.start


def _are_equal(titles: Sequence[str]) -> bool:
    return len(set(titles)) == 1


def outline_of(text: str) -> Outline:
    """Front matter in YAML is no heading; headings in lists and quotes start no section."""
    front = _FRONT_MATTER.match(text)
    body = text if front is None else _NOT_A_LINE_BREAK.sub(" ", front[0]) + text[front.end() :]
    lines = [0, *(match.end() for match in _LINE_BREAK.finditer(body))]
    blocks = [token for token in _block_parser().parse(body) if token.map is not None]
    code = [_span(lines, len(body), token) for token in blocks if token.type in ("fence", "code_block")]
    return Outline(_sections(body, lines, blocks), code)


def _sections(text: str, lines: Sequence[int], blocks: Sequence[Token]) -> list[Section]:
    sections = [Section(0, 0, ())]
    path: list[tuple[int, str]] = []  # level and title
    for heading, inline in pairwise(blocks):
        if heading.type != "heading_open" or heading.level > 0:
            continue
        start, end = _span(lines, len(text), heading)
        content = _WHITESPACE.match(text, end).end()  # type: ignore[union-attr] # it matches everywhere
        level = int(heading.tag[1:])
        path = [*((outer, title) for outer, title in path if outer < level), (level, plain_text(inline.content))]
        titles = tuple(title for _, title in path if title)
        last = sections[-1]
        if text[last.content : start].strip():
            sections.append(Section(start, content, titles))
        else:
            sections[-1] = Section(last.start, content, titles)
    return sections


def _span(lines: Sequence[int], length: int, token: Token) -> Span:
    """The characters of a block's lines."""
    first, last = token.map or (0, 0)
    start, end = ((lines[line] if line < len(lines) else length) for line in (first, last))
    return start, end


def plain_text(inline: str) -> str:
    """A title without Markdown: "`ls` and [links](url)" becomes "ls and links"."""
    return " ".join(_text_of(_inline_parser().parseInline(inline)).split())


def _text_of(tokens: Sequence[Token]) -> str:
    return "".join(
        _text_of(token.children)
        if token.children is not None
        else " "
        if token.type in ("softbreak", "hardbreak")
        else token.content
        if token.type in ("text", "code_inline")
        else ""
        for token in tokens
    )


@cache
def _block_parser() -> MarkdownIt:
    """Blocks only, which takes half the time."""
    return MarkdownIt("commonmark").disable("inline")


@cache
def _inline_parser() -> MarkdownIt:
    return MarkdownIt("commonmark")
