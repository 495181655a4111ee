"""What a person or a program sees of a job: a progress bar, plain lines, or JSON events."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from gguf_embed.ingest.chunking.chunker import Chunker
    from gguf_embed.ingest.job.counters import Counters
    from gguf_embed.ingest.job.rejects import Rejects
    from gguf_embed.ingest.job.run import Outcome
    from gguf_embed.ingest.rows import Manifest

LINE_EVERY_S = 10.0
EVENT_EVERY_S = 1.0
DRAW_EVERY_S = 0.2

GOES_ON = "the same command goes on where this one was stopped"


class Report(Protocol):
    """Shows one run. `update` may be called from any thread, thousands of times per second."""

    def start(
        self, source: str, sink: str, manifest: Manifest, notice: str | None, chunker: Chunker | None
    ) -> None: ...

    def update(self, counters: Counters) -> None: ...

    def say(self, line: str) -> None: ...

    def end(self, outcome: Outcome, rejects: Rejects, *, is_dry: bool) -> None: ...

    def close(self) -> None: ...


class SaysWarnings(logging.Handler):
    """Of the sink, which goes on."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report.say(record.getMessage())


@contextmanager
def open_report(stream: TextIO, *, as_json: bool) -> Iterator[Report]:
    report: Report
    if as_json:
        report = JsonReport(stream)
    elif stream.isatty():
        report = BarReport(stream)
    else:
        report = LineReport(stream)
    log, handler = logging.getLogger("gguf_embed.ingest.sinks"), SaysWarnings(report)
    log.addHandler(handler)
    try:
        yield report
    finally:
        log.removeHandler(handler)
        report.close()


def intro(source: str, sink: str, manifest: Manifest, notice: str | None, chunker: Chunker | None) -> list[str]:
    if chunker is None:
        chunks = "documents are stored whole"
    else:
        counted = "estimated at four bytes each" if chunker.is_estimated else "tokens"
        chunks = f"chunks of up to {chunker.size} {counted}"
    vectors = (
        f"{manifest.dimensions} dimensions" if manifest.dimensions else f"{' and '.join(manifest.vectors)} vectors"
    )
    return [
        f"from   {source}",
        f"to     {sink}",
        f"model  {manifest.model}, {vectors}; {chunks}",
        *([f"note   {notice}"] if notice else []),
    ]


def summary(outcome: Outcome, rejects: Rejects, *, is_dry: bool) -> list[str]:
    """Lines whose numbers add up: read = stored + unchanged + rejected."""
    counters = outcome.counters
    stored = "would be stored" if is_dry else "stored"
    seconds = max(counters.elapsed_s, 1e-9)
    lines = [
        f"{documents(counters.n_read)} read: {counters.n_stored:,} {stored} in {rows(counters.n_chunks)}, "
        f"{counters.n_unchanged:,} unchanged, {counters.n_rejected:,} rejected"
        + (f", {counters.n_under_way:,} not finished" if counters.n_under_way else ""),
        f"{counters.n_tokens:,} tokens in {seconds:,.1f} s, {counters.n_tokens / seconds:,.0f} per second"
        if counters.n_tokens
        else f"nothing had to be embedded; it took {seconds:,.1f} s",
    ]
    lines += [f"rejected: {reject.place} {reject.reason}" for reject in rejects.first]
    if rejects.n > len(rejects.first):
        lines.append(f"and {rejects.n - len(rejects.first):,} more; --rejects FILE writes all of them")
    if counters.n_pruned:
        lines.append(f"{documents(counters.n_pruned)} deleted, which the source no longer has")
    if counters.n_gone:
        lines.append(gone_line(counters.n_gone))
    if outcome.error is not None:
        lines.append("the job did not reach the end of the source; what was read before is stored")
    if outcome.is_stopped:
        lines.append(f"stopped; {GOES_ON}")
    return lines


def documents(n: int) -> str:
    return f"{n:,} document{'' if n == 1 else 's'}"


def rows(n: int) -> str:
    return f"{n:,} row{'' if n == 1 else 's'}"


def gone_line(n: int) -> str:
    if n == 1:
        return "1 stored document is no longer in the source; --prune deletes it"
    return f"{n:,} stored documents are no longer in the source; --prune deletes them"


