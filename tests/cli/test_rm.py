"""`gguf-embed rm`: the files it deletes, the files it keeps, and its output."""

from __future__ import annotations

import json

import pytest

from gguf_embed.cli.rm import freed_summary
from gguf_embed.model_store.store import ModelStore
from tests.cli.command import Place
from tests.gguf_models import write_tiny_encoder


@pytest.fixture
def place(tmp_path):
    (tmp_path / "cache").mkdir()
    return Place(tmp_path, "http://127.0.0.1:9")


def test_the_freed_space_is_printed(place):
    path = write_tiny_encoder(place.folder / "cache" / "m.gguf")
    store = ModelStore(place.folder / "cache")
    store.add("one", path, "ab" * 32)
    store.add("two", path, "ab" * 32)
    done = place.call("rm", "one", "two")
    first, second = done.stdout.splitlines()
    assert first.startswith("removed one: ")
    assert first.endswith(" two")
    assert second == "removed two: 99 kB freed"
    assert not path.exists()
    assert [model["origin"] for model in json.loads(place.call("list", "--json").stdout)] == ["built-in"]


def test_a_file_of_the_user_s_own_stays(place):
    path = write_tiny_encoder(place.folder / "mine.gguf")
    ModelStore(place.folder / "cache").add("mine", path, "ab" * 32)
    assert place.call("rm", "mine").stdout.startswith("removed mine: nothing freed")
    assert path.is_file()


@pytest.mark.parametrize("name", ["nothing", "../cache", "/etc/passwd", str(__file__)])
def test_an_unknown_name_is_one_line_and_exit_code_1(place, name):
    done = place.call("rm", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert repr(name) in done.stderr
    assert "`gguf-embed list`" in done.stderr


def test_a_name_is_needed(place):
    assert place.call("rm").returncode == 2


@pytest.mark.parametrize(
    ("freed", "users", "text"),
    [
        (5_000_000, (), "5.0 MB freed"),
        (0, ("a", "b"), "file kept, still used by a, b"),
        (5_000_000, ("a",), "5.0 MB freed, file kept, still used by a"),
    ],
)
def test_the_summary_of_freed_space(freed, users, text):
    assert freed_summary(freed, users) == text
