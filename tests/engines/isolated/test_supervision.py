"""An engine in a process of its own, under the service: the same vectors, and what happens when it ends or hangs."""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.engines import reasons
from gguf_embed.engines.isolated import supervisor
from gguf_embed.engines.isolated.messages import MakePlan, OpenImages, ReleaseBuffers
from gguf_embed.engines.isolated.supervisor import Limits
from gguf_embed.engines.memory import child_pids, resident_bytes
from gguf_embed.errors import ModelLoadFailed, Unavailable
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.loading import load_model
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.types import ImageInput, Pooling, RerankRequest
from tests.gguf_models import write_tiny_encoder
from tests.model_pool.test_trial import BROKEN, ending_model, fake_openvino
from tests.running import Running, running
from tests.static_models import write_static
from tests.tower_models import write_own
from tests.vision_models import noise, png

TEXTS = ("the cat sat", "a", "the dog saw the red house and the cat", "hello world " * 5)


def config_of(engine: str = "auto", *, isolate: bool = True) -> ModelConfig:
    compute = ComputeConfig(engine=engine, precision="f32", n_workers=1)
    return ModelConfig(warmup=False, isolate=isolate, compute=compute)


def process_of(started: Running):
    (model,) = started.service.loaded()
    return model.process_state()


def wait_for(started: Running, state: str) -> None:
    end_s = time.monotonic() + 30
    while process_of(started).state != state:
        assert time.monotonic() < end_s
        time.sleep(0.02)


def freeze(pid: int) -> None:
    """Stop a process as if it hung; returns when none of its threads runs any more."""
    os.kill(pid, signal.SIGSTOP)
    end_s = time.monotonic() + 30
    while any(state_of(task) != "T" for task in Path(f"/proc/{pid}/task").iterdir()):
        assert time.monotonic() < end_s
        time.sleep(0.01)


def state_of(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def embed_again(started: Running, *texts: str):
    """The result once the engine runs again."""
    end_s = time.monotonic() + 30
    while True:
        try:
            return started.embed(*texts)
        except Unavailable:
            assert time.monotonic() < end_s
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("name", "engine", "pooling"),
    [
        ("encoder", "llama", Pooling.MEAN),
        ("encoder", "llama", Pooling.NONE),
        ("encoder", "openvino", Pooling.MEAN),
        ("decoder", "llama", Pooling.LAST),
        ("decoder", "openvino", Pooling.LAST),
    ],
)
def test_the_rows_are_the_same_bit_by_bit(models, tmp_path, name, engine, pooling):
    found = []
    for isolate in (False, True):
        with running(models / f"{name}.gguf", config_of(engine, isolate=isolate), tmp_path) as started:
            result = started.embed(*TEXTS, pooling=pooling)
            assert result.model.engine == engine
            assert (process_of(started) is not None) == isolate
            found.append((result.output.matrix, list(result.output.offsets), result.usage))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


def test_static_models_and_their_tokenizer(tmp_path):
    path = write_static(tmp_path / "m.gguf", ["the", "cat", "a"], np.eye(3, 8, dtype=np.float32))
    found = []
    for isolate in (False, True):
        with running(path, config_of(isolate=isolate), tmp_path) as started:
            started.embed("the cat")
            (model,) = started.service.loaded()
            ids = started.run(started.service.tokenize("the cat", model=None, add_special=True, parse_special=True))
            pieces = started.run(started.service.token_pieces(ids, model=None))
            text = started.run(started.service.detokenize(ids, model=None))
            found.append((started.embed("the cat", "a").output.matrix.tolist(), ids, pieces, text))
            assert model.tokenizes_inline == (not isolate)
    assert found[0] == found[1]


def test_rerankers(models, tmp_path):
    request = RerankRequest("the cat", ["the dog", "a cat sat", "x"])
    found = []
    for isolate in (False, True):
        config = replace(config_of(isolate=isolate), pooling=Pooling.RANK)
        with running(models / "reranker.gguf", config, tmp_path) as started:
            found.append(started.run(started.service.rerank(request)).scores.tolist())
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_texts_of_ids_and_errors_are_the_same(models, tmp_path, name):
    found = []
    for isolate in (False, True):
        with running(models / f"{name}.gguf", config_of("llama", isolate=isolate), tmp_path) as started:
            service = started.service
            ids = started.run(service.tokenize("the cat [SEP]", model=None, add_special=True, parse_special=False))
            found.append(
                (
                    ids,
                    started.run(service.token_pieces(ids, model=None)),
                    started.run(service.detokenize(ids, model=None)),
                    _error_of(started, service.detokenize([10**6], model=None)),
                    _error_of(started, service.token_pieces([-1], model=None)),
                )
            )
    assert found[0] == found[1]


