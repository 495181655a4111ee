"""Records of measurements: kept per file, settings and machine; whatever cannot be read or written is no error."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gguf_embed.engines import records
from gguf_embed.engines.records import MeasurementRecords, record_key, source_digest


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    return path


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = {"engine": "llama", "tokens_per_s": {"llama": 1.5}, "text": "ü", "none": None}
    MeasurementRecords(tmp_path).write("key", record)
    assert MeasurementRecords(tmp_path).read("key") == record
    assert MeasurementRecords(tmp_path).read("another") is None
    MeasurementRecords(tmp_path).write("key", {})
    assert MeasurementRecords(tmp_path).read("key") == {}
    assert [path.name for path in (tmp_path / "measured").iterdir()] == ["key.json"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[1, 2]", b'"text"', b"7", b"null", b'{"a": 1} {"b": 2}', b"\0" * 40]
)
def test_a_file_that_is_no_record_is_none(tmp_path, content):
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / "key.json").write_bytes(content)
    assert MeasurementRecords(tmp_path).read("key") is None


def test_a_deeply_nested_file_is_none(tmp_path):
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / "key.json").write_bytes(b"[" * 100_000)
    assert MeasurementRecords(tmp_path).read("key") is None


def test_a_folder_instead_of_a_record_is_none(tmp_path):
    (tmp_path / "measured" / "key.json").mkdir(parents=True)
    found = MeasurementRecords(tmp_path)
    found.write("key", {"a": 1})
    assert found.read("key") is None


def test_a_cache_that_cannot_be_written_is_passed_over(tmp_path):
    (tmp_path / "cache").write_text("a file")
    found = MeasurementRecords(tmp_path / "cache")
    found.write("key", {"a": 1})
    assert found.read("key") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_passed_over(tmp_path):
    tmp_path.chmod(0o500)
    MeasurementRecords(tmp_path).write("key", {"a": 1})
    tmp_path.chmod(0o700)
    assert not (tmp_path / "measured").exists()


def test_a_key_is_the_same_for_the_same_file_and_settings(model, monkeypatch):
    key = record_key(model, "engine", 2, None)
    assert len(key) == 32
    assert record_key(model, "engine", 2, None) == key
    monkeypatch.chdir(model.parent)
    assert record_key(Path("m.gguf"), "engine", 2, None) == key


@pytest.mark.parametrize(
    "settings", [(), ("engine",), ("engine", 3, None), ("engine", "2", None), ("engine2", 2, None)]
)
def test_other_settings_have_another_key(model, settings):
    assert record_key(model, *settings) != record_key(model, "engine", 2, None)


def test_a_changed_file_has_another_key(model):
    keys = {record_key(model)}
    os.utime(model, ns=(1, 2))
    keys.add(record_key(model))
    model.write_bytes(b"GGUF, longer")
    os.utime(model, ns=(1, 2))
    keys.add(record_key(model))
    other = model.with_name("other.gguf")
    other.write_bytes(model.read_bytes())
    os.utime(other, ns=(1, 2))
    keys.add(record_key(other))
    assert len(keys) == 4


@pytest.mark.parametrize("what", ["_cpu", "_versions", "_own_source"])
def test_another_machine_or_version_has_another_key(model, monkeypatch, what):
    key = record_key(model)
    monkeypatch.setattr(records, what, lambda: "another")
    assert record_key(model) != key


def test_a_changed_rule_of_an_engine_has_another_digest(tmp_path):
    folder = Path(records.__file__).parent
    shutil.copytree(folder, tmp_path / "engines", ignore=shutil.ignore_patterns("__pycache__"))
    assert source_digest(tmp_path / "engines") == source_digest(folder) == records._own_source()
    rules = tmp_path / "engines" / "openvino" / "agreement.py"
    rules.write_text(rules.read_text().replace("MIN_COSINE_TO_FULL = 0.99995", "MIN_COSINE_TO_FULL = 0.9999"))
    assert source_digest(tmp_path / "engines") != source_digest(folder)


def test_a_renamed_file_has_another_digest_and_no_file_has_none(tmp_path):
    assert source_digest(tmp_path) == ""
    (tmp_path / "a.py").write_bytes(b"")
    before = source_digest(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert source_digest(tmp_path) != before


def test_a_package_that_is_not_installed_has_no_version():
    assert records._version("gguf-embed-from-tomorrow") == ""
    assert records._version("numpy")
