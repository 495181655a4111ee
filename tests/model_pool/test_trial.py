"""A file is tried once in a child process: what ends or hangs the child is one clear error, kept with the file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.engines import reasons
from gguf_embed.engines.child_process import last_words
from gguf_embed.engines.records import MeasurementRecords
from gguf_embed.errors import ModelFileError, WayOut
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool import trial as trials
from gguf_embed.model_pool.loader import FileLoader
from gguf_embed.model_pool.served_models import ModelSpec
from gguf_embed.model_pool.trial import (
    FileTrials,
    TookTooMuchMemory,
    Trial,
    TrialLimits,
    private_bytes,
    run_trial,
    trial_key,
)
from gguf_embed.model_pool.trial_child import MARK, TrialJob, check_outputs
from gguf_embed.model_store.trusted_files import is_made_by_us
from gguf_embed.types import DENSE, LoadOptions
from gguf_embed.vectors import Rows
from tests.gguf_models import write_tiny_decoder, write_tiny_encoder
from tests.model_pool.fake_models import make_spec
from tests.mutate_gguf import U32, as_bytes, read_model

MIB = 2**20
LIMITS = TrialLimits(60.0, 20.0, 4096 * MIB)
LLAMA = ModelConfig(compute=ComputeConfig(engine="llama", weights="file"))


def job_of(path: Path, config: ModelConfig = LLAMA) -> TrialJob:
    return TrialJob(path, path.stem, config, path.parent / "cache")


@pytest.fixture
def said(monkeypatch) -> list[str]:
    monkeypatch.setattr(reasons, "_said", set())
    return []


@pytest.fixture
def checks(tmp_path, said) -> FileTrials:
    return FileTrials(tmp_path / "cache", said.append)


def test_a_healthy_file_is_tried_once_and_again_when_it_changes(tmp_path, checks, said, monkeypatch):
    path = write_tiny_encoder(tmp_path / "m.gguf")
    checks.check(job_of(path), 64 * MIB)
    assert len(said) == 1
    assert "was checked in a child process in" in said[0]
    with monkeypatch.context() as patch:
        patch.setattr(trials, "run_trial", lambda *_: pytest.fail("tried again"))
        started_s = time.monotonic()
        assert checks.check(job_of(path), 64 * MIB) == ()
        assert time.monotonic() - started_s < 0.2
        assert FileTrials(tmp_path / "cache", said.append).check(job_of(path), 64 * MIB) == ()
    assert len(said) == 1
    write_tiny_encoder(path, seed=2)
    checks.check(job_of(path), 64 * MIB)
    assert len(said) == 2


@pytest.mark.parametrize("engine", ["llama", "openvino"])
def test_a_context_for_one_short_text_is_enough(tmp_path, checks, said, engine):
    """Two texts do not fit into it."""
    path = write_tiny_encoder(tmp_path / "m.gguf")
    checks.check(job_of(path, ModelConfig(n_ctx=4, compute=ComputeConfig(engine=engine, batch_tokens=1))), 64 * MIB)
    assert "was checked in a child process in" in said[-1]


def test_the_child_measures_for_the_load_that_follows(tmp_path, checks, said):
    path = write_tiny_encoder(tmp_path / "m.gguf")
    lines = checks.check(job_of(path, ModelConfig()), 64 * MIB)
    assert [line for line in lines if "the faster one here" in line]
    assert set(lines) <= set(said)
    records = [json.loads(file.read_text()) for file in (tmp_path / "cache" / "measured").iterdir()]
    assert any("tokens_per_s" in record and "engine" in record for record in records)


def test_a_file_that_ends_the_child_is_an_error_that_says_where_and_stays(tmp_path, checks, said, monkeypatch):
    path = ending_model(tmp_path / "m.gguf")
    with pytest.raises(ModelFileError) as caught:
        checks.check(job_of(path), 64 * MIB)
    assert "it ended the child process that tried it (SIG" in caught.value.message
    assert "while " in caught.value.message
    assert "in the engine llama" in caught.value.message
    assert WayOut.EXAMINE_FILE in caught.value.ways_out
    monkeypatch.setattr(trials, "run_trial", lambda *_: pytest.fail("tried again"))
    with pytest.raises(ModelFileError, match="ended the child process"):
        FileTrials(tmp_path / "cache", said.append).check(job_of(path), 64 * MIB)


def ending_model(path: Path) -> Path:
    """A decoder whose heads do not fit rope's sections: llama.cpp asserts that they do."""
    model = read_model(write_tiny_decoder(path))
    path.write_bytes(as_bytes(model.with_value("qwen3.rope.dimension_count", U32, 7)))
    return path