def _error_of(started: Running, work) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # whatever it is, it must be the same
        started.run(work)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_an_engine_that_is_killed_runs_again_with_the_same_vectors(models, tmp_path, caplog):
    with running(models / "encoder.gguf", config_of(), tmp_path) as started:
        before = started.embed(*TEXTS).output.matrix
        first = process_of(started)
        os.kill(first.pid, signal.SIGKILL)
        for _ in range(20):  # before the end is noticed, and after it
            with pytest.raises(Unavailable) as caught:
                started.embed("the cat")
        assert "the engine of encoder.gguf was ended by SIGKILL and is being restarted" in caught.value.message
        assert caught.value.retry_after_s >= 1
        np.testing.assert_array_equal(embed_again(started, *TEXTS).output.matrix, before)
        state = process_of(started)
        assert (state.state, state.n_restarts, state.last_end) == ("running", 1, "ended by SIGKILL")
        assert state.pid != first.pid
    assert f"(process {first.pid}) was ended by SIGKILL after" in caplog.text
    assert "runs again" in caplog.text
    assert not Path(f"/proc/{state.pid}").exists()


@contextmanager
def impatient(started: Running, limits: Limits) -> Iterator[None]:
    """Not from the start, which takes longer on a busy machine."""
    (model,) = started.service.loaded()
    supervised = model.loaded.engine.supervisor
    usual, supervised.limits = supervised.limits, limits
    try:
        yield
    finally:
        supervised.limits = usual


def test_the_engine_of_the_first_start_is_kept(models, tmp_path, monkeypatch):
    """OpenVINO, which failed then, would give other vectors."""
    fake_openvino(tmp_path, monkeypatch, BROKEN)
    with running(models / "encoder.gguf", config_of(), tmp_path / "cache") as started:
        result = started.embed("the cat")
        assert result.model.engine == "llama"
        monkeypatch.undo()
        os.kill(process_of(started).pid, signal.SIGKILL)
        np.testing.assert_array_equal(embed_again(started, "the cat").output.matrix, result.output.matrix)


def test_why_an_engine_is_not_used_is_said_once_for_all_processes(models, tmp_path, monkeypatch):
    fake_openvino(tmp_path, monkeypatch, BROKEN)
    monkeypatch.setattr(reasons, "_said", set())
    said: list[str] = []
    for name in ("encoder", "decoder"):
        located = LocatedModel(models / f"{name}.gguf", name)
        model = load_model(located, config_of(), tmp_path / "cache", Metrics(), said.append)
        model.close()
        assert model.info.engine == "llama"
    (line,) = said
    assert line.startswith("encoder.gguf runs in the engine llama, not in openvino: the package openvino cannot be")


def test_an_engine_whose_bf16_failed_computes_in_float32_when_it_is_started_again(models, tmp_path, monkeypatch):
    """BF16, which may not fail then, would give other vectors."""
    call = supervisor.Supervisor.call

    def without_bf16(self, lane, request, *limit) -> object:
        answer = call(self, lane, request, *limit)
        if isinstance(request, MakePlan):
            return replace(answer, plan=replace(answer.plan, bf16_failed=True))
        return answer

    monkeypatch.setattr(supervisor.Supervisor, "call", without_bf16)
    config = replace(config_of("openvino"), compute=ComputeConfig(engine="openvino"))
    with running(models / "encoder.gguf", config, tmp_path) as started:
        before = started.embed("the cat").output.matrix
        (model,) = started.service.loaded()
        assert model.loaded.engine.supervisor._job.config.compute.precision == "f32"
        os.kill(process_of(started).pid, signal.SIGKILL)
        np.testing.assert_array_equal(embed_again(started, "the cat").output.matrix, before)


def test_an_engine_that_hangs_is_ended_and_started_again(models, tmp_path):
    with running(models / "encoder.gguf", config_of(), tmp_path) as started:
        before = started.embed("the cat").output.matrix
        freeze(process_of(started).pid)
        with (
            impatient(started, Limits(call_s=1.0, call_slowness=0.0)),
            pytest.raises(Unavailable, match=r"ended because it took over 1 s for a batch of \d+ tokens"),
        ):
            started.embed("the cat")
        np.testing.assert_array_equal(embed_again(started, "the cat").output.matrix, before)


def test_a_process_that_breaks_off_an_answer_is_ended(models, tmp_path):
    with running(models / "encoder.gguf", config_of("llama"), tmp_path) as started:
        before = started.embed("the cat").output.matrix
        (model,) = started.service.loaded()
        supervisor_ = model.loaded.engine.supervisor
        lane = supervisor_.open_lane()
        lane._end.sendall(b"\x07" + b"\x00" * 7 + b"garbage")
        with pytest.raises(Unavailable, match="ended because it broke off an answer"):
            supervisor_.call(lane, OpenImages(), 30.0, "nothing")
        np.testing.assert_array_equal(embed_again(started, "the cat").output.matrix, before)


