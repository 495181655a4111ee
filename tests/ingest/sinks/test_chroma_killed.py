"""Chroma in a folder, after a process was killed while it wrote there, or has left its copies of the index."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading

import pytest

from gguf_embed.errors import EmbedError
from gguf_embed.ingest.sinks import chroma, chroma_index
from gguf_embed.ingest.sinks.chroma import close_client
from gguf_embed.ingest.sinks.chroma_index import FOLDER, has_copies
from gguf_embed.ingest.sinks.open import open_sink
from tests.ingest.sinks.chroma_place import folder_place
from tests.ingest.sinks.contract import Place, stored_ids
from tests.ingest.sinks.killed_chroma import (
    DELETED,
    FIRST,
    SECOND,
    kill_while_the_first_index_is_written,
    kill_while_the_index_is_written,
)
from tests.ingest.sinks.sample_rows import MANIFEST, by_id, numbered, rows, vectors

pytestmark = [pytest.mark.ingest, pytest.mark.filterwarnings("ignore:legacy embedding function:DeprecationWarning")]


@pytest.fixture
def place(tmp_path) -> Place:
    return folder_place(pytest.importorskip("chromadb"), tmp_path / "chroma")


@pytest.fixture
def sink(place):
    sink = open_sink(place.url)
    sink.create(MANIFEST)
    yield sink
    sink.close()


def same_rows(found: dict[str, dict[str, object]], expected: dict[str, dict[str, object]]) -> None:
    """Vectors to five digits: Chroma divides them by their length."""
    assert found.keys() == expected.keys()
    for id_, row in expected.items():
        assert list(found[id_].pop("embedding")) == pytest.approx(list(row.pop("embedding")), abs=1e-5)
        assert found[id_] == row


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_a_process_that_is_killed_while_the_index_is_written_loses_nothing(place, tmp_path, moment):
    kill_while_the_index_is_written(place.url, tmp_path / "chroma", moment)
    expected = by_id([rows(FIRST, seed=1)])
    for id_ in DELETED:
        del expected[id_]
    expected |= by_id([rows(SECOND, seed=2)])
    sink = open_sink(place.url)
    assert sink.manifest() == MANIFEST
    assert stored_ids(sink) == {hit.id for hit in sink.search(vectors(1, 0)[0], 5_000)} == set(expected)
    sink.prepare("none")
    sink.write(rows(SECOND, seed=3))
    expected |= by_id([rows(SECOND, seed=3)])
    sink.delete(FIRST[50:100])
    for id_ in FIRST[50:100]:
        del expected[id_]
    assert sink.count() == len(expected)
    sink.close()
    same_rows(by_id(place.read()), expected)
    assert not has_copies(tmp_path / "chroma")


def test_a_process_that_is_killed_while_the_first_index_is_written_loses_nothing(place, tmp_path):
    kill_while_the_first_index_is_written(place.url, tmp_path / "chroma")
    assert has_copies(tmp_path / "chroma")
    sink = open_sink(place.url)
    assert sink.manifest() == MANIFEST
    assert stored_ids(sink) == {hit.id for hit in sink.search(vectors(1, 0)[0], 5_000)} == set(FIRST)
    sink.prepare("none")
    sink.write(rows(SECOND, seed=2))
    sink.close()
    same_rows(by_id(place.read()), by_id([rows(FIRST, seed=1)]) | by_id([rows(SECOND, seed=2)]))


def test_what_is_killed_while_it_restores_or_removes_copies_loses_nothing(place, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def only_once(step):
        done = []

        def limited(*args, **kwargs):
            if done:
                raise Killed
            done.append(args)
            return step(*args, **kwargs)

        return limited

    kill_while_the_index_is_written(place.url, tmp_path / "chroma", "within")
    for name in ("replace", "unlink"):  # within the restoring, and within the removal of the damaged index
        with monkeypatch.context() as patched:
            patched.setattr(os, name, only_once(getattr(os, name)))
            search = open_sink(place.url)
            with pytest.raises(Killed):
                search.manifest()
            search.close()
        assert has_copies(tmp_path / "chroma")
    job = open_sink(place.url)
    job.prepare("none")
    assert job.manifest() == MANIFEST
    job.write(rows(numbered(3)))
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", only_once(os.unlink))
        with pytest.raises(Killed):
            job.close()
    assert has_copies(tmp_path / "chroma")
    search = open_sink(place.url)
    assert search.manifest() == MANIFEST
    assert len(search.search(vectors(1, 0)[0], 5_000)) == 1_853
    search.close()
    assert not has_copies(tmp_path / "chroma")


def test_a_search_that_has_restored_the_index_does_not_hinder_the_next_job(place, tmp_path):
    kill_while_the_index_is_written(place.url, tmp_path / "chroma", "within")
    search, job = open_sink(place.url), open_sink(place.url)
    assert search.manifest() == MANIFEST
    assert not has_copies(tmp_path / "chroma")
    assert job.manifest() == MANIFEST
    job.prepare("none")
    assert len(search.search(vectors(1, 0)[0], 5_000)) == 1_850
    job.close()
    search.close()


def test_others_wait_until_the_index_is_restored(place, tmp_path, monkeypatch):
    kill_while_the_index_is_written(place.url, tmp_path / "chroma", "within")
    waits_or_found = threading.Event()
    found: list[int] = []
    flock, restore = fcntl.flock, chroma_index.restore_indexes

    def search() -> None:
        sink = open_sink(place.url)
        sink.manifest()
        found.append(len(sink.search(vectors(1, 0)[0], 5_000)))
        sink.close()
        waits_or_found.set()

    def lock(file: int, how: int) -> None:
        if threading.current_thread() is other and not how & fcntl.LOCK_NB:
            waits_or_found.set()
        flock(file, how)

    def restored_while_another_searches(folder) -> None:
        other.start()
        assert waits_or_found.wait(60)
        assert not found
        restore(folder)

    other = threading.Thread(target=search)
    monkeypatch.setattr(fcntl, "flock", lock)
    monkeypatch.setattr(chroma_index, "restore_indexes", restored_while_another_searches)
    sink = open_sink(place.url)
    assert sink.manifest() == MANIFEST
    other.join()
    assert found == [1_850]
    sink.close()


@pytest.mark.parametrize("moment", ["within", "after"])
def test_an_index_that_may_not_be_restored_is_read_if_it_can_be(place, tmp_path, moment):
    kill_while_the_index_is_written(place.url, tmp_path / "chroma", moment)
    (tmp_path / "chroma" / "gguf_embed.lock").unlink()
    (tmp_path / "chroma" / "gguf_embed.lock").mkdir()  # nobody can open it for writing, not even root
    sink = open_sink(place.url)
    assert sink.manifest() == MANIFEST
    if moment == "after":
        assert len(sink.search(vectors(1, 0)[0], 5_000)) == 1_850
    else:
        with pytest.raises(EmbedError, match=r"restored \(.*\): search once as a user who may write to the folder"):
            sink.search(vectors(1, 0)[0], 5)
    with pytest.raises(EmbedError, match=r"Chroma collection notes in .* cannot be written: .*gguf_embed\.lock"):
        sink.prepare("none")
    sink.close()
    assert has_copies(tmp_path / "chroma")


def test_a_client_that_cannot_be_closed_does_not_keep_the_folder(place, sink, tmp_path, monkeypatch):
    def fails(client) -> None:
        close_client(client)
        raise RuntimeError("no way")

    sink.write(rows(numbered(3)))
    with monkeypatch.context() as patched:
        patched.setattr(chroma, "close_client", fails)
        with pytest.raises(EmbedError, match="no way"):
            sink.close()
    assert has_copies(tmp_path / "chroma")
    other = open_sink(place.url)
    other.prepare("none")
    assert stored_ids(other) == set(numbered(3))
    other.close()


def test_an_index_is_not_restored_while_its_writer_lives(place, sink, tmp_path):
    for first in range(0, 2_400, 600):
        sink.write(rows(numbered(600, first=first), seed=first))
    assert has_copies(tmp_path / "chroma")
    other = open_sink(place.url)
    assert other.manifest() == MANIFEST
    assert other.count() == 2_400
    other.close()
    sink.write(rows(numbered(600), seed=1))
    sink.close()
    same_rows(
        by_id(place.read()),
        {
            **by_id([rows(numbered(600), seed=1)]),
            **by_id([rows(numbered(600, first=first), seed=first) for first in (600, 1_200, 1_800)]),
        },
    )


def test_an_index_that_is_damaged_and_has_no_copy_is_an_error(place, sink, tmp_path):
    sink.write(rows(numbered(1_000)))
    sink.close()
    (ids,) = (tmp_path / "chroma").glob("*-*/index_metadata.pickle")
    ids.write_bytes(ids.read_bytes()[:100])
    again = open_sink(place.url)
    with pytest.raises(EmbedError, match="its index is damaged: write all rows anew, into another collection"):
        again.count()
    again.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_another_user_is_an_error_that_says_what_helps(place, sink, tmp_path):
    sink.write(rows(numbered(1_000)))
    sink.write(rows(numbered(3)))
    shutil.copytree(tmp_path / "chroma" / FOLDER, tmp_path / "copies")
    sink.close()
    shutil.move(tmp_path / "copies", tmp_path / "chroma" / FOLDER)  # as if it had been killed
    paths = [tmp_path / "chroma", *(tmp_path / "chroma").iterdir()]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    other = open_sink(place.url)
    with pytest.raises(EmbedError, match="do this as a user who may write to the folder"):
        other.manifest()
    other.close()
    for path in paths:
        path.chmod(0o755 if path.is_dir() else 0o644)
