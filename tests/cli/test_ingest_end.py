"""Ctrl-C reaches a job at any moment, also while the job prints."""

from __future__ import annotations

import io
import os
import signal
import threading

import pytest

from gguf_embed.cli.ingest_end import StopSignals
from gguf_embed.cli.ingest_report import JsonReport
from tests.server_process import wait_until


class InterruptedOutput(io.RawIOBase):
    """Gets a signal while it is written to for the first time."""

    def __init__(self, number: int) -> None:
        self.written = b""
        self._number = number

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        if not self.written:
            os.kill(os.getpid(), self._number)
        self.written += bytes(data)
        return len(data)


class RunningJob:
    """As far as the signals use it."""

    def __init__(self, *, is_over: bool) -> None:
        self.is_over = is_over
        self.is_stopped = False
        self.n_to_store = 7

    def stop(self) -> None:
        self.is_stopped = True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("is_over", "said"), [(False, "stopping: 7 rows left"), (True, "the job has ended")])
def test_a_signal_while_the_job_prints_is_no_error(number, is_over, said):
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    output, job = InterruptedOutput(number), RunningJob(is_over=is_over)
    report = JsonReport(io.TextIOWrapper(io.BufferedWriter(output)))
    with StopSignals() as signals:
        signals.stop(job, report)
        report.say("a line")
        wait_until(lambda: said.encode() in output.written)
    assert job.is_stopped is not is_over
    assert [line.startswith(b'{"event": "message"') for line in output.written.splitlines()] == [True, True]
    assert {one: signal.getsignal(one) for one in before} == before
    assert "ingest-stop" not in {thread.name for thread in threading.enumerate()}


def test_a_job_that_is_not_stopped_leaves_no_thread():
    with StopSignals() as signals:
        signals.stop(RunningJob(is_over=False), JsonReport(io.StringIO()))
    assert "ingest-stop" not in {thread.name for thread in threading.enumerate()}
    with StopSignals():
        pass
