"""Folders that `datasets.Dataset.save_to_disk` writes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from gguf_embed.errors import ConfigError, EngineFailure
from gguf_embed.ingest.sources import huggingface
from gguf_embed.ingest.sources.base import SourceOptions
from gguf_embed.ingest.sources.open import open_source
from tests.ingest.sources.reading import Document, read, read_all, read_until_error, texts


def save(folder: Path, *shards: dict[str, list[object]], **state: object) -> None:
    """As version 5.2 of datasets does."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{len(shards):05}.arrow" for number in range(len(shards))]
    for name, columns in zip(names, shards, strict=True):
        table = pa.table(columns)
        with pa.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(table, 1000)
    files = [{"filename": name} for name in names]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_format_type": None, **state}))
    (folder / "dataset_info.json").write_text("{}")


def test_all_shards_are_read_in_order(tmp_path):
    save(tmp_path / "d", {"id": [1, 2], "text": ["a", "b"]}, {"id": [3], "text": ["c"]})
    assert read_all(tmp_path / "d") == [
        Document("1", "a", "{}", "data-00000-of-00002.arrow:1"),
        Document("2", "b", "{}", "data-00000-of-00002.arrow:2"),
        Document("3", "c", "{}", "data-00001-of-00002.arrow:1"),
    ]


def test_all_splits_are_read_in_order(tmp_path):
    save(tmp_path / "d" / "train", {"text": ["a"], "label": [1]})
    save(tmp_path / "d" / "test", {"text": ["b"], "label": [0]})
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert read_all(tmp_path / "d", metadata=("*",)) == [
        Document(None, "a", '{"label":1}', "train/data-00000-of-00001.arrow:1"),
        Document(None, "b", '{"label":0}', "test/data-00000-of-00001.arrow:1"),
    ]


def test_it_can_be_read_again_and_its_share_grows(tmp_path):
    save(tmp_path / "d", *({"text": [f"{shard} {row}" for row in range(3000)]} for shard in range(4)))
    source = open_source(str(tmp_path / "d"), SourceOptions())
    shares = [source.share_read() for _ in source.batches(700)]
    assert shares == sorted(shares)
    assert shares[len(shares) // 2] == pytest.approx(0.5, abs=0.1)
    whole = read(source, 999)
    assert len(whole) == 12_000
    assert read(source, 5000) == whole
    source.close()
    source.close()


def test_batches_are_small_if_rows_are_long(tmp_path, monkeypatch):
    save(tmp_path / "d", {"text": ["x" * 1000] * 100, "unread": ["y" * 9000] * 100})
    monkeypatch.setattr(huggingface, "MAX_BATCH_BYTES", 10_500)
    source = open_source(str(tmp_path / "d"), SourceOptions(text_fields=("text",)))
    assert {len(batch) for batch in source.batches(1000)} == {10}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"_indices_data_files": [{"filename": "indices.arrow"}]}, r"dataset\.flatten_indices\(\)"),
        ({"_data_files": None}, "names no data files"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, state, message):
    save(tmp_path / "d", {"text": ["a"]}, **state)
    with pytest.raises(ConfigError, match=message):
        open_source(str(tmp_path / "d"), SourceOptions())


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
def test_a_broken_description_is_refused(tmp_path, name):
    save(tmp_path / "d", {"text": ["a"]})
    (tmp_path / "d" / name).write_text("{")
    with pytest.raises(ConfigError, match=rf"{name} cannot be read"):
        open_source(str(tmp_path / "d"), SourceOptions())


def test_a_missing_shard_is_an_error_at_the_start(tmp_path):
    save(tmp_path / "d", {"text": ["a"]}, {"text": ["b"]})
    (tmp_path / "d" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(EngineFailure, match="cannot be read: No such file"):
        open_source(str(tmp_path / "d"), SourceOptions())


def test_a_shard_that_was_cut_gives_what_is_there_and_an_error(tmp_path):
    save(tmp_path / "d", {"text": [f"text {number}" for number in range(3500)]})
    shard = tmp_path / "d" / "data-00000-of-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:-5000])
    found, error = read_until_error(tmp_path / "d")
    assert isinstance(error, EngineFailure)
    assert texts(found)[-1] == "text 2999"
    assert error.message.startswith("data-00000-of-00001.arrow after row 3000 cannot be read: ")
