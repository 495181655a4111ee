"""Rows on the disk: bounded, shared, and never wrong, whatever happens to the file."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from gguf_embed.errors import ConfigError
from gguf_embed.output_cache import disk
from gguf_embed.output_cache.disk import FILE_NAME, DiskRows

ROW = bytes(range(256)) * 6  # 384 numbers
MIB = 2**20
SAFETY_S = 60.0


@contextmanager
def opened(folder, max_bytes=64 * MIB, **options):
    rows = DiskRows(folder, max_bytes, patience_s=SAFETY_S, **options)
    try:
        yield rows
    finally:
        rows.close()


def write(rows: DiskRows, entries: dict[bytes, bytes]) -> None:
    async def once() -> None:
        rows.write(entries)

    asyncio.run(once())


def read(rows: DiskRows, *keys: bytes) -> dict[bytes, bytes]:
    return asyncio.run(rows.read(keys))


def test_rows_survive_the_end(tmp_path):
    entries = {b"%d" % number: ROW[number:] for number in range(1200)}
    with opened(tmp_path) as rows:
        write(rows, entries)
    with opened(tmp_path) as rows:
        assert read(rows, *entries, b"unknown") == entries
        write(rows, {b"7": b"new"})
        assert read(rows, b"7") == {b"7": b"new"}
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o077 == 0


def test_the_file_stays_within_its_limit_and_keeps_what_was_used_last(tmp_path):
    now_s = [0.0]
    with opened(tmp_path, 2 * MIB, clock=lambda: now_s[0]) as rows:
        for number in range(60):
            now_s[0] += 1000
            write(rows, {b"%d/%d" % (number, n): ROW for n in range(50)})
            assert read(rows, b"0/0") == {b"0/0": ROW}  # used all the time
        assert (tmp_path / FILE_NAME).stat().st_size <= 2 * MIB + 50 * 2 * len(ROW)
        assert (tmp_path / f"{FILE_NAME}-wal").stat().st_size < 6 * MIB
        assert len(read(rows, *(b"59/%d" % n for n in range(50)))) == 50
        assert read(rows, b"0/1") == {}
    with opened(tmp_path, MIB // 2) as rows:  # a smaller limit than before
        write(rows, {b"last": ROW})
        assert read(rows, b"last") == {b"last": ROW}
    assert (tmp_path / FILE_NAME).stat().st_size <= MIB // 2


def test_two_servers_share_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "BUSY_S", SAFETY_S)
    with opened(tmp_path) as one, opened(tmp_path) as other:
        for number in range(20):
            write(one, {b"one%d" % number: ROW})
            write(other, {b"other%d" % number: ROW})
        names = [b"%s%d" % (who, number) for who in (b"one", b"other") for number in range(20)]
        read(one, b"one0"), read(other, b"other0")  # both have written
        assert read(one, *names) == read(other, *names) == dict.fromkeys(names, ROW)


def test_a_server_that_holds_the_lock_delays_and_fails_nobody(tmp_path):
    with opened(tmp_path) as rows:
        write(rows, {b"a": ROW})
        assert read(rows, b"a") == {b"a": ROW}
        holder = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        write(rows, {b"b": ROW})
        assert read(rows, b"a", b"b") == {b"a": ROW}
        holder.execute("ROLLBACK")
        holder.close()
        write(rows, {b"b": ROW})
        assert read(rows, b"b") == {b"b": ROW}


KILLED = """
import asyncio, sys
from pathlib import Path
from gguf_embed.output_cache.disk import DiskRows

async def main():
    rows = DiskRows(Path(sys.argv[1]), 2**26)
    for number in range(10**9):
        rows.write({b"%d" % number: (b"%08d" % number) * 200})
        await asyncio.sleep(0)
        if number == 300:
            print("ready", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", range(3))
def test_kill_9_leaves_whole_rows(tmp_path, number):
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        with opened(tmp_path) as rows:  # a second server, beside it
            until_s = time.monotonic() + 30
            while not read(rows, b"0") and time.monotonic() < until_s:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
    with opened(tmp_path) as rows:
        found = read(rows, *(b"%d" % n for n in range(3000)))
        assert found
        assert all(row == (b"%08d" % int(key)) * 200 for key, row in found.items())
        write(rows, {b"after": ROW})
        assert read(rows, b"after") == {b"after": ROW}


def damage(path: Path, begin: int, what: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(what)


def test_a_file_that_is_no_database_is_replaced(tmp_path, caplog):
    with opened(tmp_path) as rows:
        write(rows, {b"a": ROW})
    damage(tmp_path / FILE_NAME, 0, b"x" * 100)
    with opened(tmp_path) as rows:
        assert read(rows, b"a") == {}
        write(rows, {b"a": ROW})
        assert read(rows, b"a") == {b"a": ROW}
    assert "replaced" in caplog.text


def test_a_row_whose_bytes_have_changed_is_not_found(tmp_path):
    with opened(tmp_path) as rows:
        write(rows, {b"a": ROW, b"b": ROW[::-1]})
    content = (tmp_path / FILE_NAME).read_bytes()
    damage(tmp_path / FILE_NAME, content.index(ROW) + 700, b"\x00")
    with opened(tmp_path) as rows:
        assert read(rows, b"a", b"b") == {b"b": ROW[::-1]}


def test_damage_at_run_time_is_said_once_and_finds_less(tmp_path, caplog):
    with opened(tmp_path) as rows:
        for number in range(50):
            write(rows, {b"%d-%d" % (number, n): ROW for n in range(20)})
        read(rows, b"0-0")
    size = (tmp_path / FILE_NAME).stat().st_size
    for begin in range(8192, size - 4096, 4096):
        damage(tmp_path / FILE_NAME, begin, b"\xff" * 64)
    with opened(tmp_path) as rows:
        for number in range(50):
            for key, row in read(rows, *(b"%d-%d" % (number, n) for n in range(20))).items():
                assert row == ROW, key
            write(rows, {b"new%d" % number: ROW})
    assert caplog.text.count("fails") <= 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/outputs-1.sqlite cannot be used as a cache: "):
        DiskRows(tmp_path / "file", MIB)