def test_an_error_of_the_file_comes_as_it_is_and_is_looked_at_again(tmp_path, checks):
    path = tmp_path / "m.gguf"
    model = read_model(write_tiny_encoder(path))
    path.write_bytes(as_bytes(model.with_value("bert.block_count", U32, 0)))
    for _ in range(2):
        with pytest.raises(ModelFileError, match="block_count is 0, expected 1 to 512"):
            checks.check(job_of(path), 64 * MIB)
    assert not (tmp_path / "cache" / "measured").exists()


def test_a_child_that_takes_too_long_is_ended(tmp_path, said):
    path = write_tiny_encoder(tmp_path / "m.gguf")
    started_s = time.monotonic()
    trial, code = run_trial(job_of(path), TrialLimits(0.01, 0.01, 4096 * MIB), said.append)
    assert time.monotonic() - started_s < 5
    assert not trial.is_ok
    assert code == -signal.SIGKILL
    assert "took over 0 s in the child process that tried it while starting" in trial.problem(code)


def test_a_child_that_takes_too_much_memory_is_ended(tmp_path, said):
    path = write_tiny_encoder(tmp_path / "m.gguf")
    trial, code = run_trial(job_of(path), TrialLimits(60.0, 20.0, 8 * MIB), said.append)
    assert "it took over 8 MiB of memory in the child process that tried it" in trial.problem(code)


def test_what_was_stopped_is_not_kept_on_disk(tmp_path, checks, said, monkeypatch):
    path = write_tiny_encoder(tmp_path / "m.gguf")
    monkeypatch.setattr(TrialLimits, "of", lambda *_: TrialLimits(0.01, 0.01, 4096 * MIB))
    for _ in range(2):
        with pytest.raises(ModelFileError, match="took over") as caught:
            checks.check(job_of(path), 64 * MIB)
        assert WayOut.SKIP_CHECK in caught.value.ways_out
    assert MeasurementRecords(tmp_path / "cache").read(trial_key(job_of(path))) is None
    monkeypatch.undo()
    FileTrials(tmp_path / "cache", said.append).check(job_of(path), 64 * MIB)
    assert "was checked" in said[-1]


def spec_of(path: Path, engine: str) -> ModelSpec:
    spec = make_spec(path.stem, config=ModelConfig(warmup=False, compute=ComputeConfig(engine=engine, weights="file")))
    return replace(spec, path=path, info=replace(spec.info, path=path))


@pytest.fixture
def tried(monkeypatch) -> list[str]:
    """The engines that were tried: with `auto`, the child takes too much memory."""
    engines: list[str] = []

    def run(job: TrialJob, *_: object) -> tuple[Trial, int]:
        engines.append(job.config.compute.engine)
        if engines[-1] == "auto":
            return Trial(stage="loading it", stopped="took over 8 MiB of memory", is_too_large=True), -signal.SIGKILL
        return Trial(is_ok=True), 0

    monkeypatch.setattr(trials, "run_trial", run)
    return engines


def test_a_file_that_takes_too_much_memory_runs_in_llama_cpp(tmp_path, checks, said, tried):
    spec = spec_of(write_tiny_encoder(tmp_path / "m.gguf"), "auto")
    loader = FileLoader(tmp_path / "cache", Metrics(), said.append, checks)
    for _ in range(2):
        model = loader.load(spec, LoadOptions())
        model.close()
        assert model.info.engine == "llama"
        assert said[-1] == (
            "m.gguf runs in the engine llama, because with others it took over 8 MiB of memory while loading it"
        )
    assert tried == ["auto", "llama"]


