"""Whether a sink's vectors may be mixed with those of this job. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import numpy as np

from gguf_embed import __version__
from gguf_embed.errors import ConfigError
from gguf_embed.ingest.chunking.settings import flag_of, in_words
from gguf_embed.ingest.pool.base import ModelFacts
from gguf_embed.ingest.rows import Manifest
from gguf_embed.types import MULTIVECTOR, SPARSE, FloatMatrix

MIN_PROBE_COSINE = 0.999
PROMPT = "the prompt before each text"
VECTORS = "the kinds of vectors"


def new_manifest(facts: ModelFacts, chunking: str, probes: FloatMatrix) -> Manifest:
    """For a new sink. `probes` float32[n_probes, n_dims]: the vectors of `PROBE_TEXTS`."""
    return Manifest(
        ingest_id=uuid4().hex,
        model=facts.name,
        fingerprint=facts.fingerprint,
        dimensions=facts.dimensions,
        pooling=facts.pooling,
        normalized=facts.normalized,
        prompt=facts.prompt,
        chunking=chunking,
        vectors=facts.vectors,
        multivector_dimensions=facts.multivector_dimensions,
        n_vocab=facts.n_vocab,
        idf=facts.idf,
        probes=tuple(tuple(float(x) for x in row) for row in probes),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
    )


def differences(stored: Manifest, wanted: Manifest) -> list[str]:
    """In words, what the stored rows were made with, and what this job would make them with."""
    found = []
    if stored.fingerprint and wanted.fingerprint and stored.fingerprint != wanted.fingerprint:
        found.append(
            f"the model file ({stored.model}, {stored.fingerprint[:19]}…; now {wanted.model}, "
            f"{wanted.fingerprint[:19]}…)"
        )
    elif not (stored.fingerprint and wanted.fingerprint) and _differ(stored.probes, wanted.probes):
        found.append(f"the model ({stored.model}; now {wanted.model}: their vectors for the same texts differ)")
    pairs: Sequence[tuple[str, object, object]] = (
        (VECTORS, _in_words(stored), _in_words(wanted)),
        ("the number of dimensions", stored.dimensions, wanted.dimensions),
        ("the pooling", stored.pooling or wanted.pooling, wanted.pooling or stored.pooling),
        ("normalization", _words(stored.normalized), _words(wanted.normalized)),
        (PROMPT, repr(stored.prompt), repr(wanted.prompt)),
        ("the chunks", in_words(stored.chunking), in_words(wanted.chunking)),
    )
    found += [f"{name} ({was}; now {now})" for name, was, now in pairs if was != now]
    return found


def check_same(stored: Manifest, wanted: Manifest, name: str) -> None:
    """Raises `ConfigError` that names every difference."""
    found = differences(stored, wanted)
    if not found:
        return
    if not have_same_columns(stored, wanted):
        raise ConfigError(f"{name} has rows that differ in {'; '.join(found)}: write into another one")
    keep = f"keep its chunks with --chunk {flag_of(stored.chunking)}, " if stored.chunking != wanted.chunking else ""
    raise ConfigError(
        f"{name} has rows that differ in {'; '.join(found)}: {keep}write into another one, "
        "or replace all its rows with --force"
    )


def have_same_columns(stored: Manifest, wanted: Manifest) -> bool:
    """Whether rows of one fit a table that was made for the other."""
    return stored.dimensions == wanted.dimensions and _in_words(stored) == _in_words(wanted)


def _in_words(manifest: Manifest) -> str:
    sizes = {SPARSE: manifest.n_vocab, MULTIVECTOR: manifest.multivector_dimensions}
    return ", ".join(f"{kind} of {sizes[kind]}" if kind in sizes else kind for kind in manifest.vectors)


def _words(normalized: bool) -> str:
    return "on" if normalized else "off"


def _differ(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> bool:
    """Whether two models' vectors of the same texts differ; unknown ones do not."""
    if not one or not other:
        return False
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if a.shape != b.shape:
        return True
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return bool(((a * b).sum(axis=1) < MIN_PROBE_COSINE * lengths).any())


def check_same_model(stored: Manifest, facts: ModelFacts, probes: FloatMatrix, name: str) -> None:
    """Whether a query's vector can be compared with what is stored. Raises `ConfigError`."""
    wanted = new_manifest(facts, stored.chunking, probes)
    found = [line for line in differences(stored, wanted) if not line.startswith((PROMPT, VECTORS))]
    if found:
        raise ConfigError(
            f"the rows of {name} were made with another model: they differ in {'; '.join(found)}; search with "
            f"{stored.model}"
        )


def check_same_file(stored: Manifest, facts: ModelFacts, name: str) -> None:
    """The same, of models whose files are known: before anything is embedded, which other dimensions would forbid."""
    if stored.fingerprint and facts.fingerprint:
        check_same_model(stored, replace(facts, dimensions=stored.dimensions), np.zeros((0, 0), np.float32), name)
