"""The parts of an engine's own process: messages, memory for rows, packed texts, the pauses before a restart."""

from __future__ import annotations

import os
import socket
import threading

import numpy as np
import pytest

from gguf_embed.engines.isolated import frames
from gguf_embed.engines.isolated.backoff import next_delay_s
from gguf_embed.engines.isolated.frames import Closed
from gguf_embed.engines.isolated.messages import EmbedBatch
from gguf_embed.engines.isolated.packed import PackedBytes, PackedStrings
from gguf_embed.engines.isolated.process import Lane
from gguf_embed.engines.isolated.shared_rows import RowsInMemory, SharedRows, create
from gguf_embed.engines.isolated.supervisor import Limits
from gguf_embed.errors import (
    DocumentTooLong,
    EmbedError,
    EngineFailure,
    ImageInputTooLong,
    InvalidInput,
    Overloaded,
    Unavailable,
    WayOut,
)
from gguf_embed.types import DENSE
from gguf_embed.vectors import Rows


@pytest.mark.parametrize(
    ("last_s", "ran_s", "expected_s"),
    [
        (None, 0.0, 0.5),
        (None, 3600.0, 0.5),
        (0.5, 0.1, 1.0),
        (1.0, 59.9, 2.0),
        (16.0, 1.0, 30.0),
        (30.0, 1.0, 30.0),
        (30.0, 60.0, 0.5),
    ],
)
def test_the_pause_doubles_until_an_engine_has_run_for_a_minute(last_s, ran_s, expected_s):
    assert next_delay_s(last_s, ran_s) == expected_s


def test_limits_grow_with_the_work():
    limits = Limits(call_s=60, call_slowness=20, text_s=4, text_s_per_character=1e-5)
    assert limits.batch(252, 20_000.0) == pytest.approx(60.252)
    assert limits.batch(8192, 32.0) == 60 + 20 * 256
    assert limits.batch(10, 0.0) == 260
    assert limits.text(1_000_000) == 14
    assert limits.stage(0) < limits.stage(10**10)


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        theirs.settimeout(5)
        yield ours, theirs


def test_messages_of_any_size_arrive_as_they_were(ends):
    ours, theirs = ends
    messages = [None, EmbedBatch([[1, 2], [3]], 2), "x" * 3_000_000, ["ü", b"\x00"]]
    sender = threading.Thread(target=lambda: [frames.send(ours, message) for message in messages])
    sender.start()
    assert [frames.receive(theirs) for _ in messages] == messages
    sender.join()


def test_the_end_of_a_socket_is_told_apart_from_silence(ends):
    ours, theirs = ends
    theirs.settimeout(0.05)
    with pytest.raises(TimeoutError):
        frames.receive(theirs)
    ours.sendall(b"\x05\x00\x00")  # a message that is cut off
    ours.close()
    with pytest.raises(Closed):
        frames.receive(theirs)
    with pytest.raises(Closed):
        frames.send(theirs, "x" * 1_000_000)
    with pytest.raises(Closed):
        frames.send(ours, "x")


def test_a_lane_that_was_closed_is_like_one_whose_process_has_ended(ends):
    lane = Lane(None, ends[0], SharedRows(create(8)))
    frames.send(ends[1], "an answer")
    assert lane.call("a request", 5.0) == "an answer"
    for _ in range(2):
        lane.close()
        with pytest.raises(Closed):
            lane.call("a request", 5.0)


def test_a_broken_length_takes_no_memory(ends):
    ours, theirs = ends
    ours.sendall(b"\xff" * 8)
    with pytest.raises(Closed, match="the limit is"):
        frames.receive(theirs)


def test_nobody_reads_is_silence_too(ends):
    ours, _ = ends
    ours.settimeout(0.05)
    with pytest.raises(TimeoutError):
        frames.send(ours, "x" * 10_000_000)


def test_rows_cross_by_memory_without_a_name():
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    descriptor = create(4 * 6 + 8)
    writer, reader = SharedRows(os.dup(descriptor)), SharedRows(descriptor)
    rows = Rows.per_token(np.arange(6, dtype=np.float32).reshape(3, 2), [1, 2])
    stored = writer.write(rows)
    assert stored == RowsInMemory("tokens", (3, 2), (0, 1, 3))
    found = reader.read(stored)
    writer.write(Rows.one_each(DENSE, np.zeros((3, 2), np.float32)))
    np.testing.assert_array_equal(found.matrix, rows.matrix)  # it is a copy
    assert writer.write(Rows.one_each(DENSE, np.zeros((9, 2), np.float32))) is None
    with pytest.raises(ValueError, match="buffer"):
        reader.read(RowsInMemory(DENSE, (9, 2), range(10)))
    reader.close()
    writer.close()
    assert not os.path.isdir("/dev/shm") or set(os.listdir("/dev/shm")) <= before


def test_large_rows_leave_no_memory_behind():
    descriptor = create(8 * 2**20)
    kept = os.dup(descriptor)
    memory = SharedRows(descriptor)
    stored = memory.write(Rows.one_each(DENSE, np.ones((1024, 2048), np.float32)))
    assert os.fstat(kept).st_blocks * 512 >= 8 * 2**20
    np.testing.assert_array_equal(memory.read(stored).matrix, np.ones((1024, 2048), np.float32))
    if hasattr(os, "memfd_create"):
        assert os.fstat(kept).st_blocks == 0
    memory.close()
    os.close(kept)


def test_packed_texts_are_sequences():
    entries = ["", "▁the", "a\udcff", "😀"]
    packed = PackedStrings(entries)
    assert list(packed) == entries
    assert packed[1:3] == ("▁the", "a\udcff")
    assert list(PackedBytes([b"a", b"", b"\xff"])) == [b"a", b"", b"\xff"]
    for index in (-1, 4):
        with pytest.raises(IndexError):
            packed[index]


@pytest.mark.parametrize(
    "error",
    [
        EngineFailure("refused", index=3, ways_out=[WayOut.RETRY]),
        ImageInputTooLong(1, 900, 512),
        DocumentTooLong(2, 600, 512),
        InvalidInput(0, ": no vector"),
        Overloaded("full", 7),
        Unavailable("gone", [WayOut.RETRY], 3),
    ],
)
def test_errors_cross_with_all_that_they_say(ends, error: EmbedError):
    ours, theirs = ends
    frames.send(ours, error)
    found = frames.receive(theirs)
    assert type(found) is type(error)
    assert (str(found), vars(found)) == (str(error), vars(error))
