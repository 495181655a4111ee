"""Pulled models and the files in a folder: listing, pulling, copying, removing, and names that must not work."""

from __future__ import annotations

import gc
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gguf_embed.errors import InvalidRequest, ModelFileError, ModelNotFound, NotSupported, WayOut
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.towers import HAS_IMAGES, image_tower, read_model
from gguf_embed.model_store.download import Hub
from gguf_embed.model_store.store import ModelStore, Removed
from gguf_embed.types import PullProgress
from tests.convert.bert_directory import random_weights, write_bert_directory
from tests.convert.encoders import tiny_models
from tests.data.tower_directories import write_directory
from tests.gguf_models import write_tiny_encoder
from tests.model_store.fake_hub import FakeHub, serve

REPO = "org/tiny-GGUF"
NOMIC = "nomic-ai/nomic-embed-text-v1.5-GGUF"


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_encoder(tmp_path_factory.mktemp("model") / "m.gguf").read_bytes()


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return write_tiny_encoder(tmp_path_factory.mktemp("other") / "m.gguf", n_embd=16, n_ff=32).read_bytes()


@pytest.fixture
def fake(model, other):
    files = {
        REPO: {"tiny-F16.gguf": other, "tiny-Q8_0.gguf": model},
        NOMIC: {"nomic-embed-text-v1.5.Q4_K_M.gguf": other, "nomic-embed-text-v1.5.f16.gguf": model},
        "org/same": {"copy.gguf": model},
    }
    with serve(FakeHub(files=files)) as hub:
        yield hub


@pytest.fixture
def hub(fake, tmp_path):
    return Hub(endpoint=fake.endpoint, cache_dir=tmp_path / "hub")


@pytest.fixture
def store(tmp_path, hub):
    return ModelStore(tmp_path / "cache", None, hub)


def ignore(_: PullProgress) -> None:
    pass


def names(store: ModelStore) -> list[str]:
    return [entry.name for entry in store.models()]


def kept_files(tmp_path: Path) -> list[Path]:
    """The contents that the hub's cache holds."""
    return [path for path in (tmp_path / "hub").rglob("blobs/*") if path.is_file()]


def test_a_pulled_repository_is_listed_under_its_quantization(store, model):
    steps: list[PullProgress] = []
    entry = store.pull(f"hf.co/{REPO}", steps.append)
    assert (entry.name, entry.aliases, entry.repo, entry.origin) == (f"{REPO}:Q8_0", (REPO,), REPO, "pulled")
    assert (entry.size_bytes, entry.path.read_bytes()) == (len(model), model)
    assert store.models() == (entry,)
    assert [store.find(name) for name in (REPO, f"{REPO}:latest", f"{REPO.upper()}:q8_0")] == [entry] * 3
    words = [step.status for step in steps if not step.total_bytes]
    assert words == ["pulling manifest", "verifying sha256 digest", "writing manifest", "success"]


def test_an_alias_of_the_catalog_takes_the_file_it_names(store, model):
    entry = store.pull("nomic-embed-text:latest", ignore)
    assert (entry.name, entry.repo) == ("nomic-embed-text-v1.5", NOMIC)
    assert entry.path.name == "nomic-embed-text-v1.5.f16.gguf"
    assert store.find("nomic-embed-text") == store.find("nomic-embed-text:v1.5") == entry


def test_an_alias_with_a_quantization_is_a_separate_name(store):
    store.pull("nomic-embed-text", ignore)
    entry = store.pull("nomic-embed-text:Q4_K_M", ignore)
    assert (entry.name, entry.path.name) == ("nomic-embed-text-v1.5:Q4_K_M", "nomic-embed-text-v1.5.Q4_K_M.gguf")
    assert store.find("nomic-embed-text:q4_k_m") == entry
    assert names(store) == ["nomic-embed-text-v1.5", "nomic-embed-text-v1.5:Q4_K_M"]


def test_pulling_again_fetches_nothing(fake, store):
    store.pull(REPO, ignore)
    fake.requests.clear()
    store.pull(REPO, ignore)
    assert fake.downloads == []
    assert len(store.models()) == 1


def test_another_process_sees_what_was_pulled_and_needs_no_network(tmp_path, store):
    entry = store.pull(REPO, ignore)
    nowhere = Hub(endpoint="http://127.0.0.1:9", cache_dir=tmp_path / "hub", offline=True)
    later = ModelStore(tmp_path / "cache", None, nowhere)
    assert later.models() == (entry,)
    assert later.pull(REPO, ignore).digest == entry.digest


