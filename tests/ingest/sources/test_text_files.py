"""Folders of texts, and single ones: text, Markdown, PDF, HTML."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from gguf_embed.errors import ConfigError, EngineFailure
from gguf_embed.ingest.rows import BadRow
from gguf_embed.ingest.sources import documents, text_files
from gguf_embed.ingest.sources.base import SourceOptions
from gguf_embed.ingest.sources.file_kinds import files_in
from gguf_embed.ingest.sources.open import open_source
from tests.ingest.sources.pdf_files import pdf_with
from tests.ingest.sources.reading import Document, read, read_all, reasons, texts

PAGE = """<html><head><meta charset="{charset}"><title>T</title></head><body><nav><a href="x">Home</a></nav><main>
<article><h1>Café engines</h1><p>An engine turns heat into motion, and has done so for centuries.</p>
<h2>Steam</h2><p>Steam engines need coal &amp; water; they were used in mines first, later in ships.</p></article>
</main><footer>Imprint</footer></body></html>"""


class Folder:
    """Files to read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **files: str | bytes) -> None:
        for name, content in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def folder(tmp_path) -> Folder:
    folder = Folder(tmp_path / "docs")
    folder.write(**{"b.txt": "b", "a/z.md": "# z\n", "a/deep/y.rst": "y", "c.markdown": "c"})
    return folder


def test_all_texts_are_found_in_order_and_their_paths_are_their_ids(folder):
    assert read_all(folder.path) == [
        Document("a/deep/y.rst", "y", "{}", "a/deep/y.rst"),
        Document("a/z.md", "# z\n", "{}", "a/z.md"),
        Document("b.txt", "b", "{}", "b.txt"),
        Document("c.markdown", "c", "{}", "c.markdown"),
    ]


