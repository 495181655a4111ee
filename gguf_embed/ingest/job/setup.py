"""From what a user asked for to the parts of a job."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.chunking.chunker import Chunker
from gguf_embed.ingest.chunking.settings import ChunkSettings, parse_chunk_flag
from gguf_embed.ingest.pool.base import EmbedPool
from gguf_embed.ingest.rows import DocumentBatch
from gguf_embed.ingest.sources.base import Source, SourceOptions, TextKind
from gguf_embed.ingest.sources.open import open_source

AUTO_CHUNK_TOKENS = 256
N_SPECIAL = 4
"""Special tokens around a text, with room for a word that is divided otherwise when its chunk stands alone."""


class SourceChain:
    """Implements `Source`: several sources, one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._at = 0
        self.name = ", ".join(source.name for source in sources)

    @property
    def kind(self) -> TextKind:
        """Of the source that is being read."""
        return self._sources[self._at].kind

    def batches(self, n_rows: int) -> Iterator[DocumentBatch]:
        for number, source in enumerate(self._sources):
            self._at = number
            yield from source.batches(n_rows)

    def share_read(self) -> float | None:
        share = self._sources[self._at].share_read()
        return None if share is None else (self._at + share) / len(self._sources)

    def close(self) -> None:
        for source in self._sources:
            source.close()


def open_sources(locations: Sequence[str], options: SourceOptions) -> Source:
    """Raises `ConfigError` for the first one that cannot be opened."""
    sources: list[Source] = []
    try:
        for location in locations:
            sources.append(open_source(location, options))  # those before are closed on an error
    except BaseException:
        for source in sources:
            source.close()
        raise
    names = [source.name for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None and not options.id_field:
        for source in sources:
            source.close()
        raise ConfigError(
            f"two sources are called {twice!r}, so rows without ids could not be told apart: read their folder "
            "instead, or name the field with the ids with --id-field"
        )
    return sources[0] if len(sources) == 1 else SourceChain(sources)


@dataclass(frozen=True, slots=True)
class Chunking:
    """How documents are cut. None: they are stored whole."""

    settings: ChunkSettings | None
    chunker: Chunker | None


def choose_chunking(flag: str, pool: EmbedPool, has_documents: bool) -> Chunking:
    """`flag` is that of `--chunk`; "auto" cuts the files of folders, and leaves rows whole. Raises `ConfigError`."""
    if flag == "auto":
        settings = ChunkSettings(AUTO_CHUNK_TOKENS) if has_documents else None
    else:
        settings = parse_chunk_flag(flag)
    if settings is None:
        return Chunking(None, None)
    prompt = pool.facts.prompt
    n_prompt = len(pool.token_offsets(prompt) or prompt.split()) if prompt else 0
    chunker = Chunker(
        settings, pool.token_offsets, max_tokens=pool.facts.max_tokens, n_special=N_SPECIAL + n_prompt
    )  # fmt: skip
    return Chunking(settings, chunker)


def default_state_path(sink: str, environment: Mapping[str, str], home: Callable[[], Path] = Path.home) -> Path:
    """A file for this sink in the user's state folder. Raises `ConfigError` if there is none."""
    base = environment.get("XDG_STATE_HOME", "")
    try:
        folder = Path(base) if base else home() / ".local" / "state"
    except RuntimeError as error:
        raise ConfigError("there is no home directory to keep the job's state in: name a file with --state") from error
    return folder / "gguf-embed" / f"{hashlib.blake2b(sink.encode(), digest_size=12).hexdigest()}.db"


def name_of_sink(sink: str) -> str:
    """The same for every way to write a relative path."""
    scheme, _, rest = sink.partition(":")
    path = rest.partition("?")[0]
    if path.startswith("//") and not path.startswith("///"):
        return sink
    return f"{scheme}:{os.path.abspath(os.path.expanduser(path))}?{rest.partition('?')[2]}"
