"""The rows that cannot be stored: counted, written to a file, and too many of them end the job."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from gguf_embed.errors import ConfigError, EngineFailure

SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Reject:
    """One row of the source, and why it is not stored."""

    place: str  # "data.jsonl:17"
    doc_id: str
    reason: str  # continues the sentence that begins with the place
    text: str = ""

    def to_json(self) -> bytes:
        shown = self.text[:SHOWN_CHARACTERS].encode("utf-8", "replace").decode()
        doc_id = self.doc_id.encode("utf-8", "replace").decode()
        return orjson.dumps({"place": self.place, "id": doc_id, "reason": self.reason, "text": shown})


class TooManyRejects(EngineFailure):
    """More rows were rejected than the job may reject."""


class Rejects:
    """Any thread."""

    def __init__(self, path: Path | None, max_errors: int) -> None:
        """`max_errors` < 0: no limit. Raises `ConfigError` if the file cannot be written."""
        self._max_errors = max_errors
        self._path = path
        self._lock = threading.Lock()
        self.first: list[Reject] = []
        self.reasons: Counter[str] = Counter()
        self.n = 0
        self._file: BinaryIO | None = None
        if path is not None:
            try:
                self._file = path.open("wb")
            except OSError as error:
                raise ConfigError(
                    f"--rejects {path} cannot be written ({error.strerror}): name another file"
                ) from error

    def add(self, reject: Reject) -> None:
        """Raises `TooManyRejects` for the first one over the limit."""
        with self._lock:
            self.n += 1
            self.reasons[reject.reason] += 1
            if len(self.first) < 5:
                self.first.append(reject)
            if self._file is not None:
                try:
                    self._file.write(reject.to_json() + b"\n")
                    self._file.flush()
                except OSError as error:
                    raise EngineFailure(f"--rejects {self._path} could not be written: {error.strerror}") from error
            if 0 <= self._max_errors < self.n:
                raise TooManyRejects(
                    f"{self.n} rows were rejected, --max-errors allows {self._max_errors}; the last one: "
                    f"{reject.place} {reject.reason}"
                )

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