def test_a_split_model_is_listed_and_removed_as_one(tmp_path, fake, store, model, other):
    fake.files["org/split"] = {"s-F16-00001-of-00002.gguf": model, "s-F16-00002-of-00002.gguf": other}
    entry = store.pull("org/split", ignore)
    assert (entry.name, entry.size_bytes) == ("org/split:F16", len(model) + len(other))
    assert entry.path.name == "s-F16-00001-of-00002.gguf"
    assert store.remove("org/split") == Removed(len(model) + len(other), ())
    assert (store.models(), kept_files(tmp_path)) == ((), [])


def test_a_file_with_two_names_is_deleted_with_the_last_one(tmp_path, store, model):
    first = store.pull("nomic-embed-text", ignore)
    store.pull(f"{NOMIC}:f16", ignore)
    assert store.remove("nomic-embed-text") == Removed(0, (f"{NOMIC}:f16",))
    assert first.path.is_file()
    assert store.remove(f"{NOMIC}:f16") == Removed(len(model), ())
    assert not first.path.exists()
    assert not (tmp_path / "hub" / ("models--" + NOMIC.replace("/", "--"))).exists()


def test_removing_leaves_other_files_of_the_repository(store, model):
    store.pull(REPO, ignore)
    kept = store.pull(f"{REPO}:F16", ignore)
    assert store.remove(f"{REPO}:Q8_0") == Removed(len(model), ())
    assert store.models() == (kept,)
    assert kept.path.is_file()


def test_a_copy_is_a_further_name(store):
    entry = store.pull(REPO, ignore)
    store.copy(REPO, "me/mine:v1")
    copy = store.find("ME/mine:v1")
    assert (copy.path, copy.digest, copy.size_bytes, copy.repo) == (
        entry.path,
        entry.digest,
        entry.size_bytes,
        entry.repo,
    )
    assert store.remove(REPO).still_used_by == ("me/mine:v1",)
    assert names(store) == ["me/mine:v1"]


def test_a_users_file_can_be_registered_and_is_never_deleted(tmp_path, store):
    mine = write_tiny_encoder(tmp_path / "mine.gguf")
    store.add("own:latest", mine, "ab" * 32)
    assert (store.find("own").path, store.find("own").digest) == (mine, "ab" * 32)
    assert store.remove("own") == Removed(0, ())
    assert mine.is_file()
    with pytest.raises(ModelFileError, match=r"gone\.gguf cannot be read: No such file"):
        store.add("gone", tmp_path / "gone.gguf", "")


def test_a_copy_of_a_split_model_has_all_its_parts(tmp_path, fake, store, model, other):
    fake.files["org/split"] = {"s-F16-00001-of-00002.gguf": model, "s-F16-00002-of-00002.gguf": other}
    entry = store.pull("org/split", ignore)
    store.add("mine", entry.path, entry.digest)
    store.remove("org/split")
    assert store.find("mine").size_bytes == entry.size_bytes
    assert store.remove("mine").freed_bytes == entry.size_bytes
    assert kept_files(tmp_path) == []


def test_the_default_model_needs_no_hub_when_it_is_here(tmp_path, fake, store, model):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "all-MiniLM-L6-v2-F16.gguf").write_bytes(model)
    entry = store.pull("all-minilm", ignore)
    assert (entry.name, entry.path.name, entry.repo) == ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2-F16.gguf", None)
    assert fake.requests == []
    assert store.remove("all-minilm") == Removed(len(model), ())


@pytest.mark.parametrize("name", ["bert-base-uncased", "google-bert/bert-base-uncased"])
def test_a_model_without_a_gguf_is_converted_once(tmp_path, fake, store, name):
    folder = write_bert_directory(tmp_path / "original", random_weights())
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    fake.files["google-bert/bert-base-uncased"] = files
    steps: list[PullProgress] = []
    entry = store.pull(name, steps.append)
    assert (entry.name, entry.path) == (
        "bert-base-uncased",
        tmp_path / "cache" / "converted" / "bert-base-uncased.gguf",
    )
    assert read_header(entry.path).get("general.name", str) == "bert-base-uncased"
    assert "converting google-bert/bert-base-uncased" in [step.status for step in steps]
    fake.requests.clear()
    assert store.pull(name, ignore).digest == entry.digest
    assert fake.requests == []
    assert store.remove("bert-base-uncased").freed_bytes == entry.size_bytes


