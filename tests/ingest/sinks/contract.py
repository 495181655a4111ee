"""What every sink must do. A test file makes a subclass of `SinkContract` that has a fixture `place`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from gguf_embed.errors import EmbedError
from gguf_embed.ingest.rows import STORED
from gguf_embed.ingest.sinks.base import Sink
from gguf_embed.ingest.sinks.open import open_sink
from tests.ingest.sinks.sample_rows import MANIFEST, N_DIMS, ODD_IDS, by_id, numbered, rows, vectors

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Place:
    """Where the rows of one test go, and how to look at them without the sink.

    `read` returns all rows that are there after `close`, with the columns of `row_schema`, in any order. `put_foreign`
    makes a table, folder or collection at the URL that no job has made.
    """

    url: str
    read: Callable[[], pa.Table]
    put_foreign: Callable[[], None]


def stored_ids(sink: Sink) -> set[str]:
    return set(by_id(sink.stored()))


class SinkContract:
    """A subclass provides the fixture `place`, and may override what its sink cannot do."""

    exact_vectors: ClassVar[bool] = True  # they come back bit by bit; else to five digits
    keeps_lengths: ClassVar[bool] = True  # vectors are not normalized by the database
    zero_vectors: ClassVar[bool] = True  # the database takes a vector of zeros
    survives_kill: ClassVar[bool] = True  # the URL leads another process to the same rows

    def open(self, place: Place) -> Sink:
        return open_sink(place.url)

    @pytest.fixture
    def sink(self, place):
        """Created, empty, ready to be written."""
        sink = self.open(place)
        sink.create(MANIFEST)
        assert sink.prepare("none") is None
        yield sink
        sink.close()

    def reopened(self, sink: Sink, place: Place) -> Sink:
        sink.close()
        return self.open(place)

    def test_nothing_is_there_before_it_is_created(self, place):
        sink = self.open(place)
        assert sink.manifest() is None
        assert sink.name.isprintable()
        sink.close()

    def test_the_manifest_comes_back(self, sink, place):
        assert sink.manifest() == MANIFEST
        again = self.reopened(sink, place)
        assert again.manifest() == MANIFEST
        again.close()

    def test_another_manifest_leaves_the_rows_alone(self, sink, place):
        sink.write(rows(numbered(3)))
        sink.flush()
        other = replace(MANIFEST, chunking="{}", probes=(), extra={"forced": "yes"})
        sink.replace_manifest(other)
        assert sink.manifest() == other
        again = self.reopened(sink, place)
        assert (again.manifest(), stored_ids(again)) == (other, set(numbered(3)))
        again.close()

    def test_what_no_job_has_made_is_refused_and_left_alone(self, place):
        place.put_foreign()
        sink = self.open(place)
        with pytest.raises(EmbedError) as caught:
            sink.manifest()
        assert "\n" not in caught.value.message
        with pytest.raises(EmbedError):
            sink.create(MANIFEST)
        with pytest.raises(EmbedError):
            sink.manifest()
        sink.close()

    def test_all_columns_come_back(self, sink, place):
        written = rows([*ODD_IDS, *numbered(9)], seed=1)
        sink.write(written)
        sink.flush()
        sink.finish("none")
        sink.close()
        self.same_rows(by_id(place.read()), by_id([written]))

    def same_rows(self, found: dict[str, dict[str, object]], expected: dict[str, dict[str, object]]) -> None:
        assert found.keys() == expected.keys()
        for id_, row in expected.items():
            vector, wanted = found[id_].pop("embedding"), row.pop("embedding")
            if self.exact_vectors:
                assert list(vector) == list(wanted), f"the vector of {id_}"
            else:
                assert list(vector) == pytest.approx(list(wanted), abs=1e-5), f"the vector of {id_}"
            assert found[id_] == row

    def test_a_row_with_the_same_id_is_replaced_within_a_flush_and_later(self, sink, place):
        sink.write(rows(numbered(6), seed=1))
        sink.write(rows(numbered(3), seed=2))  # not flushed yet
        sink.flush()
        sink.write(rows(numbered(2, first=1), seed=3))
        sink.write(rows([*numbered(1, first=5), "new"], seed=4))
        sink.flush()
        expected = {
            **by_id([rows(numbered(6), seed=1)]),
            **by_id([rows(numbered(3), seed=2)]),
            **by_id([rows(numbered(2, first=1), seed=3)]),
            **by_id([rows([*numbered(1, first=5), "new"], seed=4)]),
        }
        assert sink.count() == 7
        assert {id_: row["hash"] for id_, row in by_id(sink.stored()).items()} == {
            id_: row["hash"] for id_, row in expected.items()
        }
        sink.finish("none")
        assert sink.count() == 7
        sink.close()
        self.same_rows(by_id(place.read()), expected)

    def test_deleted_rows_are_gone_and_unknown_ids_ignored(self, sink, place):
        sink.write(rows([*ODD_IDS, *numbered(4)]))
        sink.flush()
        sink.delete(["unknown", *ODD_IDS[1:], "doc-0#0", "doc-0"])
        sink.delete([])
        sink.delete(["never there"])
        sink.flush()
        left = {ODD_IDS[0], *numbered(3, first=1)}
        assert (stored_ids(sink), sink.count()) == (left, 4)
        assert not set(ODD_IDS[1:]).intersection(hit.id for hit in sink.search(vectors(1, 5)[0], 20))
        again = self.reopened(sink, place)
        assert stored_ids(again) == left
        again.close()

    def test_a_row_that_is_deleted_before_a_flush_is_gone_and_may_come_back(self, sink):
        sink.write(rows(numbered(4), seed=1))
        sink.delete(numbered(3))
        sink.write(rows(numbered(2), seed=2))
        sink.delete(numbered(1))
        sink.flush()
        assert (stored_ids(sink), sink.count()) == ({"doc-1#0", "doc-3#0"}, 2)
        sink.finish("none")
        assert (stored_ids(sink), sink.count()) == ({"doc-1#0", "doc-3#0"}, 2)

    def test_thousands_of_ids_are_deleted_at_once(self, sink):
        ids = numbered(2_500)
        sink.write(rows(ids))
        sink.flush()
        sink.delete(ids[1:])
        sink.flush()
        assert (stored_ids(sink), sink.count()) == ({ids[0]}, 1)

    def test_what_a_job_needs_to_rebuild_its_state_is_stored(self, sink):
        written = rows(numbered(30))
        sink.write(written)
        sink.flush()
        batches = list(sink.stored())
        assert {tuple(batch.schema.names) for batch in batches} == {STORED}
        assert by_id(batches) == by_id([written.select(list(STORED))])

    @pytest.mark.parametrize("n", [1, 10, 300])
    def test_search_finds_the_exact_neighbours(self, sink, n):
        matrix = vectors(200, seed=7) * (np.arange(200) % 3 + 1).astype(np.float32)[:, None]
        written = rows(numbered(200), matrix=matrix)
        for first in range(0, 200, 50):
            sink.write(written.slice(first, 50))
        sink.flush()
        query = vectors(1, seed=8)[0] * 5
        cosines = matrix @ query / np.linalg.norm(matrix, axis=1) / 5
        nearest = np.argsort(-cosines)[:n]
        hits = sink.search(query, n)
        assert [hit.id for hit in hits] == [f"doc-{i}#0" for i in nearest]
        assert [hit.score for hit in hits] == pytest.approx(cosines[nearest].tolist(), abs=1e-5)
        expected = by_id([written])
        for hit in hits:
            row = expected[hit.id]
            assert (hit.doc_id, hit.text, hit.headings) == (row["doc_id"], row["text"], row["headings"])
            assert json.loads(hit.metadata) == row["metadata"]

    def test_search_does_not_find_what_was_replaced(self, sink):
        matrix = vectors(20, seed=1)
        sink.write(rows(numbered(20), matrix=matrix))
        sink.flush()
        sink.write(rows(["doc-4#0"], matrix=-matrix[4:5], text="new"))
        sink.flush()
        hits = sink.search(matrix[4], 20)
        assert len({hit.id for hit in hits}) == 20
        assert (hits[-1].id, hits[-1].text) == ("doc-4#0", "new")
        assert hits[-1].score == pytest.approx(-1, abs=1e-5)

    def test_an_empty_sink_has_no_rows_and_no_hits(self, sink, place):
        sink.flush()
        sink.finish("after")
        assert (sink.count(), list(sink.stored()), sink.search(vectors(1, 0)[0], 5)) == (0, [], [])
        again = self.reopened(sink, place)
        assert (again.count(), stored_ids(again), again.search(vectors(1, 0)[0], 5)) == (0, set(), [])
        again.close()

    def test_a_vector_of_zeros_has_score_zero(self, sink):
        if not self.zero_vectors:
            pytest.skip("the database refuses vectors of zeros")
        matrix = vectors(3, seed=3)
        matrix[1] = 0
        sink.write(rows(numbered(3), matrix=matrix))
        sink.flush()
        hits = {hit.id: hit.score for hit in sink.search(matrix[0], 3)}
        assert hits["doc-0#0"] == pytest.approx(1, abs=1e-5)
        assert hits.get("doc-1#0", 0) == 0
        assert all(np.isfinite(hit.score) for hit in sink.search(matrix[1], 3))

    def test_everything_is_there_after_it_was_closed(self, sink, place):
        written = rows(numbered(40))
        sink.write(written)
        sink.flush()
        again = self.reopened(sink, place)
        assert again.count() == 40
        assert by_id(again.stored()) == by_id([written.select(list(STORED))])
        again.prepare("none")
        again.write(rows(numbered(40, first=20), seed=2))
        again.flush()
        assert (again.count(), stored_ids(again)) == (60, set(numbered(60)))
        again.close()

    def test_rows_of_another_width_are_refused(self, sink):
        sink.write(rows(numbered(2)))
        sink.flush()
        with pytest.raises(EmbedError, match=rf"\b{N_DIMS + 1}\b.*\b{N_DIMS}\b|\b{N_DIMS}\b.*\b{N_DIMS + 1}\b"):
            sink.write(rows(["wide"], matrix=vectors(1, 0, N_DIMS + 1)))
        sink.flush()
        assert stored_ids(sink) == set(numbered(2))

    def test_a_query_of_another_width_is_refused(self, sink):
        sink.write(rows(numbered(2)))
        sink.flush()
        with pytest.raises(EmbedError, match=rf"\b{N_DIMS + 1}\b"):
            sink.search(vectors(1, 0, N_DIMS + 1)[0], 5)

    def test_rows_are_written_again_after_the_run_was_finished(self, sink, place):
        matrix = vectors(2_000, seed=9)
        written = rows(numbered(2_000), matrix=matrix)
        for first in range(0, 2_000, 300):
            sink.write(written.slice(first, 300))
        sink.flush()
        sink.finish("after")
        assert (sink.count(), sink.search(matrix[70], 1)[0].id) == (2_000, "doc-70#0")
        sink.prepare("keep")
        sink.write(rows(numbered(100, first=1_950), seed=10))
        sink.delete(numbered(10))
        sink.flush()
        sink.finish("after")
        again = self.reopened(sink, place)
        assert (again.count(), stored_ids(again)) == (2_040, set(numbered(2_040, first=10)))
        again.close()

    def test_a_killed_process_loses_nothing_that_it_had_flushed(self, place):
        if not self.survives_kill:
            pytest.skip("no other process reaches these rows")
        command = [sys.executable, "-W", "ignore", "-m", "tests.ingest.sinks.killed_writer", place.url]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "flushed\n"
            process.send_signal(signal.SIGKILL)
        sink = self.open(place)
        assert sink.manifest() == MANIFEST
        flushed = set(numbered(495, first=5))
        unflushed = set(numbered(100, first=500))
        assert flushed <= stored_ids(sink) <= flushed | unflushed
        assert sink.count() == len(stored_ids(sink))
        sink.prepare("none")
        sink.write(rows(numbered(100, first=500), seed=3))
        sink.flush()
        sink.finish("none")
        assert (stored_ids(sink), sink.count()) == (flushed | unflushed, 595)
        sink.close()

    def test_it_may_be_closed_twice(self, sink):
        sink.write(rows(numbered(2)))
        sink.close()
        sink.close()
