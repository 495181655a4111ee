"""What computed a model when it was last loaded, as it is kept for `show`."""

from __future__ import annotations

import pytest

from gguf_embed.engines.records import MeasurementRecords
from gguf_embed.model_pool.computed_by import ComputedBy, _key, last_load, note_load
from tests.gguf_models import write_tiny_encoder

ONE = ComputedBy("openvino", "BF16", "brgemm_avx512_bf16", 2)


@pytest.fixture
def model(tmp_path):
    return write_tiny_encoder(tmp_path / "m.gguf")


def test_the_last_load_of_a_file_is_kept_until_it_changes(model, tmp_path):
    assert last_load(model, tmp_path) is None
    note_load(model, tmp_path, ONE)
    assert last_load(model, tmp_path) == ONE
    note_load(model, tmp_path, ComputedBy("llama", "F16", "ggml", 1))
    assert last_load(model, tmp_path) == ComputedBy("llama", "F16", "ggml", 1)
    model.write_bytes(model.read_bytes() + b"\0")
    assert last_load(model, tmp_path) is None


def test_it_is_written_only_if_it_is_another(model, tmp_path, monkeypatch):
    note_load(model, tmp_path, ONE)
    monkeypatch.setattr(MeasurementRecords, "write", lambda *_: pytest.fail("written again"))
    note_load(model, tmp_path, ONE)


def test_a_file_that_is_gone_is_passed_over(model, tmp_path):
    model.unlink()
    note_load(model, tmp_path, ONE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("record", [{}, {"engine": "llama"}, {"engine": 1, "precision": "F32"}])
def test_a_record_of_another_form_is_none(model, tmp_path, record):
    MeasurementRecords(tmp_path).write(_key(model), record)
    assert last_load(model, tmp_path) is None


def test_it_is_one_short_line():
    assert str(ONE) == "OpenVINO, BF16 (brgemm_avx512_bf16 kernels), 2 workers"
    assert str(ComputedBy("static", "F32", "numpy", 1)) == "static, F32 (numpy kernels), 1 worker"