@pytest.mark.parametrize(("engine", "refused"), [("openvino", False), ("auto", True)])
def test_a_file_that_takes_too_much_memory_is_refused_without_another_engine(
    tmp_path, checks, said, monkeypatch, engine, refused
):
    def run(job: TrialJob, *_: object) -> tuple[Trial, int]:
        if job.config.compute.engine == engine:
            return Trial(stopped="took over 8 MiB of memory", is_too_large=True), -signal.SIGKILL
        assert refused
        return Trial(error=ModelFileError("cannot be run: llama: it is unknown")), 0

    monkeypatch.setattr(trials, "run_trial", run)
    spec = spec_of(write_tiny_encoder(tmp_path / "m.gguf"), engine)
    with pytest.raises(ModelFileError, match="took over 8 MiB of memory"):
        FileLoader(tmp_path / "cache", Metrics(), said.append, checks).load(spec, LoadOptions())


@pytest.mark.parametrize(
    ("trial", "is_about_memory"),
    [(Trial(), True), (Trial(stopped="took over 60 s"), False), (Trial(stopped="took", is_too_large=True), True)],
    ids=["the system ended it", "its time", "its memory"],
)
def test_what_was_ended_for_its_memory_is_told_apart(tmp_path, checks, monkeypatch, trial, is_about_memory):
    monkeypatch.setattr(trials, "run_trial", lambda *_: (trial, -signal.SIGKILL))
    for _ in range(2):
        with pytest.raises(ModelFileError) as caught:
            checks.check(job_of(write_tiny_encoder(tmp_path / "m.gguf")), 64 * MIB)
        assert isinstance(caught.value, TookTooMuchMemory) is is_about_memory


def fake_openvino(folder: Path, monkeypatch, line: str) -> None:
    """A package openvino that fails on being imported, in children."""
    (folder / "fake" / "openvino").mkdir(parents=True)
    (folder / "fake" / "openvino" / "__init__.py").write_text(line)
    monkeypatch.syspath_prepend(folder / "fake")


BROKEN = "raise ImportError('libopenvino.so: cannot open shared object file')"


@pytest.mark.parametrize("warmup", [True, False])
def test_an_openvino_that_cannot_be_imported_means_llama_cpp(tmp_path, checks, said, monkeypatch, warmup):
    fake_openvino(tmp_path, monkeypatch, BROKEN)
    config = ModelConfig(warmup=warmup, compute=ComputeConfig(weights="file"))  # with AMX, llama.cpp would get a copy
    checks.check(job_of(write_tiny_encoder(tmp_path / "m.gguf"), config), 64 * MIB)
    assert said[0] == (
        "m.gguf runs in the engine llama, not in openvino: the package openvino cannot be imported: "
        "libopenvino.so: cannot open shared object file"
    )
    assert "was checked in a child process" in said[1]
    assert len(said) == 2


def test_why_an_engine_is_not_used_is_said_once_for_all_files(tmp_path, checks, said, monkeypatch):
    fake_openvino(tmp_path, monkeypatch, BROKEN)
    config = ModelConfig(warmup=False, compute=ComputeConfig(weights="file"))  # with AMX, llama.cpp would get copies
    found = [checks.check(job_of(write_tiny_encoder(tmp_path / f"{name}.gguf"), config), 64 * MIB) for name in "ab"]
    assert [line for line in said if "not in openvino" in line] == [said[0]]
    assert found == [{said[0]}, set()]
    assert len(said) == 3


def test_a_configured_openvino_that_cannot_be_imported_is_an_error_and_no_verdict(tmp_path, checks, monkeypatch):
    path = write_tiny_encoder(tmp_path / "m.gguf")
    job = job_of(path, ModelConfig(compute=ComputeConfig(engine="openvino")))
    with monkeypatch.context() as patched:
        fake_openvino(tmp_path, patched, BROKEN)
        for _ in range(2):
            with pytest.raises(ModelFileError, match=r"^the package openvino cannot be imported: libopenvino\.so"):
                checks.check(job, 64 * MIB)
    assert MeasurementRecords(tmp_path / "cache").read(trial_key(job)) is None
    checks.check(job, 64 * MIB)


