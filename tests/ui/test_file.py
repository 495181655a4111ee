"""A text or Markdown file becomes chunks, and they are searched."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_embed.server.docs.page.page import read_part
from tests.ui.browser import LONGEST_MS

pytestmark = pytest.mark.ui

MARKDOWN = """# Bread

Bread is food. It is made of flour and water.

## Sourdough

Wild yeast lives in it.

```sh
# no heading
mix flour water
```

# Trains

The train is late. The bus is not.
"""

DROP = """
const transfer = new DataTransfer();
transfer.items.add(new File([arguments[0]], arguments[1]));
const drop = new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true});
document.getElementById("form").dispatchEvent(drop);
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "notes.md"
    path.write_text(MARKDOWN, "utf-8")
    return path


def choose(page, path: Path) -> None:
    page.find("#file").send_keys(str(path))
    page.wait(lambda: "at most" in page.find("#chunk-note").text)


def test_a_markdown_file_is_cut_at_its_headings_and_searched(page, file):
    choose(page, file)
    assert page.find("#file-name").text == "notes.md"
    assert page.find("#chunk-note").text.startswith("3 chunks, ")
    assert not page.find("#texts").is_displayed()
    page.ask("the train")
    page.find("#compute").click()
    page.wait_for_status("Done: 3 texts")
    assert sorted(page.texts("#ranking .titles")) == ["Bread", "Bread › Sourdough", "Trains"]
    page.find("#file-remove").click()
    assert page.focused() == "texts"
    page.compute("one", "two")


def test_a_file_can_be_dropped_and_cut_by_other_units(page):
    page.chrome.execute_script(DROP, MARKDOWN, "notes.txt")
    page.wait(lambda: page.find("#chunk-note").text.startswith("7 chunks"))  # plain text has no headings
    assert page.find("#chunk-by").get_attribute("value") == "paragraph"
    page.find("#chunk-by option[value=sentence]").click()
    page.wait(lambda: not page.find("#chunk-note").text.startswith(("7 chunks", "Cutting")))


def test_no_chunk_has_more_tokens_than_asked_for(page, tiny_server, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("the cat sat on the mat and " * 30 + "\n\n" + "x" * 400, "utf-8")
    page.find("#file").send_keys(str(path))
    page.wait(lambda: "at most 58 each" in page.find("#chunk-note").text)  # 64, less [CLS], [SEP] and 4 to spare
    page.run(
        "const size = document.getElementById('chunk-size'); size.value = 20; size.dispatchEvent(new Event('change'))"
    )
    page.wait(lambda: "at most 20 each" in page.find("#chunk-note").text)
    page.find("#compute").click()
    page.wait_for_status("Done")
    counts = [int(text.split()[0]) for text in page.texts("#tokens .text p span:first-child")]
    assert max(counts) <= 22
    shown = " ".join(page.texts("#ranking li p"))
    assert "the cat sat" in shown


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\xff\xfe\x00", "is not a text in UTF-8"),
        (b"a" * 5_000_001, "has 5.0 MB; the page takes up to 5.0 MB"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(page, tmp_path, content, words):
    path = tmp_path / "odd.txt"
    path.write_bytes(content)
    page.find("#file").send_keys(str(path))
    page.wait(lambda: words in page.find("#error").text)
    assert page.find("#texts").is_displayed()


def test_chunks_are_whole_units_in_order(page):
    """The pure functions alone, with a token per word."""
    script = (
        read_part("chunking.js")
        + """
    const [text, by, limit, isMarkdown] = arguments;
    const finish = (steps) => { for (;;) { const {done, value} = steps.next(); if (done) return value; } };
    const units = finish(unitsOf(text, isMarkdown)).map((unit) => ({
      ...unit,
      count: text.slice(unit.start, unit.end).split(/\\s+/).filter(Boolean).length,
    }));
    return packed(units, text, by, limit).map((chunk) => [chunk.text, chunk.titles, chunk.count]);
    """
    )

    def chunks(by: str, limit: int, text: str = MARKDOWN, is_markdown: bool = True) -> list[list[object]]:
        return page.chrome.execute_script(script, text, by, limit, is_markdown)

    by_heading = chunks("heading", 100)
    assert [titles for _, titles, _ in by_heading] == [["Bread"], ["Bread", "Sourdough"], ["Trains"]]
    assert by_heading[1][0].endswith("mix flour water\n```")
    assert [text for text, _, _ in chunks("paragraph", 100)][:2] == [
        "# Bread\n\nBread is food. It is made of flour and water.",
        "## Sourdough\n\nWild yeast lives in it.",
    ]
    packed = chunks("sentence", 12)
    assert all(count <= 12 for _, _, count in packed)
    assert "".join("".join(str(text) for text, _, _ in packed).split()) == "".join(MARKDOWN.split())


def test_a_file_of_one_endless_line_neither_fails_nor_freezes_the_page(page, tmp_path):
    path = tmp_path / "line.txt"
    path.write_text("hello world " * 100_000, "utf-8")

    def use() -> None:
        page.find("#file").send_keys(str(path))
        page.wait(lambda: "at most 58 each" in page.find("#chunk-note").text)
        note = page.find("#chunk-note").text
        assert note.startswith("3,")
        assert "200,000 tokens" in note
        page.find("#file-remove").click()
        page.run("document.getElementById('chunk-note').textContent = ''")

    assert page.longest_task_ms(use) < LONGEST_MS
