"""The metadata of rows, as Chroma stores them."""

from __future__ import annotations

from math import isfinite
from typing import Any

import orjson

from gguf_embed.ingest.rows import METADATA_KEYS


def metadatas_of(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Chroma's metadata are flat. The row's own are stored as JSON, and once more one by one, for filters."""
    names = [name for name in METADATA_KEYS if name != "text"]
    found = []
    for values in zip(*(columns[name] for name in names), strict=True):
        own = dict(zip(names, values, strict=True))
        fields = orjson.loads(own["metadata"])
        found.append({key: value for key, value in fields.items() if _can_be_filtered(key, value)} | own)
    return found


def _can_be_filtered(key: str, value: object) -> bool:
    if not key or key in METADATA_KEYS or key.startswith(("#", "chroma:")):
        return False
    if isinstance(value, int) and not isinstance(value, bool):
        return -(2**63) <= value < 2**63
    return isinstance(value, str | bool) or (isinstance(value, float) and isfinite(value))