def test_an_unexpected_error_in_the_child_is_no_verdict_about_the_file(tmp_path, checks, monkeypatch):
    fake_openvino(tmp_path, monkeypatch, "raise KeyError('x')")
    job = job_of(write_tiny_encoder(tmp_path / "m.gguf"), ModelConfig(compute=ComputeConfig(engine="openvino")))
    with pytest.raises(ModelFileError, match=r"m\.gguf: KeyError: 'x'"):
        checks.check(job, 64 * MIB)
    assert MeasurementRecords(tmp_path / "cache").read(trial_key(job)) is None


def test_a_child_whose_parent_is_gone_ends(tmp_path):
    path = write_tiny_encoder(tmp_path / "m.gguf")
    program = (
        "import sys, pathlib, threading, os\n"
        "from gguf_embed.model_pool import trial\n"
        "from tests.model_pool.test_trial import job_of, LIMITS\n"
        "real = trial._watch\n"
        "def watch(process, *rest):\n"
        "    print(process.pid, flush=True)\n"
        "    os._exit(0)\n"
        "trial._watch = watch\n"
        "trial.run_trial(job_of(pathlib.Path(sys.argv[1])), LIMITS, print)\n"
    )
    parent = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60)
    pid = int(parent.stdout.split()[0])
    end_s = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end_s:
        if "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{pid}").exists()


def test_what_we_made_ourselves_is_not_tried(tmp_path, default_model, said, monkeypatch):
    assert is_made_by_us(default_model)
    checks = FileTrials(tmp_path / "cache", said.append)
    monkeypatch.setattr(trials, "run_trial", lambda *_: pytest.fail("tried"))
    started_s = time.monotonic()
    assert checks.check(TrialJob(default_model, "m", ModelConfig(), tmp_path / "cache"), 64 * MIB) == ()
    assert time.monotonic() - started_s < 1
    assert said == []
    copy = tmp_path / "copy.gguf"
    data = bytearray(default_model.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    assert not is_made_by_us(copy)


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ([], ""),
        (["loading", "done"], "done"),
        (["a", "/tmp/x/ggml/src/ggml.c:12: GGML_ASSERT(n > 0) failed", "b"], "ggml.c:12: GGML_ASSERT(n > 0) failed"),
        (
            ["terminate called after throwing an instance of 'std::out_of_range'", "  what():  map::at"],
            "  what():  map::at",
        ),
        (["x" * 500], "x" * 200),
    ],
)
def test_the_last_line_that_explains_something(log, found):
    assert last_words(log) == found


def test_what_a_child_says_is_told_apart_from_its_log():
    trial = Trial()
    for line in ("a log\n", f"half a line{MARK}" + json.dumps(["stage", "computing"]) + "\n", "\n", "the end\n"):
        trial.read(line)
    assert trial.stage == "computing"
    assert list(trial.log) == ["a log", "half a line", "the end"]
    assert trial.problem(-signal.SIGABRT) == (
        "it ended the child process that tried it (SIGABRT) while computing, whose last line was 'the end'"
    )


@pytest.mark.parametrize(
    ("size", "memory", "free", "most"),
    [(0, 100 * MIB, None, 3472), (0, 100 * MIB, 2000 * MIB, 1800), (0, 100 * MIB, 10 * MIB, 512)],
)
def test_limits_grow_with_the_file_and_leave_memory_to_others(size, memory, free, most):
    limits = TrialLimits.of(size, memory, free)
    assert limits.max_bytes == most * MIB
    assert limits.seconds("loading") == 60
    assert limits.seconds("tokenizing a text") == 20
    assert TrialLimits.of(10_000_000_000, memory, free).seconds("loading") == 1060


def test_only_private_memory_counts():
    assert private_bytes("VmRSS:\t 900 kB\nRssAnon:\t   12 kB\nRssFile: 800 kB\n") == 12 * 1024
    assert private_bytes("") == 0
    assert private_bytes(Path(f"/proc/{os.getpid()}/status").read_text()) > MIB


def test_damaged_weights_show_if_no_text_has_an_answer():
    good, zero = (Rows.one_each(DENSE, np.full((1, 4), value, np.float32)) for value in (1.0, 0.0))
    check_outputs(Path("m.gguf"), [good, zero])
    with pytest.raises(ModelFileError, match=r"m\.gguf: the model returned a vector of zeros, whatever the text"):
        check_outputs(Path("m.gguf"), [zero, zero])
