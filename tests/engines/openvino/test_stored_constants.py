from __future__ import annotations

import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_embed.engines.base import ContextSpec
from gguf_embed.engines.openvino import stored_constants
from gguf_embed.engines.openvino.build import ModelBuilder
from gguf_embed.engines.openvino.driver import open_codec
from gguf_embed.engines.openvino.engine import OpenVinoEngine
from gguf_embed.engines.openvino.runtime import FULL, REDUCED, compile_graph, computes_bf16, model_of, op
from gguf_embed.engines.openvino.stored_constants import StoredConstants
from gguf_embed.types import OutputSpec, Pooling
from tests.engines.openvino.running import kib_in_memory, load_spec
from tests.gguf_models import CLS, SEP, write_tiny_encoder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="constants are moved on Linux only")

SIZE = 512
IN_MEMORY = Path("/dev/shm")
BATCHES = ([[CLS, 5, 6, 7, SEP], [CLS, 8, SEP]], [[CLS, 9, SEP]], [[CLS, *range(5, 30), SEP]] * 3)


def is_tmpfs(folder: Path) -> bool:
    return any(f" {folder} tmpfs " in line for line in Path("/proc/mounts").read_text().splitlines())


def product(matrix: np.ndarray) -> Any:
    x = op.parameter([-1, len(matrix)], np.float32)
    return model_of([op.matmul(x, op.constant(matrix, shared_memory=True), False, True)], [x], "product")


@pytest.fixture
def matrix() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((SIZE, SIZE), np.float32)


@pytest.fixture
def small_constants_too(monkeypatch) -> None:
    monkeypatch.setattr(stored_constants, "MIN_BYTES", 1)


def test_pages_leave_the_memory_and_come_back(matrix):
    model, before = product(matrix), kib_in_memory()
    constants = StoredConstants.of(model)
    x = np.ones((3, SIZE), np.float32)
    expected = x @ matrix.T
    for _ in range(2):
        request = compile_graph(model, FULL, 1, 1).create_infer_request()
        request.infer([x])
        np.testing.assert_allclose(request.get_output_tensor(0).data, expected, rtol=1e-4, atol=1e-4)
        (file,) = kib_in_memory().keys() - before.keys()
        assert kib_in_memory()[file] == SIZE * SIZE * 4 // 1024
        constants.release()
        assert kib_in_memory()[file] == 0


@pytest.mark.parametrize("why", ["no file", "no room", "tmpfs", "too large", "small"])
def test_constants_stay_in_memory(monkeypatch, matrix, why):
    def no_file(**_: Any) -> Any:
        raise OSError(30, "Read-only file system")

    match why:
        case "no file":
            monkeypatch.setattr(tempfile, "TemporaryFile", no_file)
        case "no room":
            monkeypatch.setattr(stored_constants, "FREE_FACTOR", 10**9)
        case "tmpfs":
            if not is_tmpfs(IN_MEMORY):
                pytest.skip("needs a file system in memory")
            monkeypatch.setattr(tempfile, "tempdir", str(IN_MEMORY))
        case "too large":
            monkeypatch.setattr(stored_constants, "MAX_BYTES", matrix.nbytes - 1)
        case "small":
            monkeypatch.setattr(stored_constants, "MIN_BYTES", matrix.nbytes + 1)
    model, before = product(matrix), kib_in_memory()
    constants = StoredConstants.of(model)
    assert kib_in_memory().keys() == before.keys()
    constants.release()
    request = compile_graph(model, FULL, 1, 1).create_infer_request()
    request.infer([np.ones((1, SIZE), np.float32)])
    np.testing.assert_allclose(request.get_output_tensor(0).data[0], matrix.sum(axis=1), rtol=1e-3, atol=1e-3)


def test_a_disk_that_fills_up_meanwhile_leaves_the_model_as_it_was(monkeypatch, matrix):
    original = stored_constants._append

    def full(file: Any, values: np.ndarray) -> int:
        original(file, values)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored_constants, "_append", full)
    model = product(matrix)
    StoredConstants.of(model).release()
    request = compile_graph(model, FULL, 1, 1).create_infer_request()
    request.infer([np.ones((1, SIZE), np.float32)])
    np.testing.assert_allclose(request.get_output_tensor(0).data[0], matrix.sum(axis=1), rtol=1e-3, atol=1e-3)


def engine_of(path: Path, precision: str) -> OpenVinoEngine:
    spec = load_spec(path, Pooling.MEAN)
    return ModelBuilder(spec, open_codec(spec).codec).compile(precision, 1)


@pytest.mark.parametrize(
    "precision", [FULL, pytest.param(REDUCED, marks=pytest.mark.skipif(not computes_bf16(), reason="no BF16"))]
)
def test_an_engine_gives_the_same_vectors_and_keeps_no_pages(tmp_path, monkeypatch, precision, small_constants_too):
    path = write_tiny_encoder(tmp_path / "m.gguf", outtype="f16")
    before = kib_in_memory()
    output = OutputSpec.of(Pooling.MEAN)
    with closing(engine_of(path, precision)) as stored, monkeypatch.context() as patched:
        (file,) = kib_in_memory().keys() - before.keys()
        patched.setattr(stored_constants, "MAX_BYTES", 0)
        with closing(engine_of(path, precision)) as usual:
            contexts = [engine.open_context(ContextSpec(output, 100, 8)) for engine in (stored, usual)]
            for number, batch in enumerate(BATCHES):
                found, expected = (context.embed(batch, 1).matrix for context in contexts)
                np.testing.assert_array_equal(found, expected)
                if number == 0:
                    assert kib_in_memory()[file] == 0
            contexts[0].release_buffers()
            assert kib_in_memory()[file] == 0
            for context in contexts:
                context.close()


def test_a_closed_engine_leaves_no_file(tmp_path, small_constants_too):
    before = kib_in_memory()
    for _ in range(2):
        engine_of(write_tiny_encoder(tmp_path / "m.gguf"), FULL).close()
    assert kib_in_memory().keys() == before.keys()
