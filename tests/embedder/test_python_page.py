"""The programs in docs/python.md run, and print what the comments beside them say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gguf_embed import errors
from gguf_embed.embedder.embedder import Embedder
from gguf_embed.embedder.methods import TextModel
from tests.server_process import clean_environment

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text("utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.process
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.split("with ")[-1][:30])
def test_a_program_of_the_page_prints_what_it_says(program, default_server, cache_dir, default_model):
    expected = re.findall(r"print\(.*\)  # (.*)$", program, re.MULTILINE)
    assert expected
    ended = subprocess.run(
        [sys.executable, "-c", program.replace("http://127.0.0.1:8080", default_server.url)],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(cache_dir),
    )
    assert (ended.stdout.splitlines(), ended.returncode) == (expected, 0), ended.stderr


def test_every_method_is_on_the_page():
    names = [name for name in dir(TextModel) if not name.startswith("_")]
    assert [name for name in names if not re.search(rf"`({name}[`(]|model\.{name}\(\))", PAGE)] == []


def test_every_argument_is_on_the_page():
    arguments = Embedder.__init__.__annotations__
    assert [name for name in arguments if name not in ("model", "return") and f"`{name}" not in PAGE] == []


def test_every_error_of_the_page_exists():
    table = PAGE.partition("| Error | Reason |")[2].partition("\n\n")[0]
    named = re.findall(r"`([A-Z]\w+)`", table)
    assert len(named) > 8
    assert [name for name in named if not issubclass(getattr(errors, name), errors.EmbedError)] == []
