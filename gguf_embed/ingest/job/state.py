"""What a job knows about its sink: which documents are stored, with which content. SQLite, one file per sink."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from gguf_embed.errors import ConfigError, EngineFailure

SCHEMA = """
create table if not exists job(key text primary key, value text not null) without rowid;
create table if not exists done(
  doc text primary key, hash text not null, n_chunks integer not null, run integer not null, source text not null
) without rowid;
create table if not exists pending(doc text primary key, n_chunks integer not null, run integer not null) without rowid;
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the state says of one document."""

    hash: str  # of what is stored completely; "": nothing
    n_chunks: int  # chunks that may be stored, of an unfinished attempt too: those from 0 to this
    is_pending: bool  # an attempt to write it did not finish
    is_seen: bool  # in this run


@dataclass(frozen=True, slots=True)
class Finished:
    """A document whose rows are stored."""

    doc: str
    hash: str
    n_chunks: int


class JobState:
    """All methods may be called from any thread. Raises `EngineFailure` if the disk fails."""

    def __init__(self, path: Path, source: str) -> None:
        """`source` names the source of this run. Raises `ConfigError` if another job uses the file."""
        self.path = path
        self._source = source
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=0.5, isolation_level=None, check_same_thread=False)
            self._db.execute("pragma locking_mode = exclusive")  # a second job must not use the same state
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = full")
            self._db.executescript(SCHEMA)
            self._db.execute("begin immediate")
            self._db.execute("commit")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise ConfigError(f"another job is using the state {path}: wait for it, or stop it") from error
            raise ConfigError(f"the state {path} cannot be used ({error}): name another file with --state") from error
        except (sqlite3.DatabaseError, OSError) as error:
            raise ConfigError(f"the state {path} cannot be used ({error}): name another file with --state") from error
        self._run = 0

    # Facts about the job

    def ingest_id(self) -> str:
        """That of the sink that this state describes; "" for a new state."""
        return self._fact("ingest_id")

    def run_tokens(self) -> tuple[str, ...]:
        """What the sink's manifest may have as the token of the last run."""
        return self._fact("run_token"), self._fact("next_run_token")

    def describe_sink(self, ingest_id: str, next_run_token: str) -> None:
        """Called before the sink gets the token of this run."""
        self._set_facts(ingest_id=ingest_id, next_run_token=next_run_token)

    def confirm_sink(self, run_token: str) -> None:
        """Called when the sink has it."""
        self._set_facts(run_token=run_token, next_run_token=run_token)

    def _set_facts(self, **facts: str) -> None:
        with self._transaction() as db:
            db.executemany("insert or replace into job values (?, ?)", facts.items())

    def start_run(self) -> None:
        with self._transaction() as db:
            self._run = int(self._fact("run") or 0) + 1
            db.execute("insert or replace into job values ('run', ?)", (str(self._run),))

    def _fact(self, key: str) -> str:
        found = self._db.execute("select value from job where key = ?", (key,)).fetchone()
        return found[0] if found else ""

    # Documents

    def find(self, docs: Sequence[str]) -> dict[str, Stored]:
        """What is known of these documents; those of which nothing is known are left out."""
        ids = orjson.dumps(docs).decode()
        with self._transaction() as db:
            done = db.execute(
                "select doc, hash, n_chunks, run from done where doc in (select value from json_each(?))", (ids,)
            ).fetchall()
            pending = db.execute(
                "select doc, n_chunks, run from pending where doc in (select value from json_each(?))", (ids,)
            ).fetchall()
        found = {doc: Stored(hash_, n, False, run == self._run) for doc, hash_, n, run in done}
        for doc, n_chunks, run in pending:
            known = found.get(doc)
            found[doc] = Stored(
                known.hash if known else "",
                max(n_chunks, known.n_chunks if known else 0),
                True,
                run == self._run or (known is not None and known.is_seen),
            )
        return found

    def mark_seen(self, docs: Iterable[str]) -> None:
        """Stored documents that are in the source still, and unchanged or unusable: they are not to be pruned."""
        with self._transaction() as db:
            db.executemany(
                "update done set run = ?, source = ? where doc = ?", ((self._run, self._source, doc) for doc in docs)
            )

    def intend(self, n_chunks: Mapping[str, int]) -> None:
        """Called before the first row of these documents is written."""
        with self._transaction() as db:
            db.executemany(
                "insert into pending values (?, ?, ?) on conflict(doc) do update set "
                "n_chunks = max(n_chunks, excluded.n_chunks), run = excluded.run",
                ((doc, n, self._run) for doc, n in n_chunks.items()),
            )

    def finish(self, written: Sequence[Finished], failed: Sequence[str], removed: Sequence[str] = ()) -> None:
        """Called when rows are stored for good: `written` is. `failed` keeps what was stored; `removed` has no rows."""
        with self._transaction() as db:
            db.executemany(
                "insert or replace into done values (?, ?, ?, ?, ?)",
                ((doc.doc, doc.hash, doc.n_chunks, self._run, self._source) for doc in written),
            )
            db.executemany("delete from pending where doc = ?", ((doc.doc,) for doc in written))
            db.executemany("delete from pending where doc = ?", ((doc,) for doc in failed))
            db.executemany(
                "update done set run = ?, source = ? where doc = ?", ((self._run, self._source, doc) for doc in failed)
            )
            db.executemany("delete from pending where doc = ?", ((doc,) for doc in removed))
            db.executemany("delete from done where doc = ?", ((doc,) for doc in removed))

    def n_gone(self) -> int:
        """How many documents of this run's source are stored, but were not seen in this run."""
        with self._transaction() as db:
            return int(db.execute("select count(*) from done where run <> ? and source = ?", self._own).fetchone()[0])

    def gone(self, n: int, *, of_all_sources: bool = False) -> list[tuple[str, int]]:
        """The first `n` of them, with the number of their chunks."""
        with self._transaction() as db:
            if of_all_sources:
                return db.execute("select doc, n_chunks from done where run <> ? limit ?", (self._run, n)).fetchall()
            query = "select doc, n_chunks from done where run <> ? and source = ? limit ?"
            return db.execute(query, (*self._own, n)).fetchall()

    def half_written(self, n: int) -> list[tuple[str, int]]:
        """The first `n` documents that an earlier run began to write, and that this one did not see."""
        with self._transaction() as db:
            return db.execute(
                "select p.doc, max(p.n_chunks, coalesce(d.n_chunks, 0)) "
                "from pending p left join done d on d.doc = p.doc where p.run <> ? limit ?",
                (self._run, n),
            ).fetchall()

    @property
    def _own(self) -> tuple[int, str]:
        return self._run, self._source

    def has_pending(self) -> bool:
        """Whether an earlier run ended while it was writing."""
        with self._transaction() as db:
            return db.execute("select 1 from pending limit 1").fetchone() is not None

    def replace_all(self, stored: Iterable[Finished]) -> None:
        """Forget everything, and take these documents as stored, of no source."""
        with self._transaction() as db:
            db.execute("delete from done")
            db.execute("delete from pending")
            db.execute("delete from job")
            db.executemany(
                "insert or replace into done values (?, ?, ?, 0, '')",
                ((doc.doc, doc.hash, doc.n_chunks) for doc in stored),
            )

    def n_documents(self) -> int:
        with self._transaction() as db:
            return int(db.execute("select count(*) from done").fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("begin")
                try:
                    yield self._db
                except BaseException:
                    self._db.execute("rollback")
                    raise
                self._db.execute("commit")
            except sqlite3.Error as error:
                raise EngineFailure(f"the state {self.path} could not be written: {error}") from error

    def close(self) -> None:
        with self._lock:
            self._db.close()
