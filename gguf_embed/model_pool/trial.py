"""Tries a file that this machine has not run before in a child process, so that a bad one cannot end the server.

The child does all that the first load does, and keeps what it measures for it (`engines/records.py`), so that a first
load takes hardly longer. Its verdict is kept in the same place, until the file, the versions or the flags change.
"""

from __future__ import annotations

import json
import pickle
import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from gguf_embed.engines.child_process import child_command, exit_in_words, last_words
from gguf_embed.engines.memory import available_bytes
from gguf_embed.engines.reasons import report_once
from gguf_embed.engines.records import MeasurementRecords, record_key
from gguf_embed.engines.select import has_other_engines
from gguf_embed.engines.system_files import read_system_file
from gguf_embed.errors import ModelFileError, WayOut
from gguf_embed.model_pool.trial_child import MARK, TOKENIZING, TrialJob
from gguf_embed.model_store.names import split_parts
from gguf_embed.model_store.trusted_files import is_made_by_us

WAYS_OUT = (WayOut.EXAMINE_FILE, WayOut.OTHER_FILE)
WAYS_AFTER_STOP = (*WAYS_OUT, WayOut.SKIP_CHECK)

STAGE_S = 60.0
BYTES_PER_S = 10_000_000
"""A stage may take `STAGE_S`, and more for a large file: as long as it takes to read it at this speed."""

TOKENIZING_S = 20.0
"""For a few short texts, which take milliseconds."""

MEMORY_FACTOR, MEMORY_BYTES = 4, 3 * 2**30
"""How much more than the estimate for the model the child may take: it also measures, with one engine after another."""

POLL_S = 0.05
_KILLED = 9  # SIGKILL, which Windows does not name
KEPT_LINES = 8


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """How long each stage of a trial may take, and how much memory."""

    stage_s: float
    tokenizing_s: float
    max_bytes: int

    @classmethod
    def of(cls, size_bytes: int, memory_bytes: int, free_bytes: int | None) -> TrialLimits:
        """For a file of this size. `memory_bytes`: the estimate for the loaded model; `free_bytes`: None if unknown."""
        allowed = MEMORY_FACTOR * memory_bytes + MEMORY_BYTES
        most = allowed if free_bytes is None else min(allowed, max(free_bytes * 9 // 10, 2**29))
        return cls(STAGE_S + size_bytes / BYTES_PER_S, TOKENIZING_S, most)

    def seconds(self, stage: str) -> float:
        return self.tokenizing_s if stage.startswith(TOKENIZING) else self.stage_s


class TookTooMuchMemory(ModelFileError):
    """The child needed more memory than there is for it, perhaps in one of the engines only."""


@dataclass(slots=True)
class Trial:
    """What is known about a running trial, and how it ended."""

    stage: str = "starting"
    is_ok: bool = False
    error: ModelFileError | None = None  # that the child reported
    stopped: str = ""  # why we ended it
    is_too_large: bool = False  # we ended it because of its memory
    said: set[str] = field(default_factory=set)  # lines for the operator
    log: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))

    def read(self, line: str) -> None:
        """Take one line of the child's output."""
        before, mark, after = line.partition(MARK)
        if before.strip():
            self.log.append(before.strip())
        if not mark:
            return
        kind, *values = json.loads(after)
        if kind == "stage":
            self.stage = values[0]
        elif kind == "report":
            report_once(self.said.add, *values)
        elif kind == "error":
            self.error = ModelFileError(values[0], [WayOut(way) for way in values[1]])
        self.is_ok = self.is_ok or kind == "ok"

    def problem(self, exit_code: int) -> str:
        """Why the file must not be run here, as a clause."""
        how = self.stopped or f"ended the child process that tried it ({exit_in_words(exit_code)})"
        last = last_words(self.log)
        return f"it {how} while {self.stage}" + (f", whose last line was {last!r}" if last else "")


class FileTrials:
    """Runs trials and keeps their verdicts. Any thread; blocks for as long as a load."""

    def __init__(self, cache_dir: Path, report: Callable[[str], None]) -> None:
        self._records = MeasurementRecords(cache_dir)
        self._report = report
        # problems that another state of the machine might not have
        self._stopped: dict[str, tuple[type[ModelFileError], str]] = {}

    def check(self, job: TrialJob, memory_bytes: int) -> Collection[str]:
        """Try the file unless this was done before. Returns the lines that were reported for the operator.

        `memory_bytes`: the estimate for the loaded model. Raises `ModelFileError` for a file that must not be run,
        `TookTooMuchMemory` for one that may run in another engine.
        """
        if has_other_engines():
            return ()
        key = trial_key(job)
        record = self._records.read(key) or {}
        if key in self._stopped:
            kind, problem = self._stopped[key]
            raise kind(f"{job.path}: {problem}", WAYS_AFTER_STOP)
        if record.get("problem"):
            raise ModelFileError(f"{job.path}: {record['problem']}", WAYS_OUT)
        if record.get("trial") == "ok":
            return ()
        if is_made_by_us(job.path):
            self._records.write(key, {"trial": "ok", "seconds": 0.0})
            return ()
        return self._try(job, key, memory_bytes)

    def _try(self, job: TrialJob, key: str, memory_bytes: int) -> Collection[str]:
        size_bytes = sum(path.stat().st_size for path in _files(job))
        limits = TrialLimits.of(size_bytes, memory_bytes, available_bytes())
        started_s = time.monotonic()
        try:
            trial, exit_code = run_trial(job, limits, self._report)
        except OSError as error:
            self._report(f"{job.path.name} cannot be checked in a child process first ({error}): it is loaded at once")
            return ()
        if trial.error is not None:
            raise trial.error
        if not trial.is_ok:
            raise self._refused(job, key, trial, exit_code)
        seconds = round(time.monotonic() - started_s, 1)
        self._records.write(key, {"trial": "ok", "seconds": seconds})
        self._report(f"{job.path.name} was checked in a child process in {seconds} s: it had not run here before")
        return trial.said

    def _refused(self, job: TrialJob, key: str, trial: Trial, exit_code: int) -> ModelFileError:
        """The error for a file that ended its child, or had to be ended. Keeps the verdict."""
        problem = trial.problem(exit_code)
        if trial.stopped or exit_code == -_KILLED:  # a busy machine, or one without memory: may be different next time
            is_too_large = trial.is_too_large or not trial.stopped  # the system has ended it
            kind = TookTooMuchMemory if is_too_large else ModelFileError
            self._stopped[key] = kind, problem
            return kind(f"{job.path}: {problem}", WAYS_AFTER_STOP)
        self._records.write(key, {"trial": "ended", "problem": problem})
        return ModelFileError(f"{job.path}: {problem}", WAYS_OUT)


