"""Which parts are merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gguf_embed.ingest.sinks.part_folder import Part


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive parts that become one."""

    indices: tuple[int, ...]
    n_rows: int  # that still count
    unchanged: bool = False  # a single part that stays as it is


def plan(parts: Sequence[Part], n_live: Sequence[int], rows_per_part: int) -> list[Group]:
    """Parts with old rows are written anew, and small ones beside them merged until they have `rows_per_part` rows."""
    groups: list[Group] = []
    indices: list[int] = []

    def close() -> None:
        if indices:
            n_rows = sum(n_live[i] for i in indices)
            alone = len(indices) == 1 and n_rows == parts[indices[0]].n_rows
            groups.append(Group(tuple(indices), n_rows, unchanged=alone))
            indices.clear()

    for index, (part, n_rows) in enumerate(zip(parts, n_live, strict=True)):
        if n_rows == part.n_rows >= rows_per_part // 2:
            close()
            groups.append(Group((index,), n_rows, unchanged=True))
            continue
        indices.append(index)
        if sum(n_live[i] for i in indices) >= rows_per_part:
            close()
    close()
    return [group for group in groups if group.n_rows]
