"""Tests of parts: what is left after a run, merging, crashes, readers beside a writer."""

from __future__ import annotations

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gguf_embed.errors import ConfigError, Unavailable
from gguf_embed.ingest.sinks import part_files
from gguf_embed.ingest.sinks.id_hashes import IdSet
from gguf_embed.ingest.sinks.manifest_json import KEY, from_json
from gguf_embed.ingest.sinks.open import open_sink
from tests.ingest.sinks.sample_rows import MANIFEST, by_id, numbered, rows, vectors


def put(path, text: str = "mine"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def made(url: str, n: int = 6):
    """A sink with rows that are flushed."""
    sink = open_sink(url)
    sink.create(MANIFEST)
    sink.write(rows(numbered(n)))
    sink.flush()
    return sink


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("npy:{}", ["_manifest.json", "_writer.lock", "rows.jsonl", "vectors.npy"]),
        ("parquet:{}", ["_manifest.json", "_writer.lock", "part-000003.parquet"]),
        ("jsonl:{}/out.jsonl", ["out.jsonl", "out.jsonl.parts"]),
    ],
)
def test_after_a_run_only_what_users_look_for_is_left(tmp_path, url, expected):
    sink = made(url.format(tmp_path), 3)
    sink.write(rows(numbered(3, first=2)))
    sink.flush()
    sink.finish("after")
    sink.close()
    assert names(tmp_path) == expected


def test_the_lines_and_the_vectors_of_numpy_belong_together(tmp_path):
    sink = made(f"npy:{tmp_path}", 5)
    changed = rows(numbered(2, first=1), seed=4)
    sink.write(changed)
    sink.delete(["doc-0#0"])
    sink.finish("none")
    sink.close()
    ids = [json.loads(line)["id"] for line in (tmp_path / "rows.jsonl").read_bytes().splitlines()]
    matrix = np.load(tmp_path / "vectors.npy")
    assert ids == ["doc-3#0", "doc-4#0", "doc-1#0", "doc-2#0"]
    assert np.array_equal(matrix, np.concatenate((vectors(5, 0)[3:], vectors(2, 4))))


def test_a_parquet_file_says_what_its_vectors_were_made_with(tmp_path):
    made(f"parquet:{tmp_path}").close()
    file = pq.ParquetFile(tmp_path / "part-000001.parquet")
    assert from_json(file.schema_arrow.metadata[KEY.encode()], "it") == MANIFEST
    column = file.metadata.row_group(0).column(file.metadata.num_columns - 1)
    assert (column.compression, "BYTE_STREAM_SPLIT" in column.encodings) == ("ZSTD", True)


def test_a_json_line_has_the_metadata_as_an_object_and_the_vector_as_numbers(tmp_path):
    batch = rows(["a", "b"])
    sink = open_sink(f"jsonl:{tmp_path / 'out.jsonl'}")
    sink.create(MANIFEST)
    pretty = pa.array(['{\n "n": 12345678901234567890123,\r\n "embedding": [1]}', "{}"])
    sink.write(batch.set_column(8, batch.schema.field("metadata"), pretty))
    sink.finish("none")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [row["metadata"] for row in found] == [{"n": 12345678901234567890123, "embedding": [1]}, {}]
    assert np.array_equal(np.array([row["embedding"] for row in found], np.float32), vectors(2, 0))
    assert json.loads(sink.search(vectors(2, 0)[0], 1)[0].metadata)["n"] == 12345678901234567890123
    sink.close()


@pytest.mark.parametrize("scheme", ["parquet", "npy", "jsonl"])
def test_what_a_writer_left_half_written_is_removed(tmp_path, scheme):
    made(f"{scheme}:{tmp_path}").close()
    before = names(tmp_path)
    for name in ("_part-000002.parquet.tmp", "part-000002.parquet", "part-000002.npy", "_part-000002.removed"):
        put(tmp_path / name)
    put(tmp_path / "notes.txt")
    sink = open_sink(f"{scheme}:{tmp_path}")
    assert sink.count() == 6
    sink.prepare("none")
    assert (sink.count(), names(tmp_path)) == (6, sorted([*before, "notes.txt"]))
    sink.close()


@pytest.mark.parametrize("url", ["npy:{}", "jsonl:{}/out.jsonl"])
def test_a_crash_before_the_files_have_their_names_loses_nothing(tmp_path, url):
    url = url.format(tmp_path)
    sink = made(url)
    sink.finish("none")
    sink.close()
    for path in [path for path in tmp_path.iterdir() if not path.name.startswith("_") and path.is_file()]:
        folder = tmp_path / "out.jsonl.parts" if path.name == "out.jsonl" else tmp_path
        path.rename(folder / f"part-000002{path.suffix}")  # as it is called when the manifest is committed
        put(path, "the file of the run before")
    again = open_sink(url)
    assert len(by_id(again.stored())) == 6
    again.prepare("none")
    assert len(by_id(again.stored())) == 6
    assert "part-000002" not in " ".join(names(tmp_path))
    again.close()


