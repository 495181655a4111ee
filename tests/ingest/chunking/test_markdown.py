"""The outline of a Markdown text."""

from __future__ import annotations

import pytest

from gguf_embed.ingest.chunking.markdown import outline_of, plain_text


def sections(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """The beginning of each section, and its titles."""
    return [(text[section.start :].strip()[:12], section.titles) for section in outline_of(text).sections]


def test_titles_are_nested_by_their_levels():
    text = "intro\n\n# One\n\ntext\n\n### Deep\ntext\n\n## Two\ntext\n\n# Three\ntext"
    assert sections(text) == [
        ("intro\n\n# One", ()),
        ("# One\n\ntext\n", ("One",)),
        ("### Deep\ntex", ("One", "Deep")),
        ("## Two\ntext\n", ("One", "Two")),
        ("# Three\ntext", ("Three",)),
    ]


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_headings_without_text_between_them_are_one_section(line_break):
    text = "Title\n=====\n\n## Sub ##\n\ntext 😀\n\nSecond\n------\nmore".replace("\n", line_break)
    assert [titles for _, titles in sections(text)] == [("Title", "Sub"), ("Title", "Second")]
    second = outline_of(text).sections[1]
    assert text[second.start :].startswith("Second")
    assert text[second.content :] == "more"


@pytest.mark.parametrize(
    "text",
    [
        "```\n# no heading\n```\ntext",
        "    # no heading\n",
        "- # in a list\n- b",
        "> # in a quote\n",
        "#hashtag",
        "a | b\n--|--\n1 | 2",
        "",
        "---\ntitle: x\n# comment\n---\ntext",
    ],
)
def test_what_is_no_heading(text):
    assert [titles for _, titles in sections(text)] == [()]


def test_code_has_its_fences():
    text = "text\n\n```python\n# x\n\n```\n\n- item\n\n  ~~~\n  y\n  ~~~\nend"
    assert [text[start:end] for start, end in outline_of(text).code] == [
        "```python\n# x\n\n```\n",
        "  ~~~\n  y\n  ~~~\n",
    ]


@pytest.mark.parametrize(
    ("inline", "plain"),
    [
        ("`ls` and [links](http://x) **bold**", "ls and links bold"),
        ("![alt text](x.png) logo", "alt text logo"),
        ("two\nlines", "two lines"),
        ("a &amp; b \\# c", "a & b # c"),
        ("x <b>y</b>", "x y"),
    ],
)
def test_titles_are_plain_text(inline, plain):
    assert plain_text(inline) == plain


def test_the_titles_of_a_part_are_those_that_all_of_it_stands_under():
    text = "# A\n\na\n\n## B\n\nb\n\n## C\n\nc\n"
    outline = outline_of(text)
    assert outline.titles_of(0, len(text)) == ("A",)
    assert outline.titles_of(text.index("## B"), len(text)) == ("A",)
    assert outline.titles_of(text.index("c\n"), len(text)) == ("A", "C")
