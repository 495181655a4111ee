"""What is known about a file and a batch: frozen values, their JSON on the disk, and the steps of a batch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

import orjson

FILE_ID = re.compile(r"file-[0-9a-f]{32}", re.ASCII)
BATCH_ID = re.compile(r"batch_[0-9a-f]{32}", re.ASCII)


class Status(StrEnum):
    """OpenAI's names."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


_ENDS = frozenset({Status.COMPLETED, Status.FAILED, Status.EXPIRED, Status.CANCELLED})
NEXT: Mapping[Status, frozenset[Status]] = {
    Status.VALIDATING: frozenset({Status.IN_PROGRESS, Status.FAILED, Status.CANCELLING, Status.EXPIRED}),
    Status.IN_PROGRESS: frozenset({Status.FINALIZING, Status.CANCELLING}),
    Status.FINALIZING: _ENDS - {Status.CANCELLED},
    Status.CANCELLING: frozenset({Status.CANCELLED}),
    **dict.fromkeys(_ENDS, frozenset()),
}
"""Which status may follow which."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One stored file. Its content is beside the record, under its id."""

    id: str
    owner: str  # of the API key, see `Store.owner_of`; "": a server without keys
    number: int  # ascending in the order of creation
    n_bytes: int
    created_at: int  # seconds since 1970, like all times here
    filename: str  # as the client wrote it; never a path
    purpose: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class LineError:
    """Why a batch failed before any line was computed. `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One batch."""

    id: str
    owner: str
    number: int
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    output_kept_s: int  # how long output and error file are kept
    user_agent: str = ""  # of the client, which decides what token ids mean
    metadata: Mapping[str, str] | None = None
    status: Status = Status.VALIDATING
    ends_as: Status = Status.COMPLETED  # what follows `finalizing`
    model: str | None = None
    errors: tuple[LineError, ...] = ()
    n_requests: int = 0
    n_completed: int = 0
    n_failed: int = 0
    n_tokens: int = 0
    is_written: bool = False  # all its lines are: their counts are final, and the ids of their files chosen
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None

    @property
    def is_over(self) -> bool:
        return self.status in _ENDS

    @property
    def key(self) -> str:
        """32 hexadecimal digits, in the id of each of its output lines."""
        return self.id.removeprefix("batch_")

    @property
    def ended_at(self) -> int | None:
        ends = (self.completed_at, self.failed_at, self.expired_at, self.cancelled_at)
        return next((end for end in ends if end is not None), None)


def moved(batch: Batch, status: Status, now_s: int, **changes: Any) -> Batch:
    """The batch in its next status, with the time of the change. Raises `ValueError` for a step that does not exist."""
    if status not in NEXT[batch.status]:
        raise ValueError(f"{batch.id} is {batch.status}, which {status} cannot follow")
    changes[f"{status}_at"] = now_s
    return replace(batch, status=status, **changes)


def dump(record: FileRecord | Batch) -> bytes:
    """The record as JSON."""
    return orjson.dumps(record)


def load_file(raw: bytes) -> FileRecord:
    """Raises `ValueError` for what is no record of a file."""
    found = FileRecord(**_known(raw, FileRecord))
    if not FILE_ID.fullmatch(found.id):
        raise ValueError(f"{found.id!r} is not the id of a file")
    return found


def load_batch(raw: bytes) -> Batch:
    """Raises `ValueError` for what is no record of a batch."""
    given = _known(raw, Batch)
    given["status"], given["ends_as"] = Status(given["status"]), Status(given["ends_as"])
    given["errors"] = tuple(LineError(**error) for error in given["errors"])
    found = Batch(**given)
    ids = (found.input_file_id, *filter(None, (found.output_file_id, found.error_file_id)))
    if not BATCH_ID.fullmatch(found.id) or not all(map(FILE_ID.fullmatch, ids)):
        raise ValueError(f"{found.id!r} is not the id of a batch, or an id in it is not that of a file")
    return found


def _known(raw: bytes, kind: type[FileRecord | Batch]) -> dict[str, Any]:
    """The fields that this version knows, so that an older server can read the folder of a newer one."""
    given = orjson.loads(raw)
    if not isinstance(given, dict):
        raise ValueError("the record is not an object")
    names = {entry.name for entry in fields(kind)}
    try:
        return {name: value for name, value in given.items() if name in names}
    except TypeError as exc:
        raise ValueError(str(exc)) from exc


@dataclass(frozen=True, slots=True)
class StoredBatches:
    """What the folder holds: batches by status, the requests of unfinished ones that wait, and bytes."""

    n_batches: Mapping[str, int]
    n_waiting_requests: int = 0
    used_bytes: int = 0


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What batches may take. None: no limit."""

    max_total_bytes: int = 10 * 2**30  # of everything in the folder
    max_file_bytes: int = 200 * 2**20  # OpenAI's, as the next two
    max_requests: int | None = 50_000
    max_inputs: int | None = 50_000
    max_line_bytes: int = 64 * 2**20  # the server's limit on a body
    max_files: int = 10_000
    max_active: int = 100  # batches of a key that are not over
    max_batches: int = 10_000  # in all
    min_free_bytes: int = 256 * 2**20  # what is left to others on the disk
    is_shared: bool = False  # by several API keys, of which none may take everything
    kept_s: int = field(default=30 * 86_400)  # files without an expiry, and batches after their end