class LineReport:
    """One line now and then: for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next_s = time.monotonic() + LINE_EVERY_S

    def start(self, source: str, sink: str, manifest: Manifest, notice: str | None, chunker: Chunker | None) -> None:
        for line in intro(source, sink, manifest, notice, chunker):
            self.say(line)

    def update(self, counters: Counters) -> None:
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + LINE_EVERY_S
            self.say(progress_line(counters))

    def say(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def end(self, outcome: Outcome, rejects: Rejects, *, is_dry: bool) -> None:
        for line in summary(outcome, rejects, is_dry=is_dry):
            self.say(line)

    def close(self) -> None:
        pass


def progress_line(counters: Counters) -> str:
    share = "" if counters.share_done is None else f"{counters.share_done:.0%}, "
    return (
        f"{share}{documents(counters.n_read)} read, {rows(counters.n_rows_embedded)} embedded, "
        f"{counters.n_chunks:,} stored, "
        f"{_tokens_per_s(counters):,.0f} tokens/s, "
        f"{counters.n_rejected:,} rejected"
    )


class BarReport(LineReport):
    """A bar that is redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        from gguf_embed.cli.progress import Bar

        self._bar = Bar(stream)
        self._drawn_s = 0.0
        self._is_running = False

    def start(self, source: str, sink: str, manifest: Manifest, notice: str | None, chunker: Chunker | None) -> None:
        super().start(source, sink, manifest, notice, chunker)
        self._bar.begin("embedding")
        self._is_running = True

    def update(self, counters: Counters) -> None:
        now_s = time.monotonic()
        if now_s - self._drawn_s < DRAW_EVERY_S:
            return
        self._drawn_s = now_s
        share = counters.share_done
        self._bar.update(share or 0.0, None if share is None else 1.0, amount(counters))

    def say(self, line: str) -> None:
        if self._is_running:
            self._bar.say(line)
        else:
            super().say(line)

    def end(self, outcome: Outcome, rejects: Rejects, *, is_dry: bool) -> None:
        self.close()
        super().end(outcome, rejects, is_dry=is_dry)

    def close(self) -> None:
        if self._is_running:
            self._is_running = False
            self._bar.stop()


def amount(counters: Counters) -> str:
    """What stands beside the bar: "1,200 rows, 1,000 stored, 900 tokens/s, 2 rejected"."""
    rejected = f", {counters.n_rejected:,} rejected" if counters.n_rejected else ""
    done = f"{rows(counters.n_rows_embedded)}, {counters.n_chunks:,} stored"
    return f"{done}, {_tokens_per_s(counters):,.0f} tokens/s{rejected}"


def _tokens_per_s(counters: Counters) -> float:
    return max(counters.n_tokens, counters.n_embedded_tokens) / max(counters.elapsed_s, 1e-9)


class JsonReport:
    """One JSON object per line, for programs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next_s = 0.0

    def start(self, source: str, sink: str, manifest: Manifest, notice: str | None, chunker: Chunker | None) -> None:
        self._write(
            "start",
            source=source,
            sink=sink,
            model=manifest.model,
            dimensions=manifest.dimensions,
            chunk_tokens=None if chunker is None else chunker.size,
            notice=notice,
        )

    def update(self, counters: Counters) -> None:
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + EVENT_EVERY_S
            self._write("progress", **numbers(counters))

    def say(self, line: str) -> None:
        self._write("message", text=line)

    def end(self, outcome: Outcome, rejects: Rejects, *, is_dry: bool) -> None:
        self._write(
            "end",
            **numbers(outcome.counters),
            complete=outcome.is_complete,
            dry_run=is_dry,
            error=None if outcome.error is None else str(outcome.error),
            reasons=dict(rejects.reasons.most_common(20)),
        )

    def _write(self, event: str, **fields: object) -> None:
        self._stream.write(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        pass


def numbers(counters: Counters) -> dict[str, object]:
    return {
        "read": counters.n_read,
        "stored": counters.n_stored,
        "unchanged": counters.n_unchanged,
        "rejected": counters.n_rejected,
        "embedded": counters.n_rows_embedded,
        "rows": counters.n_chunks,
        "tokens": counters.n_tokens,
        "pruned": counters.n_pruned,
        "gone": counters.n_gone,
        "share_done": counters.share_done,
        "seconds": round(counters.elapsed_s, 3),
    }