def verdict_in_words(job: TrialJob) -> str:
    """What is known about a file that is not loaded."""
    record = MeasurementRecords(job.cache_dir).read(trial_key(job)) or {}
    if record.get("problem"):
        return str(record["problem"])
    if is_made_by_us(job.path):
        return "not needed, made by gguf-embed"
    if record.get("trial") != "ok":
        return "in a child process, when it is first served"
    return f"passed, in a child process in {record.get('seconds')} s"


def trial_key(job: TrialJob) -> str:
    """The key of a verdict: about a file with all its parts, and whatever decides how it is loaded."""
    config, compute = job.config, job.config.compute
    others = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in _files(job)[1:]]
    how = (config.pooling, config.n_ctx, config.tokenizer, config.warmup, astuple(compute))
    return record_key(job.path, "trial", others, how)


def _files(job: TrialJob) -> list[Path]:
    """The model's parts, and its vision tower."""
    parts = [job.path.with_name(name) for name in split_parts(job.path.name)]
    return [path for path in (*parts, job.config.mmproj) if path is not None and path.is_file()]


def run_trial(job: TrialJob, limits: TrialLimits, report: Callable[[str], None]) -> tuple[Trial, int]:
    """Start a child and watch it to its end. Returns what it said, and its exit code. Raises `OSError`."""
    process = subprocess.Popen(
        child_command("gguf_embed.model_pool.trial_child"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for the server, which closes our pipe when it ends
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True)
    reader.start()
    try:
        process.stdin.write(pickle.dumps(job))
        process.stdin.flush()
        trial = _watch(process, lines, limits, report)
    finally:
        process.kill()
        exit_code = process.wait()
        reader.join(1.0)
        process.stdin.close()
        process.stdout.close()
    return trial, exit_code


def _read_lines(output: Any, lines: queue.SimpleQueue[bytes | None]) -> None:
    """On a thread: a pipe cannot be waited for with a limit on every system."""
    while line := output.readline(65_536):
        lines.put(line)
    lines.put(None)


def _watch(
    process: subprocess.Popen[bytes],
    lines: queue.SimpleQueue[bytes | None],
    limits: TrialLimits,
    report: Callable[[str], None],
) -> Trial:
    """Read what the child says until it has ended, or must be ended because it takes too long or too much memory."""
    trial = Trial()
    deadline_s = time.monotonic() + limits.seconds(trial.stage)
    while not trial.stopped:
        try:
            line = lines.get(timeout=POLL_S)
        except queue.Empty:
            line = b""
        if line is None:
            process.wait(limits.stage_s)
            return trial
        if line:
            stage, n_said = trial.stage, len(trial.said)
            trial.read(line.decode("utf-8", "replace"))
            if len(trial.said) > n_said:
                report(json.loads(line.decode().partition(MARK)[2])[1])
            if trial.stage != stage:
                deadline_s = time.monotonic() + limits.seconds(trial.stage)
        _stop_if_needed(trial, process.pid, deadline_s, limits)
    return trial


def _stop_if_needed(trial: Trial, pid: int, deadline_s: float, limits: TrialLimits) -> None:
    """Note why the child must be ended now, as a clause, if it must not go on."""
    if time.monotonic() > deadline_s:
        trial.stopped = f"took over {limits.seconds(trial.stage):.0f} s in the child process that tried it"
    elif private_bytes(read_system_file(Path(f"/proc/{pid}/status"))) > limits.max_bytes:
        most = f"{limits.max_bytes / 2**20:,.0f} MiB of memory"
        trial.stopped, trial.is_too_large = f"took over {most} in the child process that tried it", True


def private_bytes(status: str) -> int:
    """The memory of a process that is not a mapped file, from /proc/PID/status; 0 if unknown."""
    for line in status.splitlines():
        key, _, value = line.partition(":")
        if key == "RssAnon" and value.split()[:1] and value.split()[0].isdigit():
            return int(value.split()[0]) * 1024
    return 0
