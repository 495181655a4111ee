"""What `ingest` prints."""

from __future__ import annotations

import io
import json
import logging

import pytest

from gguf_embed.cli.ingest_report import amount, open_report, summary
from gguf_embed.ingest.job.counters import Counters
from gguf_embed.ingest.job.rejects import Rejects
from gguf_embed.ingest.job.run import Outcome


@pytest.mark.parametrize(
    ("n", "lines"),
    [
        (
            1,
            [
                "1 document read: 1 stored in 1 row, 0 unchanged, 0 rejected",
                "1 document deleted, which the source no longer has",
                "1 stored document is no longer in the source; --prune deletes it",
            ],
        ),
        (
            2,
            [
                "2 documents read: 2 stored in 2 rows, 0 unchanged, 0 rejected",
                "2 documents deleted, which the source no longer has",
                "2 stored documents are no longer in the source; --prune deletes them",
            ],
        ),
    ],
)
def test_one_and_several(n, lines):
    counters = Counters(n_read=n, n_stored=n, n_chunks=n, n_pruned=n, n_gone=n, n_tokens=5, busy_s=1)
    printed = summary(Outcome(counters, True), Rejects(None, 0), is_dry=False)
    assert [printed[0], *printed[2:]] == lines
    assert printed[1] == "5 tokens in 1.0 s, 5 per second"


def test_a_stopped_job_can_go_on():
    counters = Counters(n_read=9, n_unchanged=2, busy_s=0.2)
    printed = summary(Outcome(counters, False, is_stopped=True), Rejects(None, 0), is_dry=False)
    assert printed == [
        "9 documents read: 0 stored in 0 rows, 2 unchanged, 0 rejected, 7 not finished",
        "nothing had to be embedded; it took 0.2 s",
        "stopped; the same command goes on where this one was stopped",
    ]


def test_what_is_embedded_stands_beside_the_bar():
    counters = Counters(n_embedded=1200, n_settled=1000, n_chunks=1000, n_embedded_tokens=9000, busy_s=10)
    assert amount(counters) == "1,200 rows, 1,000 stored, 900 tokens/s"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_sink_that_goes_on_with_a_warning_says_so(as_json):
    log, stream = logging.getLogger("gguf_embed.ingest.sinks.of_a_kind"), io.StringIO()
    with open_report(stream, as_json=as_json):
        log.info("this is no news")
        log.warning("the %s is full", "disk")
    log.warning("the job is over")
    said = stream.getvalue()
    assert (json.loads(said)["text"] if as_json else said.rstrip("\n")) == "the disk is full"
