"""A manifest as JSON text, which is how every sink keeps it."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.rows import Manifest
from gguf_embed.types import DENSE

KEY = "gguf_embed"
"""What the manifest is called where a place has names for its metadata."""

NEWEST_FORMAT = 1
_OF_OTHER_KINDS = ("vectors", "multivector_dimensions", "n_vocab", "idf")


def to_json(manifest: Manifest) -> str:
    """One line, ASCII. What an older gguf-embed does not know is left out if there are dense vectors only."""
    written = asdict(manifest)
    if manifest.vectors == (DENSE,):
        written = {name: value for name, value in written.items() if name not in _OF_OTHER_KINDS}
    return json.dumps(written)


def from_json(text: str | bytes, name: str) -> Manifest:
    """Raises `ConfigError` if `name` was made by a newer gguf-embed, or if this is no manifest."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the manifest of {name} is not JSON: {error}") from error
    return from_object(found, name)


def from_object(found: object, name: str) -> Manifest:
    """As `from_json`, from parsed JSON."""
    if not isinstance(found, dict):
        raise ConfigError(f"the manifest of {name} is {type(found).__name__} instead of a JSON object")
    known = {field.name for field in fields(Manifest)}
    unknown = sorted(found.keys() - known)
    if unknown or found.get("format", 1) not in range(1, NEWEST_FORMAT + 1):
        what = f"has the key {unknown[0]!r}" if unknown else f"has format {found['format']!r}"
        raise ConfigError(f"{name} was made by a newer gguf-embed, because its manifest {what}: update gguf-embed")
    try:
        probes = tuple(tuple(float(x) for x in vector) for vector in found.pop("probes", ()))
        return Manifest(probes=probes, vectors=tuple(found.pop("vectors", (DENSE,))), **found)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the manifest of {name} is damaged: {error}") from error