def test_an_image_tower_is_converted_into_the_file_of_its_text_model(fake, store, tmp_path):
    def files_of(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    text = tiny_models.write_directory("nomic_bert", tmp_path / "text")
    fake.files["nomic-ai/nomic-embed-text-v1.5"] = files_of(text)
    fake.files["nomic-ai/nomic-embed-vision-v1.5"] = files_of(write_directory("nomic_vision", tmp_path / "tower"))
    entry = store.pull("nomic-embed-vision", ignore)
    assert (entry.name, entry.repo) == ("nomic-embed-vision-v1.5", "nomic-ai/nomic-embed-vision-v1.5")
    header = read_model(entry.path)
    assert (header.architecture, header.get(HAS_IMAGES, bool)) == ("nomic-bert", True)
    assert image_tower(read_header(entry.path)) is not None


def test_word_vectors_are_converted_from_their_table(tmp_path, fake, store):
    rows = [
        " ".join([word, *(f"{0.01 * (i + k):.4f}" for k in range(25))]) for i, word in enumerate(["the", "cat", "sat"])
    ]
    fake.files["jkrukowski/glove-twitter-25"] = {
        "glove-twitter-25.txt": "\n".join(rows).encode() + b"\n",
        "README.md": b"# GloVe",
        "config.json": b"{}",
    }
    entry = store.pull("glove-twitter-25:F32", ignore)
    header = read_header(entry.path)
    assert (entry.name, entry.path.name) == ("glove-twitter-25:F32", "glove-twitter-25-F32.gguf")
    assert (header.architecture, header.get(f"{header.architecture}.embedding_length", int)) == ("static-embedding", 25)


def test_two_at_once_download_a_file_once(fake, tmp_path, hub):
    libraries = [ModelStore(tmp_path / "cache", None, hub) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        entries = list(pool.map(lambda store: store.pull(REPO, ignore), libraries))
    assert entries[0].digest == entries[1].digest
    assert len(fake.downloads) == 1


BAD_NAMES = ["../x", "/etc/passwd", "a/../b", "a\0b", "a/b/c", "", "..", "./m.gguf", "C:\\m", "m.gguf\n/x"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_an_invalid_name_never_reaches_the_file_system(tmp_path, fake, store, name):
    store.pull(REPO, ignore)
    before = sorted(tmp_path.rglob("*"))
    fake.requests.clear()
    for act in (lambda: store.pull(name, ignore), lambda: store.copy(REPO, name)):
        with pytest.raises(InvalidRequest) as caught:
            act()
        assert caught.value.param == "model"
    for act in (lambda: store.remove(name), lambda: store.copy(name, "fine")):
        with pytest.raises(ModelNotFound):
            act()
    assert store.find(name) is None
    assert (sorted(tmp_path.rglob("*")), fake.requests) == (before, [])


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nomic", ModelNotFound, "'nomic'.*nomic-embed-text, .*list --catalog"),
        ("model.gguf", ModelNotFound, "'model.gguf'.*list --catalog"),
        ("nomic-embed-text:v9", ModelNotFound, "nomic-embed-text-v1.5 .*'v9'"),
        ("jina-reranker-v3.5", NotSupported, r"jina-reranker-v3\.5 .*window"),
        ("potion-base-8M:Q4_K_M", NotSupported, "potion-base-8M .*F32, F16, BF16 or Q8_0, not to Q4_K_M"),
        ("org/nothing", ModelFileError, "org/nothing is not on the hub"),
        (f"{REPO}:Q6_K", ModelFileError, "has no GGUF of type Q6_K; choose one of"),
    ],
)
def test_what_cannot_be_pulled_is_explained(store, name, error, message):
    with pytest.raises(error, match=message):
        store.pull(name, ignore)
    assert store.models() == ()


def test_a_file_that_is_not_a_model_is_deleted(tmp_path, fake, store):
    fake.files["org/broken"] = {"broken-Q8_0.gguf": b"GGUF and then nothing of use" * 100}
    with pytest.raises(ModelFileError, match=r"broken-Q8_0\.gguf"):
        store.pull("org/broken", ignore)
    assert (store.models(), kept_files(tmp_path)) == ((), [])


def test_a_pull_that_its_listener_ends_is_not_entered(store):
    class EnoughError(Exception):
        pass

    def stop(step: PullProgress) -> None:
        if step.total_bytes:
            raise EnoughError

    with pytest.raises(EnoughError):
        store.pull(REPO, stop)
    assert store.models() == ()
    assert store.pull(REPO, ignore).path.is_file()


def test_files_of_a_folder_come_and_go(tmp_path, model):
    folder, clock = tmp_path / "models", Clock()
    folder.mkdir()
    store = ModelStore(tmp_path / "cache", folder, clock=clock)
    assert store.models() == ()
    write_tiny_encoder(folder / "new-F32.gguf")
    assert store.models() == (), "looked again at once"
    clock.now_s = 1.0
    (entry,) = store.models()
    assert (entry.name, entry.origin, entry.size_bytes) == ("new-F32", "folder", len(model))
    assert len(entry.digest) == 64
    clock.now_s = 2.0
    before = store.models()
    clock.now_s = 3.0
    assert store.models() is before
    refused = store.refused()
    clock.now_s = 3.5
    assert (store.models(), store.refused() is refused) == (before, True)
    (folder / "new-F32.gguf").unlink()
    clock.now_s = 4.0
    assert store.models() == ()


def test_facts_of_many_files_are_hidden_from_the_garbage_collector(tmp_path, model, monkeypatch):
    monkeypatch.setattr("gguf_embed.model_store.folder.NEW_PER_FREEZE", 3)
    folder, clock = tmp_path / "models", Clock()
    folder.mkdir()
    for number in range(7):
        (folder / f"{number}.gguf").write_bytes(model)
    store = ModelStore(tmp_path / "cache", folder, clock=clock)
    before = gc.get_freeze_count()
    try:
        assert len(store.models()) == 7
        after = gc.get_freeze_count()
        assert after > before
        clock.now_s = 2.0
        (folder / "new.gguf").write_bytes(model)
        assert len(store.models()) == 8
        assert gc.get_freeze_count() <= after, "one new file is no reason"
    finally:
        gc.unfreeze()


def test_a_folder_is_read_with_sense(tmp_path, model, other, caplog):
    folder = tmp_path / "models"
    files = {
        "a.gguf": model,
        "org/repo/a.gguf": other,
        "org/repo/b-Q8_0.GGUF": other,
        "s-00001-of-00002.gguf": model,
        "s-00002-of-00002.gguf": model,
        "missing-00001-of-00002.gguf": model,
        "half.gguf": model[:-100],
        "mmproj-a.gguf": model,
        ".hidden/c.gguf": model,
        "1/2/3/4/deep.gguf": model,
        "notes.txt": b"x",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    store = ModelStore(tmp_path / "cache", folder)
    assert {entry.name: entry.size_bytes for entry in store.models()} == {
        "a": len(model),
        "b-Q8_0": len(other),
        "org/repo/a": len(other),
        "s": 2 * len(model),
    }
    assert [record.message for record in caplog.records if "half.gguf" in record.message]
    assert set(store.refused()) == {"half", "missing"}
    assert "not all of its 2 parts" in store.refused()["missing"]
    assert "half.gguf" in store.refused()["half"]
    assert store.find("A").path == folder / "a.gguf"


def test_a_folder_s_file_beats_a_pulled_name_and_cannot_be_removed(tmp_path, hub, other):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "nomic-embed-text-v1.5.gguf").write_bytes(other)
    store = ModelStore(tmp_path / "cache", folder, hub)
    with pytest.raises(InvalidRequest, match=r"nomic-embed-text-v1\.5\.gguf"):
        store.remove("nomic-embed-text-v1.5")
    store.pull("nomic-embed-text", ignore)
    assert [(entry.name, entry.origin) for entry in store.models()] == [("nomic-embed-text-v1.5", "folder")]
    for act in (store.copy, lambda source, name: store.add(name, folder / "x", "")):
        with pytest.raises(InvalidRequest, match=r"'nomic-embed-text-v1\.5'") as caught:
            act("nomic-embed-text-v1.5", "nomic-embed-text-v1.5")
        assert caught.value.param == "destination"
    store.copy("nomic-embed-text-v1.5", "mine")
    assert store.find("mine").path == folder / "nomic-embed-text-v1.5.gguf"
    store.remove("mine")
    assert (folder / "nomic-embed-text-v1.5.gguf").is_file()


def test_an_entry_whose_file_was_cleaned_away_is_not_listed_but_can_be_removed(tmp_path, store):
    store.pull(REPO, ignore)
    shutil.rmtree(tmp_path / "hub")
    after = ModelStore(tmp_path / "cache")
    assert after.models() == ()
    assert REPO in after.refused()
    assert "pull it again" in after.refused()[REPO]
    assert store.remove(REPO) == Removed(0, ())
    with pytest.raises(ModelNotFound, match="'org/tiny-GGUF'"):
        store.remove(REPO)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", json.dumps({"name": "../x", "paths": [], "aliases": []}), "\0"]
)
def test_a_damaged_index_file_is_skipped_and_logged(tmp_path, store, caplog, content):
    entry = store.pull(REPO, ignore)
    (tmp_path / "cache" / "pulled" / "bad.json").write_text(content)
    assert ModelStore(tmp_path / "cache").models() == (entry,)
    assert "bad.json" in caplog.text


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="this user may write everywhere")
def test_an_index_that_cannot_be_written_is_reported(tmp_path, store):
    (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(ModelFileError, match="cannot be written") as caught:
        store.pull(REPO, ignore)
    assert caught.value.ways_out == (WayOut.OTHER_CACHE,)


def test_an_index_folder_that_is_a_file_is_reported(tmp_path, store):
    (tmp_path / "cache").write_text("x")
    with pytest.raises(ModelFileError, match="cannot be written") as caught:
        store.pull(REPO, ignore)
    assert caught.value.ways_out == (WayOut.OTHER_CACHE,)
