"""What a sink in part files keeps in memory while it is written to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pyarrow as pa

from gguf_embed.ingest.sinks.id_hashes import Hashes, IdSet
from gguf_embed.ingest.sinks.part_folder import Contents, Part
from gguf_embed.ingest.sinks.writer_lock import WriterLock


@dataclass(slots=True)
class Writing:
    """What a sink keeps once something is changed."""

    lock: WriterLock
    committed: Contents
    cut: list[Part] = field(default_factory=list)  # on the disk, and not committed
    buffer: list[pa.RecordBatch] = field(default_factory=list)
    n_rows: int = 0
    n_bytes: int = 0
    in_buffer: IdSet = field(default_factory=IdSet)
    removed: list[Hashes] = field(default_factory=list)  # from all parts so far, and not from the buffer
    known: IdSet | None = None  # the ids of all rows; None: not read yet

    def contents(self) -> Contents:
        """With what was cut."""
        return replace(
            self.committed,
            parts=(*self.committed.parts, *self.cut),
            next_part=self.committed.next_part + len(self.cut),
        )
