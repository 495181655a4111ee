"""`gguf-embed list`: the models on this machine and those in the catalog."""

from __future__ import annotations

import json

import pytest

from gguf_embed.cli.catalog_table import source_label
from gguf_embed.cli.list_models import age_text
from gguf_embed.model_store.catalog import load_catalog
from gguf_embed.model_store.store import ModelStore
from tests.cli.command import Place
from tests.gguf_models import write_tiny_encoder


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


def test_without_models_it_points_to_the_catalog(place):
    done = place.call("list")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert "`gguf-embed list --catalog`" in done.stdout


def test_the_list_has_one_line_per_model_with_the_facts_of_its_header(place, pulled):
    folder = place.folder / "models"
    folder.mkdir()
    write_tiny_encoder(folder / "mine.gguf")
    header, first, second = place.call("list", "--models-dir", folder).stdout.splitlines()
    assert header.split() == ["NAME", "ARCHITECTURE", "TYPE", "DIMS", "CONTEXT", "SIZE", "MODIFIED", "ORIGIN"]
    assert first.split() == ["mine", "bert", "F32", "32", "64", "99", "kB", "now", "folder"]
    assert second.split() == ["org/tiny:F32", "bert", "F32", "32", "64", "99", "kB", "now", "pulled"]


def test_json_has_all_fields(place, pulled):
    (model,) = json.loads(place.call("list", "--json").stdout)
    assert (model["name"], model["path"], model["digest"]) == ("org/tiny:F32", str(pulled), "ab" * 32)
    assert model["size_bytes"] == pulled.stat().st_size


def test_a_damaged_file_is_listed_as_unreadable(place, pulled):
    pulled.write_bytes(b"nothing")
    assert place.call("list").stdout.splitlines()[1].split()[:2] == ["org/tiny:F32", "unreadable"]


def test_the_catalog_is_listed(place):
    done = place.call("list", "--catalog")
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + len(load_catalog().rows)
    assert [line for line in lines if line.startswith("jina-reranker-v3.5 ") and "not yet: some of" in line]
    rows = json.loads(place.call("list", "--catalog", "--json").stdout)
    nomic = next(row for row in rows if row["name"] == "nomic-embed-text-v1.5")
    assert nomic["prompts"]["query"] == "search_query: "


def test_a_folder_that_is_not_there_is_a_wrong_flag(place):
    assert place.call("list", "--models-dir", place.folder / "nothing").returncode == 2


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