def test_a_tokenizer_that_hangs_is_ended_with_its_process(models, tmp_path):
    with running(models / "decoder.gguf", replace(config_of("llama"), tokenizer="llama"), tmp_path) as started:
        before = started.embed(TEXTS[2]).output.matrix
        freeze(process_of(started).pid)
        with (
            impatient(started, Limits(text_s=1.0)),
            pytest.raises(Unavailable, match=r"took over 1 s for tokenizing \d+ characters"),
        ):
            started.embed(TEXTS[2])
        np.testing.assert_array_equal(embed_again(started, TEXTS[2]).output.matrix, before)


def test_a_file_that_ends_the_process_while_it_is_loaded_is_an_error_of_its_model(tmp_path):
    before = set(child_pids())  # of other tests
    path = ending_model(tmp_path / "m.gguf")
    with (
        running(path, config_of("llama"), tmp_path) as started,
        pytest.raises(
            ModelLoadFailed, match=r"its engine's process was ended by SIG\w+.* while loading it in the engine"
        ),
    ):
        started.embed("a")
    assert set(child_pids()) <= before, "its process is left"


def test_a_file_that_has_changed_is_not_taken_for_the_one_that_was_loaded(tmp_path, caplog):
    path = write_tiny_encoder(tmp_path / "m.gguf")
    content = path.read_bytes()
    with running(path, config_of("llama"), tmp_path) as started:
        before = started.embed("the cat").output.matrix
        loaded = path.stat()
        write_tiny_encoder(path, seed=2)
        os.kill(process_of(started).pid, signal.SIGKILL)
        end_s = time.monotonic() + 30
        while "its file has changed since it was loaded" not in caplog.text:
            assert time.monotonic() < end_s
            time.sleep(0.02)
        with pytest.raises(Unavailable):
            started.embed("the cat")
        path.write_bytes(content)
        os.utime(path, ns=(loaded.st_atime_ns, loaded.st_mtime_ns))
        np.testing.assert_array_equal(embed_again(started, "the cat").output.matrix, before)


def test_a_model_can_be_unloaded_while_its_engine_is_started_again(models, tmp_path):
    before = set(child_pids())  # of other tests
    with running(models / "encoder.gguf", config_of(), tmp_path) as started:
        started.embed("the cat")
        os.kill(process_of(started).pid, signal.SIGKILL)
        wait_for(started, "restarting")
        begun_s = time.monotonic()
    assert time.monotonic() - begun_s < 8
    assert set(child_pids()) <= before, "its process is left"


def test_the_memory_of_the_process_counts(models, tmp_path):
    with running(models / "encoder.gguf", config_of(), tmp_path) as started:
        started.embed("the cat")
        pid = process_of(started).pid
        assert pid in child_pids()
        assert resident_bytes(pid) > 20 * 2**20
        (status,) = started.service.models()
        assert status.memory_bytes >= 120 * 2**20


@pytest.fixture
def answers(monkeypatch) -> queue.Queue:
    """What the process answers when it is asked to free buffers, which an idle thread does soon."""
    monkeypatch.setattr("gguf_embed.scheduler.worker.RELEASE_AFTER_S", 0.05)
    found = queue.Queue()
    call = supervisor.Supervisor.call

    def note(self, lane, request, *limit) -> object:
        answer = call(self, lane, request, *limit)
        if isinstance(request, ReleaseBuffers):
            found.put(answer)
        return answer

    monkeypatch.setattr(supervisor.Supervisor, "call", note)
    return found


def test_an_idle_engine_gives_memory_back_and_goes_on(models, tmp_path, answers):
    with running(models / "encoder.gguf", config_of(), tmp_path) as started:
        before = started.embed("the cat").output.matrix
        assert answers.get(timeout=10) == 1  # context
        np.testing.assert_array_equal(started.embed("the cat").output.matrix, before)
        os.kill(process_of(started).pid, signal.SIGKILL)  # while the worker waits to free them again
        np.testing.assert_array_equal(embed_again(started, "the cat").output.matrix, before)


def test_an_idle_image_tower_gives_memory_back_and_goes_on(tmp_path, answers):
    images = (ImageInput(0, (png(noise(1)),)),)
    with running(write_own("clip_quick", tmp_path), config_of(), tmp_path) as started:
        before = started.embed("", images=images).output.matrix
        assert answers.get(timeout=10) == 1  # reader: no text was computed, so there is no context
        np.testing.assert_array_equal(started.embed("", images=images).output.matrix, before)
