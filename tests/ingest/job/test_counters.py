"""What a person sees of a job that is under way."""

from __future__ import annotations

from gguf_embed.ingest.job.counters import Counters, Ledger


def test_rows_that_are_embedded_count_before_they_are_stored():
    counters = Counters(n_read=100, share_read=1.0, n_sent=200)
    assert counters.share_done == 0
    counters.n_embedded = 50
    assert (counters.share_done, counters.n_rows_embedded) == (0.25, 50)
    counters.n_begun, counters.n_settled, counters.n_stored = 120, 50, 25
    assert (counters.share_done, counters.n_to_store) == (0.25, 70)


def test_equal_texts_are_embedded_once():
    counters = Counters(n_read=100, share_read=1.0, n_sent=100, n_settled=60, n_stored=60, n_embedded=10)
    assert (counters.share_done, counters.n_rows_embedded) == (0.6, 60)


def test_a_measured_number_only_rises():
    seen = []
    ledger = Ledger(lambda counters: seen.append(counters.n_embedded))
    for n in (3, 2, 5):
        ledger.raise_to(n_embedded=n)
    assert seen == [3, 3, 5]
