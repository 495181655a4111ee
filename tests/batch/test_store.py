"""Records survive, what a crash leaves is removed, space is counted, and steps of a batch are those of OpenAI."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from gguf_embed.batch.errors import StorageFailed, StorageFull
from gguf_embed.batch.jobs import ENDING_AT_ONCE, choose, pause_after
from gguf_embed.batch.ledger import new_id
from gguf_embed.batch.records import (
    NEXT,
    Batch,
    BatchLimits,
    FileRecord,
    LineError,
    Status,
    dump,
    load_batch,
    load_file,
    moved,
)
from gguf_embed.batch.store import RECORD_BYTES, Store, open_store

LIMITS = BatchLimits(max_total_bytes=100_000, min_free_bytes=0)


def a_file(number: int = 1, n_bytes: int = 5, **changes: object) -> FileRecord:
    return replace(FileRecord(new_id("file-"), "", number, n_bytes, 1000, "in.jsonl", "batch", 2000), **changes)


def a_batch(number: int = 1, **changes: object) -> Batch:
    made = Batch(
        id=new_id("batch_"),
        owner="",
        number=number,
        endpoint="/v1/embeddings",
        input_file_id=new_id("file-"),
        completion_window="24h",
        created_at=1000,
        expires_at=87_400,
        output_kept_s=3600,
    )
    return replace(made, **changes)


def add(store: Store, record: FileRecord, content: bytes = b"12345") -> None:
    store.part_path(record.id).write_bytes(content)
    store.add_file(record, store.part_path(record.id))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_records_are_read_back_as_they_were():
    batch = a_batch(metadata={"a": "b"}, errors=(LineError("code", "message", 3, "url"),), status=Status.FAILED)
    assert load_batch(dump(batch)) == batch
    assert load_file(dump(a_file())).n_bytes == 5
    newer = dump(batch)[:-1] + b',"of_a_newer_version":1}'
    assert load_batch(newer) == batch


@pytest.mark.parametrize("name", ["../../etc/passwd", "file-1", "file-" + "g" * 32, "file-" + "a" * 33])
def test_a_record_with_an_id_that_is_a_path_is_refused(name):
    with pytest.raises(ValueError, match="id"):
        load_file(dump(a_file(id=name)))
    with pytest.raises(ValueError, match="id"):
        load_batch(dump(a_batch(input_file_id=name)))


@pytest.mark.parametrize("before", Status)
def test_a_batch_only_takes_steps_that_exist(before):
    for after in Status:
        batch = a_batch(status=before)
        if after in NEXT[before]:
            assert getattr(moved(batch, after, 1234), f"{after}_at") == 1234
        else:
            with pytest.raises(ValueError, match="cannot follow"):
                moved(batch, after, 1234)


def test_the_folder_is_read_again(tmp_path):
    store = open_store(tmp_path / "new", LIMITS)
    record, batch = a_file(), a_batch(number=7)
    add(store, record)
    store.save_batch(batch)
    used = 5 + 2 * RECORD_BYTES
    owner = store.owner_of("key")
    store.close()
    again = open_store(tmp_path / "new", LIMITS)
    assert (again.files, again.batches) == ({record.id: record}, {batch.id: batch})
    assert (again.space.used_bytes, again.new_number()) == (used, 8)
    assert (again.owner_of("key"), again.owner_of("")) == (owner, "")
    assert again.owner_of("another") != owner
    again.remove_file(record.id)
    again.remove_batch(batch.id)
    assert again.space.used_bytes == 0
    again.close()
    assert names(tmp_path / "new" / "files") == names(tmp_path / "new" / "batches") == set()
    if os.name != "nt":
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_no_record_has_the_key(tmp_path):
    store = open_store(tmp_path, LIMITS)
    add(store, a_file(owner=store.owner_of("secret-key")))
    store.close()
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"secret-key" not in content


def test_what_a_crash_left_is_removed_and_what_is_needed_is_kept(tmp_path):
    store = open_store(tmp_path, LIMITS)
    kept, output = a_file(), new_id("file-")
    add(store, kept)
    finalizing = a_batch(status=Status.FINALIZING, is_written=True, output_file_id=output)
    running, over = a_batch(status=Status.IN_PROGRESS), a_batch(status=Status.COMPLETED)
    for batch in (finalizing, running, over):
        store.save_batch(batch)
    store.close()
    files, batches = tmp_path / "files", tmp_path / "batches"
    for path in (
        files / f"{new_id('file-')}.part",
        files / f"{new_id('file-')}.data",  # no record
        files / ".file-x.json.1-2.tmp",
        store.log_path(over.id, "output"),
        store.log_path(new_id("batch_"), "errors"),
    ):
        path.write_bytes(b"x")
    needed = (store.content_path(output), store.log_path(running.id, "output"))
    for path in needed:
        path.write_bytes(b"123")
    (batches / f"{new_id('batch_')}.json").write_bytes(b"{damaged")
    again = open_store(tmp_path, LIMITS)
    assert set(again.batches) == {finalizing.id, running.id, over.id}
    assert names(files) == {f"{kept.id}.json", f"{kept.id}.data", f"{output}.data"}
    assert all(path.exists() for path in needed)
    assert len(names(batches)) == 5  # three records, a damaged one, and a log
    assert again.space.used_bytes == 5 + 3 + 3 + 4 * RECORD_BYTES
    again.close()


def test_two_servers_cannot_have_one_folder(tmp_path):
    store = open_store(tmp_path, LIMITS)
    with pytest.raises(StorageFailed, match="--batch-dir"):
        open_store(tmp_path, LIMITS)
    store.close()
    open_store(tmp_path, LIMITS).close()


def test_a_folder_that_cannot_be_made_is_an_error_without_its_path(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFailed) as caught:
        open_store(tmp_path / "file" / "batches", LIMITS)
    assert str(tmp_path) not in caught.value.message


def test_space_is_limited(tmp_path):
    store = open_store(tmp_path, LIMITS)
    store.space.take("", 99_999)
    with pytest.raises(StorageFull, match="100,000"):
        store.space.take("", 2)
    store.space.take("", 1)
    store.space.give("", 50_000)
    store.space.take("", 50_000)
    store.close()
    nearly_full = open_store(tmp_path, replace(LIMITS, min_free_bytes=2**62))
    with pytest.raises(StorageFull, match="nearly full"):
        nearly_full.space.take("", 1)
    nearly_full.close()


def test_owners_take_turns_and_what_ends_needs_no_turn():
    mine = [a_batch(number, owner="a") for number in (1, 2, 3)]
    theirs = a_batch(9, owner="b")
    assert choose([mine[1], theirs], [mine[0]], 4, 1000) is theirs
    assert choose([mine[2], mine[1]], [mine[0], theirs], 4, 1000) is mine[1]
    assert choose(mine, [], 4, 1000) is mine[0]
    assert choose([theirs], mine, 3, 1000) is None
    ending = a_batch(12, status=Status.CANCELLING)
    assert choose([theirs, ending], mine, 3, 1000) is ending
    assert choose([], [], 4, 1000) is None
    expired = a_batch(13, expires_at=1000)
    assert choose([theirs, expired], mine, 3, 1000) is expired
    assert choose([theirs, expired], mine, 3, 999) is None
    assert choose([theirs, expired], [ending] * (ENDING_AT_ONCE - 1), 3, 1000) is expired
    assert choose([theirs, expired], [ending] * ENDING_AT_ONCE, 3, 1000) is None


def test_pauses_double_up_to_a_minute_and_end_when_the_batch_expires():
    ends = [pause_after(n, 1000, 87_400).end_s - 1000 for n in (1, 2, 3, 6, 7, 5000)]
    assert ends == [1, 2, 4, 32, 60, 60]
    assert pause_after(7, 1000, 1030).end_s == 1030
    assert pause_after(7, 1030, 1030).end_s == 1090  # it has expired, and its end fails
    pause = pause_after(2, 1000, 87_400)
    assert [pause.is_over(now_s) for now_s in (999.9, 1000, 1001.9, 1002)] == [True, False, False, True]
