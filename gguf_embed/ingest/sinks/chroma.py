"""Chroma: `chroma:folder?table=docs` in this process, `chroma://host:port/docs` with a server."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gguf_embed.errors import ConfigError, EngineFailure
from gguf_embed.ingest.rows import STORED, Hit, Manifest
from gguf_embed.ingest.sinks.base import IndexChoice
from gguf_embed.ingest.sinks.chroma_index import DATABASE, IndexCopies, has_copies, lock_and_restore, remove_copies
from gguf_embed.ingest.sinks.chroma_rows import metadatas_of
from gguf_embed.ingest.sinks.chroma_search import N_FETCHED, nearest
from gguf_embed.ingest.sinks.database import (
    collection_of,
    host_and_port,
    lists,
    not_ours,
    one_line,
    require,
    stored_batch,
    unreachable,
)
from gguf_embed.ingest.sinks.manifest_json import KEY, from_json, to_json
from gguf_embed.ingest.sinks.open import SinkUrl
from gguf_embed.ingest.sinks.row_vectors import matrix_of, require_query_width, require_width
from gguf_embed.ingest.sinks.writer_lock import WriterLock

PORT = 8000
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")


def open_chroma(url: SinkUrl) -> ChromaSink:
    """Raises `ConfigError` for a name that Chroma does not take. The first call connects."""
    collection = collection_of(url) if url.host else url.table
    if not NAME.fullmatch(collection):
        raise ConfigError(
            f"{collection!r} cannot be a collection of Chroma: its name has 3 to 512 letters, digits, dots, "
            "underscores and hyphens, with a letter or digit at both ends"
        )
    if url.password or url.user:
        raise ConfigError("the URL of a Chroma server takes no user and no password: the server checks none")
    return ChromaSink(url, collection)


_one_at_a_time = threading.Lock()
"""For opening and closing a folder: Chroma shares it among the clients of a process, also before it is ready."""


class ChromaSink:
    """One collection. Rows are deleted before they are written again: Chroma would mix old and new metadata."""

    def __init__(self, url: SinkUrl, collection: str) -> None:
        self._url = url
        self._where = host_and_port(url, PORT) if url.host else str(url.file)
        self.name = f"Chroma collection {collection} {'at' if url.host else 'in'} {self._where}"
        self._name = collection
        self._chromadb = require("chromadb", "chromadb", "chroma")
        self._opened: Any = None
        self._found: Any = None
        self._dimensions: int | None = None
        self._lock: WriterLock | None = None
        self._copies: IndexCopies | None = None
        self._unrestored = ""  # why an index was left as it is, though a job may have been killed
        self._is_sound = True  # no call has failed that may have written half of an index

    def manifest(self) -> Manifest | None:
        if not self._url.host and not (self._url.file / DATABASE).exists():
            return None  # opening it would make it
        self._restore()
        try:
            with self._errors(), warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                # it calls every collection whose vectors are not computed by Chroma a legacy
                collection = self._client().get_collection(self._name, embedding_function=None)
        except _Missing:
            return None
        metadata = collection.metadata or {}
        if KEY not in metadata:
            raise not_ours(self.name, "the path of the URL" if self._url.host else "?table=")
        manifest = from_json(metadata[KEY], self.name)
        space = (collection.configuration.get("hnsw") or collection.configuration.get("spann") or {}).get("space")
        if space != "cosine":
            raise ConfigError(f"{self.name} has been changed: its space is {space} instead of cosine")
        self._found, self._dimensions = collection, manifest.dimensions
        return manifest

    def create(self, manifest: Manifest) -> None:
        self._lock_folder()
        with self._errors():
            self._found = self._client().create_collection(
                self._name,
                metadata={KEY: to_json(manifest)},
                configuration={"hnsw": {"space": "cosine"}},
                embedding_function=None,
            )
        self._dimensions = manifest.dimensions

    def replace_manifest(self, manifest: Manifest) -> None:
        collection = self._collection()
        with self._errors():
            collection.modify(metadata={KEY: to_json(manifest)})

    def prepare(self, index: IndexChoice) -> str | None:
        """Chroma always has an index, which it updates in batches."""
        self._lock_folder()
        return None

    def write(self, rows: pa.RecordBatch) -> None:
        collection = self._collection()
        require_width(rows, self._width(), self.name)
        with self._errors():
            for part in self._parts(rows):
                ids = part.column("id").to_pylist()
                self._keep_index()
                known = collection.get(ids=ids, include=[])["ids"]
                if known:
                    self._keep_index()
                    collection.delete(ids=known)
                self._keep_index()
                columns = lists(part)
                # not add, which would leave a row as it is that a killed job's last request stores only now
                collection.upsert(
                    ids=ids, embeddings=matrix_of(part), documents=columns["text"], metadatas=metadatas_of(columns)
                )

    def delete(self, ids: Sequence[str]) -> None:
        collection = self._collection()
        with self._errors():
            step = self._client().get_max_batch_size()
            for first in range(0, len(ids), step):
                self._keep_index()
                collection.delete(ids=list(ids[first : first + step]))

    def flush(self) -> None:
        """Nothing: each call has noted in its log what it has acknowledged."""

    def finish(self, index: IndexChoice) -> None:
        """Nothing is left to be cleaned up."""

    def stored(self) -> Iterator[pa.RecordBatch]:
        collection = self._collection()
        offset = 0
        while True:
            with self._errors():
                found = collection.get(limit=N_FETCHED, offset=offset, include=["metadatas"])
            if not found["ids"]:
                return
            rows = zip(found["ids"], found["metadatas"], strict=True)
            yield stored_batch([[id_, *(metadata[name] for name in STORED[1:])] for id_, metadata in rows])
            offset += N_FETCHED

    def count(self) -> int:
        collection = self._collection()
        with self._errors():
            return int(collection.count())

    def search(self, vector: NDArray[np.float32], n: int) -> list[Hit]:
        collection = self._collection()
        require_query_width(vector, self._width(), self.name)
        with self._errors():
            return nearest(collection, np.asarray(vector, np.float32), n)

    def close(self) -> None:
        try:
            self._close_client()
        finally:
            if self._copies is not None:
                self._copies.close()
                self._copies = None
            if self._lock is not None:
                lock, self._lock = self._lock, None
                try:
                    if self._is_sound:
                        remove_copies(self._url.file)
                finally:
                    lock.release()

    def _close_client(self) -> None:
        if self._opened is not None:
            client, self._opened, self._found = self._opened, None, None
            with self._errors():
                close_client(client)

    def _client(self) -> Any:
        if self._opened is None:
            settings = self._chromadb.config.Settings(anonymized_telemetry=False)
            if self._url.host:
                self._opened = self._chromadb.HttpClient(
                    self._url.host,
                    self._url.port or PORT,
                    ssl=self._url.option("https").lower() in ("1", "true"),
                    settings=settings,
                )
            else:
                with _one_at_a_time:
                    self._opened = self._chromadb.PersistentClient(str(self._url.file), settings=settings)
        return self._opened

    def _collection(self) -> Any:
        if self._found is None and self.manifest() is None:
            raise EngineFailure(f"{self.name} does not exist")
        return self._found

    def _width(self) -> int:
        assert self._dimensions is not None
        return self._dimensions

    def _lock_folder(self) -> None:
        """Chroma lets several processes write to a folder, and their indexes then miss rows of each other."""
        if self._lock is None and not self._url.host:
            self._close_client()  # what it has read may be older
            try:
                self._url.file.mkdir(parents=True, exist_ok=True)
                self._lock = lock_and_restore(self._url.file, self.name)
            except OSError as error:
                raise EngineFailure(f"{self.name} cannot be written: {one_line(error)}") from error

    def _restore(self) -> None:
        """For a reader, unless a job is writing. The index is mostly complete also if it may not be restored."""
        try:
            if not self._url.host and self._lock is None and has_copies(self._url.file):
                self._close_client()
                lock_and_restore(self._url.file, self.name).release()
        except ConfigError:
            pass  # a job is writing: it was not killed
        except OSError as error:
            self._unrestored = one_line(error)

    def _keep_index(self) -> None:
        """Before each call after which Chroma may write the index."""
        if self._lock is not None:
            self._copies = self._copies or IndexCopies(self._url.file, self.name)
            self._copies.keep(self._found.id)

    def _parts(self, rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        step = self._client().get_max_batch_size()
        for first in range(0, len(rows), step):
            yield rows.slice(first, step)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Also raises `_Missing`."""
        errors = self._chromadb.errors
        lost = require("httpx", "chromadb", "chroma").HTTPError  # of the client of a server
        try:
            yield
        except errors.NotFoundError as error:
            raise _Missing(f"{self.name} does not exist") from error
        except lost as error:
            raise unreachable(f"Chroma at {self._where}", one_line(error)) from error
        except Exception as error:  # ChromaError, ValueError, what its Rust part raises, and errors of the disk
            self._is_sound = False
            if self._opened is None and self._url.host:
                raise unreachable(f"Chroma at {self._where}", one_line(error)) from error
            message = one_line(error)
            raise EngineFailure(f"{self.name}: {message}{self._way_out(message)}") from error
        except BaseException:
            self._is_sound = False
            raise

    def _way_out(self, message: str) -> str:
        """Empty if none is known for what Chroma says."""
        if "readonly database" in message:
            return ". Chroma also writes when it reads: do this as a user who may write to the folder"
        if "hnsw segment" not in message:
            return ""
        if self._unrestored:
            who = "search once as a user who may write to the folder"
            return f". A job was killed, and the index cannot be restored ({self._unrestored}): {who}"
        return ". If this comes again, its index is damaged: write all rows anew, into another collection"


def close_client(client: Any) -> None:
    """Also its connections, which Chroma leaves open."""
    owners = (client, getattr(client, "_admin_client", None))
    sessions = [getattr(getattr(owner, "_server", None), "_session", None) for owner in owners]
    with _one_at_a_time:
        client.close()
    for session in sessions:
        if session is not None:
            session.close()


class _Missing(EngineFailure):
    """There is no such collection."""
