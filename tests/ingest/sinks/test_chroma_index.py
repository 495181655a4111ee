"""The copies of Chroma's indexes, without Chroma: what a killed process leaves after each of its steps."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from gguf_embed.errors import EngineFailure
from gguf_embed.ingest.sinks import chroma_index
from gguf_embed.ingest.sinks.chroma_index import (
    DATABASE,
    FOLDER,
    IndexCopies,
    has_copies,
    lock_and_restore,
    remove_copies,
    restore_indexes,
)

COLLECTION = UUID(int=1)
INDEX = str(UUID(int=2))
FILES = ("data_level0.bin", "header.bin", "index_metadata.pickle")
STEPS = ((os, "mkdir"), (os, "replace"), (os, "rmdir"), (os, "unlink"), (shutil, "copyfile"))


class Killed(BaseException):
    """Instead of the end of the process."""


def make_folder(folder: Path) -> None:
    folder.mkdir()
    with sqlite3.connect(folder / DATABASE) as db:
        db.execute("create table segments (id text, scope text, collection text)")
        db.execute("create table max_seq_id (segment_id text primary key, seq_id integer)")
        db.execute("insert into segments values (?, 'VECTOR', ?)", (INDEX, str(COLLECTION)))
    db.close()


def write_index(folder: Path, change: int) -> None:
    """As Chroma does it, to its end."""
    (folder / INDEX).mkdir(exist_ok=True)
    for name in FILES:
        (folder / INDEX / name).write_text(f"{name} {change}")
    with sqlite3.connect(folder / DATABASE) as db:
        db.execute("insert or replace into max_seq_id values (?, ?)", (INDEX, change))
    db.close()


def damage_index(folder: Path) -> None:
    """As a process that is killed while Chroma writes an index over another one, or the first one."""
    (folder / INDEX).mkdir(exist_ok=True)
    (folder / INDEX / FILES[0]).write_text("newer")
    (folder / INDEX / FILES[2]).write_text("")


def keep(folder: Path) -> None:
    copies = IndexCopies(folder, "the notes")
    try:
        copies.keep(COLLECTION)
    finally:
        copies.close()


def is_complete(index: Path, change: int) -> bool:
    return {path.name: path.read_text() for path in index.iterdir()} == {name: f"{name} {change}" for name in FILES}


@pytest.fixture
def folder(tmp_path) -> Path:
    """With an index that goes up to change 5."""
    make_folder(tmp_path / "chroma")
    write_index(tmp_path / "chroma", 5)
    return tmp_path / "chroma"


@pytest.fixture
def killed_at_each_step(folder, tmp_path, monkeypatch):
    """Folders like `folder`, in each of which the act was ended one step later. In the last it came to its end."""

    def folders(act: Callable[[Path], None]) -> Iterator[Path]:
        for n in itertools.count():
            copy = tmp_path / str(n)
            shutil.copytree(folder, copy)
            with monkeypatch.context() as patched:
                steps = itertools.count()
                for module, name in STEPS:
                    if hasattr(module, name):
                        patched.setattr(module, name, until(n, steps, getattr(module, name)))
                try:
                    act(copy)
                except Killed:
                    is_killed = True
                else:
                    is_killed = False
            yield copy
            if not is_killed:
                assert n > len(FILES)
                return

    return folders


def until(n: int, steps: Iterator[int], step: Callable[..., object]) -> Callable[..., object]:
    def limited(*args: object, **kwargs: object) -> object:
        if next(steps) >= n:
            raise Killed
        return step(*args, **kwargs)

    return limited


def test_an_index_is_restored(folder):
    keep(folder)
    damage_index(folder)
    restore_indexes(folder)
    assert is_complete(folder / INDEX, 5)
    assert not has_copies(folder)


def test_copies_that_are_half_removed_are_not_believed(folder, killed_at_each_step):
    keep(folder)
    for killed in killed_at_each_step(remove_copies):
        restore_indexes(killed)
        assert is_complete(killed / INDEX, 5)
        assert not (killed / FOLDER).exists()


def test_an_index_that_is_half_restored_is_restored_again(folder, killed_at_each_step):
    keep(folder)
    damage_index(folder)
    for killed in killed_at_each_step(restore_indexes):
        restore_indexes(killed)
        assert is_complete(killed / INDEX, 5)
        assert not (killed / FOLDER).exists()


def test_a_copy_has_its_name_when_it_is_complete(folder, killed_at_each_step):
    keep(folder)
    write_index(folder, 8)
    for killed in killed_at_each_step(keep):
        copy = killed / FOLDER / f"{INDEX}.8"
        assert not copy.exists() or is_complete(copy, 8)
        restore_indexes(killed)
        assert is_complete(killed / INDEX, 8)
        assert not (killed / FOLDER).exists()


def test_what_was_half_copied_does_not_hinder_the_next_copy(folder, killed_at_each_step):
    for killed in killed_at_each_step(keep):
        keep(killed)
        assert [path.name for path in (killed / FOLDER).iterdir()] == [f"{INDEX}.5"]
        assert is_complete(killed / FOLDER / f"{INDEX}.5", 5)


def test_the_copy_of_no_index_is_an_empty_one(tmp_path):
    make_folder(tmp_path / "chroma")
    keep(tmp_path / "chroma")
    damage_index(tmp_path / "chroma")
    restore_indexes(tmp_path / "chroma")
    assert list((tmp_path / "chroma" / INDEX).iterdir()) == []


def test_there_is_one_copy_at_a_time(folder, monkeypatch):
    copies = IndexCopies(folder, "the notes")
    copies.keep(COLLECTION)
    write_index(folder, 8)
    seen: list[list[str]] = []
    copied = chroma_index._copy_file

    def look(source: str, target: str) -> None:
        seen.append([path.name for path in (folder / FOLDER).iterdir()])
        copied(source, target)

    monkeypatch.setattr(chroma_index, "_copy_file", look)
    copies.keep(COLLECTION)
    copies.close()
    assert seen == [[f"{INDEX}.8.part"]] * len(FILES)


def test_a_large_index_is_copied_only_if_that_takes_no_room(folder, monkeypatch, caplog):
    monkeypatch.setattr(chroma_index, "MAX_COPIED_BYTES", 10)
    monkeypatch.setattr(chroma_index, "_is_shared", lambda source, target: False)
    keep(folder)
    assert list((folder / FOLDER).iterdir()) == []
    assert "it has more than 0 MiB, and this file system cannot share blocks as Btrfs and XFS do" in caplog.text
    monkeypatch.setattr(chroma_index, "_is_shared", lambda source, target: bool(shutil.copyfile(source, target)))
    keep(folder)
    assert is_complete(folder / FOLDER / f"{INDEX}.5", 5)


def test_files_are_copied_where_blocks_cannot_be_shared(folder, monkeypatch):
    monkeypatch.setattr(chroma_index, "_is_shared", lambda source, target: False)
    (folder / INDEX / FILES[0]).chmod(0o660)
    keep(folder)
    assert is_complete(folder / FOLDER / f"{INDEX}.5", 5)
    assert (folder / FOLDER / f"{INDEX}.5" / FILES[0]).stat().st_mode & 0o777 == 0o660


def test_a_disk_that_is_full_is_said_once_and_the_job_goes_on(folder, monkeypatch, caplog):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(chroma_index, "_copy_file", full)
    copies = IndexCopies(folder, "the notes")
    copies.keep(COLLECTION)
    write_index(folder, 8)
    copies.keep(COLLECTION)
    copies.close()
    assert [record.getMessage() for record in caplog.records] == [
        "the notes: its index cannot be copied ([Errno 28] No space left on device). If this process is killed while "
        "Chroma writes the index, all rows must be written anew"
    ]
    assert list((folder / FOLDER).iterdir()) == []
    restore_indexes(folder)
    assert is_complete(folder / INDEX, 8)


def test_files_between_the_copies_are_left_alone(folder):
    keep(folder)
    (folder / FOLDER / ".DS_Store").write_text("")
    damage_index(folder)
    restore_indexes(folder)
    assert is_complete(folder / INDEX, 5)
    assert [path.name for path in (folder / FOLDER).iterdir()] == [".DS_Store"]
    assert not has_copies(folder)
    keep(folder)
    assert has_copies(folder)


@pytest.mark.parametrize("name", [DATABASE, FOLDER])
def test_without_a_database_or_a_folder_there_are_no_copies(folder, name):
    keep(folder)
    if name == DATABASE:
        (folder / name).unlink()
    else:
        shutil.rmtree(folder / name)
        (folder / name).write_text("")
    assert not has_copies(folder)
    lock_and_restore(folder, "the notes").release()


def test_an_index_that_cannot_be_restored_is_an_error_and_releases_the_lock(folder, monkeypatch):
    keep(folder)
    damage_index(folder)

    def refused(*args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refused)
        with pytest.raises(EngineFailure, match=r"the notes: a job was killed, and its index cannot be restored \(.*"):
            lock_and_restore(folder, "the notes")
    lock_and_restore(folder, "the notes").release()
    assert is_complete(folder / INDEX, 5)