def test_one_process_at_a_time_writes(tmp_path):
    first = made(f"parquet:{tmp_path}")
    second = open_sink(f"parquet:{tmp_path}")
    assert second.count() == 6
    with pytest.raises(ConfigError, match=rf"process {os.getpid()} is writing to Parquet folder .*: wait until"):
        second.prepare("none")
    with pytest.raises(ConfigError, match="exists already"):
        second.create(MANIFEST)
    first.close()
    second.prepare("none")
    second.close()


def test_a_reader_sees_what_was_flushed_meanwhile(tmp_path):
    writer = made(f"parquet:{tmp_path}")
    reader = open_sink(f"parquet:{tmp_path}")
    writer.write(rows(numbered(4, first=10)))
    assert reader.count() == 6
    writer.flush()
    assert (reader.count(), len(reader.search(vectors(1, 0)[0], 50))) == (10, 10)
    writer.close()


def test_a_reader_whose_files_are_merged_is_told_so(tmp_path):
    writer = made(f"parquet:{tmp_path}")
    writer.write(rows(numbered(4, first=10)))
    writer.flush()
    reader = open_sink(f"parquet:{tmp_path}")
    batches = reader.stored()
    next(batches)
    writer.finish("none")
    with pytest.raises(Unavailable, match="merged its files while they were read: try again"):
        list(batches)
    writer.close()


def test_only_small_parts_and_those_with_old_rows_are_written_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(part_files, "ROWS_PER_PART", 20)
    sink = made(f"parquet:{tmp_path}", 20)  # part 1
    for first in range(20, 80, 20):
        sink.write(rows(numbered(20, first=first)))  # parts 2 to 4
    sink.write(rows(["doc-25#0"], seed=2))  # part 5, replaces a row of part 2
    sink.flush()
    sink.delete(numbered(20, first=60))  # all of part 4, with part 6
    sink.flush()
    kept = {name: (tmp_path / name).stat().st_ino for name in ("part-000001.parquet", "part-000003.parquet")}
    sink.finish("none")
    assert names(tmp_path) == ["_manifest.json", "_writer.lock", *kept, "part-000007.parquet", "part-000008.parquet"]
    assert {name: (tmp_path / name).stat().st_ino for name in kept} == kept
    assert (sink.count(), by_id(sink.stored())["doc-25#0"]["hash"]) == (60, f"{2:016x}{0:016x}")
    committed = (tmp_path / "_manifest.json").stat().st_ino
    sink.finish("none")
    assert (tmp_path / "_manifest.json").stat().st_ino == committed  # nothing to do
    sink.close()


def test_a_long_run_merges_its_small_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(part_files, "SMALL_PARTS", 4)
    sink = made(f"parquet:{tmp_path}", 10)
    for first in range(10, 80, 10):
        sink.write(rows(numbered(10, first=first)))
        sink.flush()
    assert len(list(tmp_path.glob("*.parquet"))) <= 4
    assert by_id(sink.stored()).keys() == set(numbered(80))
    sink.close()


def test_rows_that_are_not_flushed_do_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(part_files, "ROWS_PER_PART", 25)
    sink = open_sink(f"parquet:{tmp_path}")
    sink.create(MANIFEST)
    for first in range(0, 60, 10):
        sink.write(rows(numbered(10, first=first)))
    assert len(list(tmp_path.glob("part-*.parquet"))) == 2
    assert open_sink(f"parquet:{tmp_path}").count() == 0
    assert sink.count() == 60
    sink.close()


@pytest.mark.parametrize("change", ["shorter", "missing"])
def test_a_file_that_was_changed_is_not_taken_for_what_was_stored(tmp_path, change):
    made(f"parquet:{tmp_path}").close()
    path = tmp_path / "part-000001.parquet"
    if change == "shorter":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    with pytest.raises(ConfigError, match=r"part-000001.parquet (has|is missing).* was changed since it was written"):
        open_sink(f"parquet:{tmp_path}").search(vectors(1, 0)[0], 1)


def test_a_folder_of_another_kind_is_refused(tmp_path):
    made(f"npy:{tmp_path}").close()
    with pytest.raises(ConfigError, match=r"npy: and not as parquet:.*npy:/"):
        open_sink(f"parquet:{tmp_path}").manifest()
    put(tmp_path / "file")
    with pytest.raises(ConfigError, match="is a file"):
        open_sink(f"parquet:{tmp_path / 'file'}").manifest()


@pytest.mark.parametrize("text", ['{"name": "my app"}', "[1]", "no JSON"])
def test_a_manifest_of_another_program_is_refused(tmp_path, text):
    put(tmp_path / "_manifest.json", text)
    with pytest.raises(ConfigError, match="was not made by a job of gguf-embed"):
        open_sink(f"parquet:{tmp_path}").manifest()


def test_a_thousand_sets_of_ids_are_one_set():
    ids = IdSet()
    drawn = np.random.default_rng(0).integers(0, 2**64, 30_000, np.uint64)
    for first in range(0, len(drawn), 30):
        ids.add(drawn[first : first + 30])
    assert ids.contains(drawn).all()
    assert not ids.contains(drawn + np.uint64(1)).any()
