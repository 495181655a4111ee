"""How a job ends: by a signal or by itself, with which exit code, and what may be done next."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gguf_embed.cli.ingest_report import GOES_ON, rows
from gguf_embed.cli.interrupts import EXIT_CODE, quit_now

if TYPE_CHECKING:
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


def stop_on_signal(job: Job, report: Report) -> None:
    """The first Ctrl-C stores what is being embedded and closes what is open; the second one ends the process.

    That loses no more than a crash: the next run writes what is not noted as stored.
    """
    is_stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal is_stopped
        if is_stopped:
            report.close()
            quit_now(f"stopped; {GOES_ON}" if job.is_stopped else "stopped")
        is_stopped = True
        if job.is_over:
            report.say("the job has ended, and closes its connections; press Ctrl-C again to end at once")
            return
        job.stop()
        report.say(f"stopping: {rows(job.n_to_store)} left to store; press Ctrl-C again to end at once")

    for number in _STOPS:
        signal.signal(number, stop)


@contextmanager
def same_signals_after() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
