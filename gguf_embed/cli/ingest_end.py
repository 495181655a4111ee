"""How a job ends: by a signal or by itself, with which exit code, and what may be done next."""

from __future__ import annotations

import os
import re
import shlex
import signal
import threading
from typing import TYPE_CHECKING

from gguf_embed.cli.ingest_report import GOES_ON, rows
from gguf_embed.cli.interrupts import EXIT_CODE, quit_now

if TYPE_CHECKING:
    from typing import Self

    from gguf_embed.cli.ingest import IngestFlags
    from gguf_embed.cli.ingest_report import Report
    from gguf_embed.ingest.job.run import Job, Outcome
    from gguf_embed.ingest.rows import Manifest


_STOPS = (signal.SIGINT, signal.SIGTERM)


def exit_code(outcome: Outcome) -> int:
    if outcome.error is not None:
        return 1
    return EXIT_CODE if outcome.is_stopped else 0


def is_searchable(flags: IngestFlags, manifest: Manifest, outcome: Outcome) -> bool:
    """Whether the job has ended well, and `search` finds its rows."""
    counters = outcome.counters
    has_rows = bool(counters.n_stored or counters.n_unchanged) and not flags.dry_run
    has_ended = outcome.error is None and not outcome.is_stopped
    is_weighed = not manifest.idf or flags.to.startswith("qdrant")  # see the sink of Milvus
    is_comparable = is_weighed or manifest.dimensions > 0
    return has_ended and has_rows and is_comparable and not flags.to.startswith("null:")


def search_command(flags: IngestFlags) -> str:
    """As it is typed in a shell. Without -m, `search` uses the model that the rows name."""
    model = [] if flags.model is None else ["-m", flags.model]
    endpoint = ["--endpoint", flags.endpoint[0]] if flags.endpoint else []
    return f'gguf-embed search {shlex.join([without_password(flags.to), *model, *endpoint])} "..."'


def without_password(url: str) -> str:
    """A sink's URL as it may stand in a log."""
    return re.sub(r"(://[^/@]*?):[^/@]*@", r"\1:PASSWORD@", url)


class StopSignals:
    """Lets the first Ctrl-C, or SIGTERM, stop a job, and the second one end the process.

    A thread reacts to them, since a signal's handler interrupts code of the main thread that may hold a lock, such as
    stdout's. Handlers are as before after the block.
    """

    def __init__(self) -> None:
        self._before = {number: signal.getsignal(number) for number in _STOPS}
        self._read_end, self._write_end = os.pipe()
        self._thread: threading.Thread | None = None
        self._n_received = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        os.close(self._write_end)  # the thread ends
        if self._thread is not None:
            self._thread.join()
        os.close(self._read_end)

    def stop(self, job: Job, report: Report) -> None:
        """From now on: store what is being embedded and close what is open, or end the process.

        Ending it loses no more than a crash: the next run writes what is not noted as stored.
        """
        self._thread = threading.Thread(target=self._react, args=(job, report), name="ingest-stop", daemon=True)
        self._thread.start()
        for number in _STOPS:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: object) -> None:
        self._n_received += 1
        if self._n_received > 2:  # the thread cannot print
            quit_now("stopped")
        os.write(self._write_end, b"x")

    def _react(self, job: Job, report: Report) -> None:
        if not os.read(self._read_end, 1):
            return
        if job.is_over:
            report.say("the job has ended, and closes its connections; press Ctrl-C again to end at once")
        else:
            job.stop()
            report.say(f"stopping: {rows(job.n_to_store)} left to store; press Ctrl-C again to end at once")
        if os.read(self._read_end, 1):
            report.close()
            quit_now(f"stopped; {GOES_ON}" if job.is_stopped else "stopped")
