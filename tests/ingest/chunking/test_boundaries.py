"""How good a place in a text is to cut it."""

from __future__ import annotations

import pytest

from gguf_embed.ingest.chunking.boundaries import Strength, segments_of, soft_wraps_of, strength_at

LINE = "a line that is long enough to be wrapped by someone"


@pytest.mark.parametrize(
    ("marked", "strength"),
    [
        ("wo|rd", Strength.WORD),
        ("3|14", Strength.WORD),
        ("well-|known", Strength.MARK),
        ("don|'t", Strength.MARK),
        ("two |words", Strength.SPACE),
        ("two| words", Strength.SPACE),
        ("One. |Two.", Strength.SENTENCE),
        ('"One!" |Two.', Strength.SENTENCE),
        ("item\n|item", Strength.SENTENCE),
        ("One.\n\n|Two.", Strength.PARAGRAPH),
        ("One.|\r\n \t\r\nTwo.", Strength.PARAGRAPH),
        ("as follows:\n\n|- item", Strength.SENTENCE),
        ("資料|庫", Strength.SPACE),
        ("很好。|我們", Strength.SENTENCE),
        ("「|資料", Strength.MARK),
        ("資料|。", Strength.MARK),
        ("一份 |資料", Strength.SPACE),
        ("ภาษ|าไทย", Strength.SPACE),
        ("한국|어", Strength.WORD),
        ("e|\u0301", Strength.CHARACTER),
        ("👩\u200d|👧", Strength.CHARACTER),
        ("👍|🏽", Strength.CHARACTER),
        ("😀|😀", Strength.MARK),
        (f"{LINE}\n|and goes on", Strength.SPACE),
        (f"{LINE}.\n|and goes on", Strength.SENTENCE),
        (f"{LINE}\n|- item", Strength.SENTENCE),
    ],
)
def test_strengths(marked, strength):
    position = marked.index("|")
    text = marked.replace("|", "")
    wraps = {start for start, _ in soft_wraps_of(text)}
    assert strength_at(text, position, wraps) is strength


def test_line_breaks_of_code_are_no_soft_wraps():
    text = f"{LINE}\n{LINE}\n{LINE}\n{LINE}\n"
    assert len(soft_wraps_of(text)) == 3
    assert len(soft_wraps_of(text, [(len(LINE) + 1, 2 * len(LINE) + 2)])) == 2


def test_segments_cover_the_text_and_end_between_lines_or_words():
    text = ("word " * 30 + "\n") * 40 + "\n" + "資料" * 500
    segments = segments_of(text, 200)
    assert [start for start, _ in segments] == [0, *(end for _, end in segments[:-1])]
    assert segments[-1][1] == len(text)
    assert max(end - start for start, end in segments) <= 200
    assert {text[end - 1] for _, end in segments if end < 6000} == {"\n"}
