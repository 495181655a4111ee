"""`gguf-embed list`: the models on this machine and those in the catalog."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from gguf_embed.cli.catalog_table import catalog_lines, chosen_rows, source_label
from gguf_embed.cli.list_models import age_text
from gguf_embed.model_store.catalog import load_catalog
from gguf_embed.model_store.store import ModelStore
from tests.cli.command import Place
from tests.gguf_models import write_tiny_encoder
from tests.server_process import command


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path, "http://127.0.0.1:9")


@pytest.fixture
def pulled(place):
    """A model that is in the index as if it had been pulled."""
    (place.folder / "cache").mkdir()
    path = write_tiny_encoder(place.folder / "cache" / "tiny-F32.gguf")
    ModelStore(place.folder / "cache").add("org/tiny:F32", path, "ab" * 32)
    return path


def test_without_pulled_models_the_built_in_one_is_here(place):
    done = place.call("list")
    assert (done.returncode, done.stderr) == (0, "")
    header, built_in = done.stdout.splitlines()
    assert header.split() == ["NAME", "ARCHITECTURE", "TYPE", "DIMS", "CONTEXT", "SIZE", "MODIFIED", "ORIGIN"]
    assert built_in.split() == ["all-MiniLM-L6-v2", "bert", "F16", "384", "512", "45.4", "MB", "-", "built-in"]


def test_without_any_model_it_points_to_the_catalog(place, monkeypatch):
    monkeypatch.setattr("gguf_embed.cli.list_models.default_on_this_machine", lambda cache: None)
    done = place.call("list")
    assert len(done.stdout.splitlines()) == 1
    assert "`gguf-embed list --catalog`" in done.stdout


def test_the_built_in_model_has_the_size_of_its_file_once_there_is_one(place):
    (place.folder / "cache").mkdir()
    path = write_tiny_encoder(place.folder / "cache" / "all-MiniLM-L6-v2-F16.gguf")
    (model,) = json.loads(place.call("list", "--json").stdout)
    assert (model["origin"], model["path"], model["size_bytes"]) == ("built-in", str(path), path.stat().st_size)


def test_the_list_has_one_line_per_model_with_the_facts_of_its_header(place, pulled):
    folder = place.folder / "models"
    folder.mkdir()
    write_tiny_encoder(folder / "mine.gguf")
    header, first, second, _ = place.call("list", "--models-dir", folder).stdout.splitlines()
    assert header.split() == ["NAME", "ARCHITECTURE", "TYPE", "DIMS", "CONTEXT", "SIZE", "MODIFIED", "ORIGIN"]
    assert first.split() == ["mine", "bert", "F32", "32", "64", "99", "kB", "now", "folder"]
    assert second.split() == ["org/tiny:F32", "bert", "F32", "32", "64", "99", "kB", "now", "pulled"]


def test_json_has_all_fields(place, pulled):
    (model,) = json.loads(place.call("list", "tiny", "--json").stdout)
    assert (model["name"], model["path"], model["digest"]) == ("org/tiny:F32", str(pulled), "ab" * 32)
    assert model["size_bytes"] == pulled.stat().st_size


def test_a_damaged_file_is_listed_as_unreadable(place, pulled):
    pulled.write_bytes(b"nothing")
    assert place.call("list").stdout.splitlines()[1].split()[:2] == ["org/tiny:F32", "unreadable"]


@pytest.mark.parametrize("word", ["de", "german", "German"])
def test_a_language_is_also_one_of_multilingual_models(word):
    rows = chosen_rows(load_catalog().rows, [word], None)
    assert all({"de", "multilingual"} & set(row.languages) for row in rows)
    assert {"jina-embeddings-v2-base-de", "bge-m3"} <= {row.name for row in rows}
    assert "bge-m3" in {row.name for row in chosen_rows(load_catalog().rows, ["italian", "bge"], None)}
    assert not chosen_rows(load_catalog().rows, ["italian", "jina-embeddings-v2-base-en"], None)


def test_the_catalog_is_listed(place):
    done = place.call("list", "--catalog")
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + len(load_catalog().rows)
    assert [line for line in lines if line.startswith("jina-reranker-v3.5 ") and "not yet: some of" in line]
    rows = json.loads(place.call("list", "--catalog", "--json").stdout)
    nomic = next(row for row in rows if row["name"] == "nomic-embed-text-v1.5")
    assert nomic["prompts"]["query"] == "search_query: "


def names(output: str) -> list[str]:
    return [line.split()[0] for line in output.splitlines()[1:]]


def test_words_and_a_size_choose_from_the_catalog(place):
    chosen = names(place.call("list", "--catalog", "rerank", "--max-size", "100M").stdout)
    assert chosen == ["jina-reranker-v1-tiny-en", "jina-reranker-v1-turbo-en", "ms-marco-MiniLM-L6-v2",
                      "ms-marco-MiniLM-L12-v2"]  # fmt: skip
    assert names(place.call("list", "--catalog", "nomic-embed-text:v1").stdout) == [
        "nomic-embed-text-v1.5",
        "nomic-embed-text-v1",
    ]
    assert "bge-m3" in names(place.call("list", "--catalog", "multilingual", "MIT").stdout)


@pytest.mark.parametrize("words", [["--catalog", "nothing-like-it"], ["nothing-like-it"], ["--max-size", "1K"]])
def test_words_that_no_model_has_are_an_error_that_names_them(place, words):
    done = place.call("list", *words)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "'nothing-like-it'" in done.stderr or "at most 1 kB" in done.stderr


@pytest.mark.parametrize(
    ("words", "way_out"),
    [
        (["nothing-like-it"], "use another word"),
        (["nothing-like-it", "b"], "use fewer words"),
        (["--max-size", "1K"], "use a larger --max-size"),
        (["rerank", "--max-size", "1K"], "use a larger --max-size or another word"),
    ],
)
def test_the_way_out_is_about_what_was_given(place, words, way_out):
    assert place.call("list", "--catalog", *words).stderr.endswith(f": {way_out}\n")


@pytest.mark.parametrize("width", [40, 80, 100])
def test_no_name_of_the_catalog_is_cut(width):
    rows = load_catalog().rows
    starts = {line.split()[0] for line in catalog_lines(rows, width)}
    assert {row.name for row in rows} <= starts


def test_words_choose_from_this_machine(place, pulled):
    assert names(place.call("list", "tiny").stdout) == ["org/tiny:F32"]
    assert names(place.call("list", "minilm").stdout) == ["all-MiniLM-L6-v2"]


def test_a_folder_that_is_not_there_is_a_wrong_flag(place):
    done = place.call("list", "--models-dir", place.folder / "nothing")
    assert done.returncode == 2
    assert "/nothing' does not exist; give the name of a folder that exists" in done.stderr


@pytest.mark.process
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_behind_standard_output_is_one_line(place):
    with open("/dev/full", "wb", 0) as full:
        done = subprocess.run(
            command("list"), env=place.environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    message = "standard output cannot be written (No space left on device): free some space, or send it elsewhere"
    assert (done.returncode, done.stderr) == (1, f"gguf-embed: {message}\n")


@pytest.mark.process
def test_listing_loads_neither_hub_client_nor_engine(place):
    done = place.run("list", PYTHONPROFILEIMPORTTIME="1")
    assert "gguf_embed.model_store.store" in done.stderr
    assert "huggingface_hub" not in done.stderr


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("bge-m3", "gpustack/bge-m3-GGUF"),
        ("potion-base-8M", "minishlab/potion-base-8M, converted"),
    ],
)
def test_the_source_of_a_model(name, way):
    assert source_label(load_catalog().find(name)) == way


def test_the_source_of_a_model_that_cannot_run_is_the_reason():
    assert source_label(load_catalog().find("jina-reranker-v3.5")).startswith("not yet: some of")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "now"), (-5, "now"), (60, "60 s ago"), (600, "10 min ago"), (90_000, "1 day ago"), (864_000, "10 days ago")],
)
def test_ages_read_well(seconds, text):
    assert age_text(seconds) == text