def test_other_hidden_and_linked_files_twice_are_left_out(folder, tmp_path):
    folder.write(**{".git/x.md": "no", ".hidden.md": "no", "a/.venv/x.txt": "no", "code.py": "no", "e": "no"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked.md").write_text("linked")
    (folder.path / "a" / "loop").symlink_to(folder.path)
    (folder.path / "a" / "self").symlink_to("self")
    (folder.path / "dangling.md").symlink_to("nowhere")
    (folder.path / "d").symlink_to(tmp_path / "elsewhere")
    (folder.path / "f.md").symlink_to(tmp_path / "elsewhere" / "linked.md")
    assert [each.id for each in read_all(folder.path)] == [
        "a/deep/y.rst",
        "a/z.md",
        "b.txt",
        "c.markdown",
        "d/linked.md",
        "f.md",
    ]


@pytest.mark.parametrize(
    ("names", "kind"),
    [(["a.txt", "b.rst"], "text"), (["a.txt", "b.md"], "markdown"), (["a.MARKDOWN"], "markdown"), (["a.pdf"], "text")],
)
def test_a_folder_with_markdown_is_markdown(tmp_path, names, kind):
    for name in names:
        (tmp_path / name).write_text("x")
    assert open_source(str(tmp_path), SourceOptions()).kind == kind


def test_texts_keep_their_line_ends_but_not_the_byte_order_mark(folder):
    folder.write(**{"b.txt": b"\xef\xbb\xbfone\r\ntwo\r"})
    assert read_all(folder.path)[2].text == "one\r\ntwo\r"


def test_files_without_a_text_are_bad_rows_that_keep_their_ids(folder, monkeypatch):
    folder.write(**{"latin.txt": "café".encode("latin-1"), "empty.md": b"", "white.md": b" \n"})
    monkeypatch.setattr(text_files, "MAX_TEXT_BYTES", 50)
    folder.write(**{"long.txt": b"x" * 51})
    found = read_all(folder.path)
    assert reasons(found) == {
        "empty.md": "is empty",
        "latin.txt": "is not UTF-8: byte 3 is 0xe9",
        "long.txt": "is longer than 64 MiB",
        "white.md": "is empty",
    }
    assert all(each.id == each.place for each in found)


def test_a_file_that_vanishes_or_may_not_be_read_is_a_bad_row(folder, monkeypatch):
    source = open_source(str(folder.path), SourceOptions())
    monkeypatch.setattr(documents, "MAX_BATCH_CHARACTERS", 1)
    batches = source.batches(1)
    next(batches)
    (folder.path / "b.txt").unlink()
    (folder.path / "b.txt").mkdir()
    (folder.path / "c.markdown").unlink()
    assert [text for each in batches for text in each.texts] == [
        "# z\n",
        BadRow("cannot be read: Is a directory"),
        BadRow("cannot be read: No such file or directory"),
    ]
    monkeypatch.setattr(text_files, "files_in", lambda _: iter([("gone.md", folder.path / "gone.md")]))
    assert texts(read(open_source(str(folder.path), SourceOptions()))) == [
        BadRow("cannot be read: No such file or directory")
    ]


def test_a_name_that_is_not_utf8_is_a_bad_row(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.md"
    try:
        with open(path, "w") as file:
            file.write("x")
    except OSError:
        pytest.skip("this file system has no such names")
    assert reasons(read_all(tmp_path)) == {"caf\\udce9.md": "has a name that is not UTF-8"}


def test_a_folder_that_cannot_be_listed_ends_reading(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(EngineFailure, match="deep cannot be listed: Permission denied"):
        list(files_in(folder.path))


def test_the_share_counts_files(folder):
    source = open_source(str(folder.path), SourceOptions())
    assert source.share_read() == 0
    assert [source.share_read() for _ in source.batches(1)] == [0, 0.25, 0.5, 0.75]
    assert source.share_read() == 1
    assert read(source, 2) == read(source, 3)
    source.close()


def test_a_single_file_is_one_document_with_its_name_as_id(folder):
    assert read_all(folder.path / "a" / "z.md") == [Document("z.md", "# z\n", "{}", "z.md")]
    assert open_source(str(folder.path / "a" / "z.md"), SourceOptions()).kind == "markdown"
    assert open_source(str(folder.path / "b.txt"), SourceOptions()).kind == "text"


class TestPdf:
    @pytest.fixture(autouse=True)
    def needs_pypdf(self):
        pytest.importorskip("pypdf")

    def test_pages_are_joined_by_blank_lines(self, tmp_path):
        (tmp_path / "a.pdf").write_bytes(pdf_with(["page one", "", "page three"]))
        assert read_all(tmp_path) == [Document("a.pdf", "page one\n\npage three", "{}", "a.pdf")]
        assert texts(read_all(tmp_path / "a.pdf")) == ["page one\n\npage three"]

    def test_one_that_is_encrypted_broken_or_has_no_text_is_a_bad_row(self, tmp_path, capfd):
        import pypdf

        writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf_with(["secret"])))
        writer.encrypt("password", algorithm="RC4-128")
        writer.write(tmp_path / "locked.pdf")
        writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf_with(["for all"])))
        writer.encrypt("", "owner", algorithm="RC4-128")
        writer.write(tmp_path / "open.pdf")
        (tmp_path / "broken.pdf").write_bytes(pdf_with(["lost"])[:200])
        (tmp_path / "images.pdf").write_bytes(pdf_with([""]))
        (tmp_path / "none.pdf").write_bytes(b"")
        found = read_all(tmp_path)
        found_reasons = reasons(found)
        assert found_reasons.pop("broken.pdf").startswith("is not a readable PDF: ")
        assert found_reasons.pop("none.pdf").startswith("is not a readable PDF: ")
        assert found_reasons == {
            "images.pdf": "has no text: its pages may be images",
            "locked.pdf": "is encrypted",
        }
        assert [each.text for each in found if each.id == "open.pdf"] == ["for all"]
        assert capfd.readouterr() == ("", "")


class TestHtml:
    @pytest.fixture(autouse=True)
    def needs_trafilatura(self):
        pytest.importorskip("trafilatura")

    @pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1"])
    def test_its_main_text_becomes_markdown(self, tmp_path, charset):
        (tmp_path / "a.html").write_bytes(PAGE.format(charset=charset).encode(charset))
        (tmp_path / "b.htm").write_bytes(b"<html><body></body></html>")
        source = open_source(str(tmp_path), SourceOptions())
        found = read(source)
        assert source.kind == "markdown"
        assert found[0] == Document(
            "a.html",
            "# Café engines\n\nAn engine turns heat into motion, and has done so for centuries.\n\n## Steam\n\n"
            "Steam engines need coal & water; they were used in mines first, later in ships.",
            "{}",
            "a.html",
        )
        assert reasons(found) == {"b.htm": "has no main text"}


@pytest.mark.parametrize(("ending", "package"), [("pdf", "pypdf"), ("html", "trafilatura")])
def test_without_its_package_a_single_file_is_an_error_and_one_in_a_folder_a_bad_row(
    folder, monkeypatch, ending, package
):
    monkeypatch.setitem(sys.modules, package, None)
    folder.write(**{f"x.{ending}": b"x", f"y.{ending}": b"y"})
    with pytest.raises(ConfigError, match=rf"{package}: pip install 'gguf-embed\[{ending}\]'"):
        open_source(str(folder.path / f"x.{ending}"), SourceOptions())
    found = reasons(read_all(folder.path))
    assert set(found) == {f"x.{ending}", f"y.{ending}"}
    assert f"needs the package {package}: pip install 'gguf-embed[{ending}]'" in found[f"x.{ending}"]
