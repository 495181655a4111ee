"""`gguf-embed show`: the facts in a model's file and in the catalog."""

from __future__ import annotations

import json
import re

import pytest

from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.model_store.store import ModelStore
from gguf_embed.types import Pooling
from tests.cli.command import Place
from tests.gguf_models import write_tiny_encoder
from tests.running import running


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path, "http://127.0.0.1:9")


def facts(output: str) -> dict[str, str]:
    """Name → value of every line."""
    found = {}
    for line in output.splitlines():
        name, _, value = line.partition("  ")
        found[name] = value.strip()
    return found


def test_a_pulled_model_has_the_facts_of_file_and_catalog(place):
    (place.folder / "cache").mkdir()
    path = write_tiny_encoder(place.folder / "cache" / "nomic-embed-text-v1.5.f16.gguf", pooling=None)
    ModelStore(place.folder / "cache").add("nomic-embed-text-v1.5", path, "cd" * 32)
    done = place.call("show", "nomic-embed-text-v1.5")
    shown = facts(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert (shown["file"], shown["digest"], shown["origin"]) == (str(path), "sha256:" + "cd" * 32, "pulled")
    assert (shown["weights"], shown["dimensions"], shown["context"]) == ("F32", "32", "64")
    assert shown["pooling"].startswith("mean (from the catalog")
    assert shown["license"] == "apache-2.0"
    assert "prompt        query: 'search_query: '" in done.stdout.splitlines()


def test_a_catalog_model_that_is_not_on_this_machine_shows_the_command_to_pull_it(place):
    shown = facts(place.call("show", "all-minilm:l12-v2").stdout)
    assert shown["name"] == "all-MiniLM-L12-v2"
    assert shown["status"].startswith("not pulled")
    assert "`gguf-embed pull all-MiniLM-L12-v2`" in shown["status"]
    assert "leliuga/" in shown["status"]
    assert shown["pooling"] == "mean"
    assert facts(place.call("show", "jina-reranker-v3.5").stdout)["status"].startswith("not yet: some of")


def test_the_built_in_model_is_here_before_and_after_its_first_use(place):
    shown = facts(place.call("show", "all-minilm").stdout)
    assert shown["status"].startswith("built-in")
    assert shown["aliases"].startswith("all-minilm")
    (place.folder / "cache").mkdir()
    write_tiny_encoder(place.folder / "cache" / "all-MiniLM-L6-v2-F16.gguf")
    shown = facts(place.call("show", "all-MiniLM-L6-v2").stdout)
    assert (shown["name"], shown["origin"], shown["size"]) == ("all-MiniLM-L6-v2", "built-in", "99 kB")
    assert json.loads(place.call("show", "all-minilm", "--json").stdout)["origin"] == "built-in"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("bge-m", "bge-m3"), ("nomic-embed-txt", "nomic-embed-text"), ("org/thing", "`gguf-embed pull org/thing`")],
)
def test_a_name_that_almost_fits_is_answered_with_the_right_one(place, name, meant):
    done = place.call("show", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert meant in done.stderr


def test_what_is_made_here_is_not_downloaded_and_has_no_dimensions(place):
    shown = place.call("show", "bm25").stdout
    assert "not pulled: `gguf-embed pull bm25` makes it here\n" in shown
    assert "dimensions" not in shown


def test_a_repository_of_the_catalog_stands_for_its_model(place):
    assert facts(place.call("show", "gpustack/bge-m3-GGUF:Q8_0").stdout)["name"] == "bge-m3"


def test_a_file_may_be_shown_by_its_path(place):
    path = write_tiny_encoder(place.folder / "r.gguf", pooling=Pooling.RANK, rank_head=True)
    shown = facts(place.call("show", path).stdout)
    assert (shown["architecture"], shown["pooling"], shown["rank head"]) == ("bert", "rank", "yes")
    assert "digest" not in shown


def test_the_last_load_is_shown_with_engine_precision_and_kernels(place):
    path = write_tiny_encoder(place.folder / "m.gguf")
    before = json.loads(place.call("show", path, "--json").stdout)
    assert (before["engine"], before["last_load"]) == (facts(place.call("show", path).stdout)["engine"], None)
    assert "last load" not in place.call("show", path).stdout
    for engine, title in (("openvino", "OpenVINO"), ("llama", r"llama\.cpp")):
        config = ModelConfig(compute=ComputeConfig(engine=engine, precision="f32", n_workers=2))
        with running(path, config, place.folder / "cache") as service:
            service.embed("hello")
        last = json.loads(place.call("show", path, "--json").stdout)["last_load"]
        kernels = last.pop("kernels")
        assert last == {"engine": engine, "precision": "F32", "workers": 2}
        shown = facts(place.call("show", path).stdout)
        assert re.fullmatch(rf"{title}, F32 \({kernels} kernels\), 2 workers", shown["last load"])
        assert "measured when it is first served" in shown["engine"]  # without these flags


def test_json_has_all_fields(place):
    model = json.loads(place.call("show", "bge-m3", "--json").stdout)
    assert (model["name"], model["path"], model["file"], model["pooling"]) == ("bge-m3", None, None, "cls")
    assert model["catalog"]["repo"] == "gpustack/bge-m3-GGUF"
    path = write_tiny_encoder(place.folder / "mine.gguf")
    model = json.loads(place.call("show", path, "--json").stdout)
    assert (model["catalog"], model["file"]["dimensions"], model["pooling"]) == (None, 32, "mean")


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing", "'nothing'"), ("../no-such-x", "../no-such-x: no such file"), ("damaged", "damaged.gguf")],
)
def test_an_unknown_name_or_a_damaged_file_is_one_line(place, name, message):
    damaged = place.folder / "damaged.gguf"
    damaged.write_bytes(write_tiny_encoder(place.folder / "m.gguf").read_bytes()[:-10])
    done = place.call("show", damaged if name == "damaged" else name)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert message in done.stderr
