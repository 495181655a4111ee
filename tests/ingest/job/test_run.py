"""A job stores every document once, as it is now, whatever happened before."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from dataclasses import replace

import pytest

from gguf_embed.errors import ConfigError, Unavailable
from gguf_embed.ingest.job.reader import Reader
from gguf_embed.ingest.job.run import Job
from gguf_embed.ingest.job.state import JobState
from gguf_embed.ingest.sinks.open import open_sink
from tests.ingest.job.fakes import FACTS, FakePool
from tests.ingest.job.jobs import Place

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau"
DOCUMENTS = {
    f"doc{number}": " ".join(f"{word}-{number}" for word in WORDS.split()[: 1 + number % 19]) for number in range(120)
}


@pytest.fixture(params=[None, "chunks"], ids=["whole", "chunks"])
def place(tmp_path, request) -> Place:
    return Place(tmp_path) if request.param else Place(tmp_path, chunks=None)


def test_every_document_is_stored_with_its_own_vector(place):
    outcome = place.run(DOCUMENTS)
    assert place.stored() == place.expected(DOCUMENTS)
    counters = outcome.counters
    assert (counters.n_read, counters.n_stored, counters.n_unchanged, counters.n_rejected) == (120, 120, 0, 0)
    assert (counters.n_chunks, counters.n_under_way) == (len(place.expected(DOCUMENTS)), 0)
    assert outcome.is_complete
    sink = open_sink(place.sink)
    for row_id, text in list(place.stored().items())[::17]:
        hit = sink.search(place.pool.vector(text), 1)[0]
        assert (hit.id, hit.text) == (row_id, text)
        assert hit.score == pytest.approx(1, abs=1e-5)
        assert hit.metadata == f'{{"n":{len(DOCUMENTS[hit.doc_id])}}}'
    sink.close()


def test_a_second_run_embeds_nothing(place):
    place.run(DOCUMENTS)
    place.pool.texts.clear()
    counters = place.run().counters
    assert (counters.n_stored, counters.n_unchanged, len(place.pool.texts)) == (0, 120, 3)  # the probes
    assert place.stored() == place.expected(DOCUMENTS)


def test_changed_documents_are_replaced_with_the_ends_that_they_had(place):
    place.run(DOCUMENTS)
    changed = {**DOCUMENTS, "doc18": "short now", "doc3": WORDS + " and longer", "new": "a new one"}
    counters = place.run(changed).counters
    assert (counters.n_stored, counters.n_unchanged) == (3, 118)
    assert place.stored() == place.expected(changed)


def test_removed_documents_stay_until_they_are_pruned(place):
    place.run(DOCUMENTS)
    fewer = {doc_id: text for doc_id, text in DOCUMENTS.items() if int(doc_id[3:]) % 3}
    assert place.run(fewer).counters.n_gone == 40
    assert place.stored() == place.expected(DOCUMENTS)
    assert place.run(prune=True).counters.n_pruned == 40
    assert place.stored() == place.expected(fewer)


def test_nothing_is_pruned_after_a_source_that_was_not_read_to_its_end(place):
    place.run(DOCUMENTS)
    assert place.run(limit=10, prune=True).counters.n_pruned == 0
    place.source.write_text('{"id": "a", "text": "b"}\nbroken\n')
    outcome = place.run(prune=True, max_errors=0)
    assert "--max-errors allows 0" in str(outcome.error)
    assert place.stored().items() >= place.expected(DOCUMENTS).items()


def test_pruning_leaves_the_documents_of_another_source(place):
    place.run(DOCUMENTS)
    other = replace(place, folder=place.folder / "other")
    other.folder.mkdir()
    for name in ("sink.db", "state.db"):
        shutil.copy(place.folder / name, other.folder / name)
    counters = other.run({"elsewhere": "some text"}, prune=True).counters
    assert (counters.n_pruned, counters.n_gone) == (0, 0)
    assert other.stored() == {**place.expected(DOCUMENTS), **place.expected({"elsewhere": "some text"})}


def test_documents_that_cannot_be_stored_are_rejected_with_a_reason(place):
    lines = [
        '{"id": "good", "text": "fine"}',
        '{"id": "nul", "text": "a\\u0000b"}',
        '{"id": "half", "text": "\\ud800"}',
        '{"id": "empty", "text": "  "}',
        '{"id": "none"}',
        '{"id": "number", "text": 5}',
        "not JSON",
        '{"id": "good", "text": "again"}',
        '{"id": "long", "text": "unembeddable text"}',
        '{"id": "", "text": "no id"}',
        '{"text": "without an id"}',
    ]
    place.source.write_text("\n".join(lines))
    counters = place.run().counters
    assert (counters.n_read, counters.n_stored, counters.n_rejected, counters.n_under_way) == (11, 3, 8, 0)
    reasons = {reject["place"]: reject["reason"] for reject in place.rejected()}
    assert sorted(int(where.rpartition(":")[2]) for where in reasons) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert "NUL" in reasons["source.jsonl:2"]
    assert "earlier row" in reasons["source.jsonl:8"]
    assert reasons["source.jsonl:9"] == "is too long"
    assert sorted(place.stored().values()) == ["fine", "no id", "without an id"]


def test_a_document_that_can_no_longer_be_embedded_keeps_its_rows(place):
    place.run({"a": "first version", "b": "other"})
    outcome = place.run({"a": "unembeddable now", "b": "other"}, prune=True)
    assert (outcome.counters.n_rejected, outcome.counters.n_pruned) == (1, 0)
    assert place.stored() == place.expected({"a": "first version", "b": "other"})


def test_too_many_rejects_stop_the_job_and_the_next_run_goes_on(place):
    bad = {f"bad{number}": "unembeddable" for number in range(5)}
    outcome = place.run({**DOCUMENTS, **bad}, max_errors=4)
    assert "5 rows were rejected, --max-errors allows 4" in str(outcome.error)
    assert place.run(max_errors=5).is_complete
    assert place.stored() == place.expected(DOCUMENTS)


def test_a_stopped_job_goes_on_where_it_was(place, monkeypatch):
    sent = threading.Event()
    send = Reader._send

    def send_and_stop(reader, window):
        send(reader, window)
        reader.stop()
        sent.set()

    monkeypatch.setattr("gguf_embed.ingest.job.reader.WINDOW_CHUNKS", 30)
    monkeypatch.setattr("gguf_embed.ingest.job.reader.BATCH_ROWS", 10)
    with monkeypatch.context() as patched:
        patched.setattr(Reader, "_send", send_and_stop)
        outcome = place.run(DOCUMENTS)
    assert sent.is_set()
    assert not outcome.is_complete
    assert 0 < outcome.counters.n_stored < 120
    assert outcome.counters.n_stored + outcome.counters.n_under_way == outcome.counters.n_read
    again = place.run()
    assert again.counters.n_unchanged == outcome.counters.n_stored
    assert place.stored() == place.expected(DOCUMENTS)


def test_a_stopped_job_stores_what_is_being_embedded_and_no_more(place, monkeypatch):
    class StoppingPool(FakePool):
        """Stops the job in one of its first calls."""

        def embed(self, texts):
            if len(self.texts) > 16:
                jobs[0].stop()
            return super().embed(texts)

    jobs = []
    run = Job.run
    monkeypatch.setattr(Job, "run", lambda job, *arguments: jobs.append(job) or run(job, *arguments))
    stopped = replace(place, pool=StoppingPool(delay_s=0.05)).run(DOCUMENTS)
    assert stopped.is_stopped
    assert not stopped.is_complete
    assert 0 < stopped.counters.n_stored < 120
    assert stopped.counters.n_to_store <= 16  # rows of a document of which another row was not embedded
    assert place.stored().items() <= place.expected(DOCUMENTS).items()
    assert place.run(prune=True).counters.n_unchanged == stopped.counters.n_stored
    assert place.stored() == place.expected(DOCUMENTS)


def test_a_model_that_fails_ends_the_job_and_nothing_is_lost(place):
    place.run({"a": "first"})
    with pytest.raises(Unavailable, match="gone"):
        place_with_dying_model(place).run({"a": "first", "b": "second"})
    place.run()
    assert place.stored() == place.expected({"a": "first", "b": "second"})


def place_with_dying_model(place: Place) -> Place:
    class DyingPool(FakePool):
        def embed(self, texts):
            if self.texts:
                raise Unavailable("the endpoint is gone")
            return super().embed(texts)

    return replace(place, pool=DyingPool())


# What may not be mixed


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        (replace(FACTS, fingerprint="sha256:other"), "the model file"),
        (replace(FACTS, pooling="cls"), "the pooling"),
        (replace(FACTS, prompt="passage: "), "the prompt before each text"),
        (replace(FACTS, normalized=False), "normalization"),
        (replace(FACTS, dimensions=4), "the number of dimensions"),
        (replace(FACTS, fingerprint="", name="unknown"), "the model (fake; now unknown"),
    ],
)
def test_rows_of_another_model_are_not_mixed(tmp_path, facts, word):
    place = Place(tmp_path)
    place.run(DOCUMENTS)
    pool = FakePool(facts)
    if facts.dimensions == 4:
        pool.vector = lambda text: FakePool.vector(pool, text)[:4]  # type: ignore[method-assign]
    with pytest.raises(ConfigError) as refused:
        replace(place, pool=pool).run()
    assert word in refused.value.message
    assert ("--force" in refused.value.message) == (facts.dimensions == 8)
    assert place.stored() == place.expected(DOCUMENTS)


def test_an_endpoint_of_the_same_model_goes_on(tmp_path):
    place = Place(tmp_path)
    place.run(DOCUMENTS)
    pool = FakePool(replace(FACTS, fingerprint="", name="elsewhere"))
    pool.vector = FakePool().vector  # type: ignore[method-assign]
    assert replace(place, pool=pool).run().counters.n_unchanged == 120


def test_other_chunks_are_refused_and_force_replaces_everything(tmp_path):
    place = Place(tmp_path)
    place.run({**DOCUMENTS, "gone": "not in the source later"})
    other = replace(place, chunks=replace(place.chunks, size=12), pool=FakePool(replace(FACTS, fingerprint="sha256:b")))
    with pytest.raises(ConfigError, match=r"the model file .*; the chunks .*--force"):
        other.run(DOCUMENTS)
    counters = other.run(force=True).counters
    assert (counters.n_stored, counters.n_pruned) == (120, 1)
    assert other.stored() == other.expected(DOCUMENTS)
    assert other.run().counters.n_unchanged == 120


def test_a_sink_that_was_removed_is_noticed(place):
    place.run(DOCUMENTS)
    (place.folder / "sink.db").unlink()
    with pytest.raises(ConfigError, match=r"120 documents are stored in .*, but nothing is there.*--rebuild-state"):
        place.run()
    assert place.run(rebuild_state=True).counters.n_stored == 120
    assert place.stored() == place.expected(DOCUMENTS)


def test_a_sink_that_was_restored_from_a_backup_is_noticed(place):
    place.run(DOCUMENTS)
    backup = (place.folder / "sink.db").read_bytes()
    changed = {**DOCUMENTS, "doc1": "changed since"}
    place.run(changed)
    for name in ("sink.db-wal", "sink.db-shm"):
        (place.folder / name).unlink(missing_ok=True)
    (place.folder / "sink.db").write_bytes(backup)
    with pytest.raises(ConfigError, match=r"does not describe .* as it is now"):
        place.run()
    assert place.run(rebuild_state=True).counters.n_stored == 1
    assert place.stored() == place.expected(changed)


def test_a_lost_state_is_read_again_from_the_sink(place):
    place.run(DOCUMENTS)
    place.state.unlink()
    assert place.run().counters.n_unchanged == 120


def test_a_document_with_missing_rows_is_written_again_after_the_state_was_lost(tmp_path):
    place = Place(tmp_path)
    place.run(DOCUMENTS)
    place.state.unlink()
    with sqlite3.connect(tmp_path / "sink.db") as db:
        assert db.execute("delete from docs where id = 'doc18#1'").rowcount == 1
    db.close()
    counters = place.run().counters
    assert (counters.n_stored, counters.n_unchanged) == (1, 119)
    assert place.stored() == place.expected(DOCUMENTS)


def test_a_table_that_no_job_made_is_refused(tmp_path):
    place = Place(tmp_path)
    with sqlite3.connect(tmp_path / "sink.db") as db:
        db.execute("create table docs(mine text)")
    db.close()
    with pytest.raises(ConfigError, match="docs"):
        place.run(DOCUMENTS)


def test_two_jobs_on_one_state_at_once_are_refused(tmp_path):
    place = Place(tmp_path)
    place.run(DOCUMENTS)
    state = JobState(place.state, "another")
    with pytest.raises(ConfigError, match="another job is using the state"):
        place.run()
    state.close()
    assert place.run().is_complete
