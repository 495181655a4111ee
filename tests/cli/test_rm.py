"""`gguf-embed rm`: what goes, what stays, and what it says."""

from __future__ import annotations

import pytest

from gguf_embed.cli.rm import freed_summary
from gguf_embed.model_store.store import ModelStore
from tests.cli.command import Place
from tests.gguf_models import write_tiny_encoder


@pytest.fixture
def place(tmp_path):
    (tmp_path / "cache").mkdir()
    return Place(tmp_path, "http://127.0.0.1:9")


def test_what_became_free_is_said(place):
    path = write_tiny_encoder(place.folder / "cache" / "m.gguf")
    store = ModelStore(place.folder / "cache")
    store.add("one", path, "ab" * 32)
    store.add("two", path, "ab" * 32)
    done = place.call("rm", "one", "two")
    assert done.stdout == "removed one: its file stays for two\nremoved two: 99 kB freed\n"
    assert not path.exists()
    assert place.call("list").stdout.startswith("no model was pulled yet")


def test_a_file_of_the_user_s_own_stays(place):
    path = write_tiny_encoder(place.folder / "mine.gguf")
    ModelStore(place.folder / "cache").add("mine", path, "ab" * 32)
    assert "nothing freed, its file is not ours" in place.call("rm", "mine").stdout
    assert path.is_file()


@pytest.mark.parametrize("name", ["nothing", "../cache", "/etc/passwd", str(__file__)])
def test_an_unknown_name_is_one_line_and_exit_code_1(place, name):
    done = place.call("rm", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"gguf-embed: no model is called {name!r}; `gguf-embed list`")


def test_a_name_is_needed(place):
    assert place.call("rm").returncode == 2


@pytest.mark.parametrize(
    ("freed", "users", "text"),
    [
        (5_000_000, (), "5.0 MB freed"),
        (0, ("a", "b"), "its file stays for a, b"),
        (5_000_000, ("a",), "5.0 MB freed, its file stays for a"),
    ],
)
def test_words_for_what_became_free(freed, users, text):
    assert freed_summary(freed, users) == text
