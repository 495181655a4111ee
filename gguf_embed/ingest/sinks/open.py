"""From a URL to a sink: `lancedb:docs.lance?table=notes`, `postgresql://me@db/app?table=docs`, `parquet:vectors`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast
from urllib.parse import parse_qsl, unquote, urlsplit

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.sinks.base import Sink
from gguf_embed.types import DENSE, MULTIVECTOR, SPARSE

OPENERS: Mapping[str, str] = {
    "parquet": "parquet:open_parquet",
    "npy": "npy:open_npy",
    "jsonl": "jsonl:open_jsonl",
    "null": "null:open_null",
    "lancedb": "lance:open_lancedb",
    "sqlite": "sqlite:open_sqlite",
    "duckdb": "duck:open_duckdb",
    "postgresql": "postgres:open_postgres",
    "qdrant": "qdrant:open_qdrant",
    "chroma": "chroma:open_chroma",
    "milvus": "milvus:open_milvus",
    "opensearch": "opensearch:open_opensearch",
    "elasticsearch": "opensearch:open_elasticsearch",
}
"""Scheme → module and function in `gguf_embed.ingest.sinks`, from a `SinkUrl` to a `Sink`."""

VECTORS: Mapping[str, tuple[str, ...]] = {
    "qdrant": (DENSE, SPARSE, MULTIVECTOR),
    "postgresql": (DENSE, SPARSE),
    "milvus": (DENSE, SPARSE),
    "null": (DENSE, SPARSE, MULTIVECTOR),
}
"""The kinds of vectors of sinks that take others than dense ones."""

ALIASES = {"lance": "lancedb", "postgres": "postgresql", "pgvector": "postgresql", "elastic": "elasticsearch"}
DEFAULT_TABLE = "documents"


@dataclass(frozen=True, slots=True)
class SinkUrl:
    """The parts of a sink's URL. `host` is empty for files and folders."""

    scheme: str
    path: str  # of a file or folder; behind a host, without the slash at its beginning
    host: str = ""
    port: int | None = None
    user: str = ""
    password: str = ""
    options: Mapping[str, str] | None = None  # after the question mark, without the table

    table: str = DEFAULT_TABLE

    def __str__(self) -> str:
        """Without the password."""
        if not self.host:
            return f"{self.scheme}:{self.path}?table={self.table}"
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"{self.scheme}://{user}{self.host}{port}/{self.path}?table={self.table}"

    @property
    def file(self) -> Path:
        return Path(self.path).expanduser()

    def option(self, name: str, default: str = "") -> str:
        return (self.options or {}).get(name, default)


def parse_url(text: str) -> SinkUrl:
    """Raises `ConfigError` for an unknown scheme and a URL without a path."""
    scheme, colon, rest = text.partition(":")
    scheme = ALIASES.get(scheme.lower(), scheme.lower())
    if not colon or scheme not in OPENERS:
        from difflib import get_close_matches  # 3 ms, which only an error needs

        if colon and (meant := get_close_matches(scheme, [*OPENERS, *ALIASES], 1)):
            raise ConfigError(f"{text!r} is not the URL of a sink; did you mean {meant[0]}:{rest}?")
        raise ConfigError(
            f"{text!r} is not the URL of a sink: it begins with {', '.join(OPENERS)} and a colon, "
            "for example lancedb:vectors?table=notes"
        )
    try:
        parts = urlsplit(f"sink:{rest}")
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"the URL of the sink cannot be read: {error}") from error
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    table = options.pop("table", DEFAULT_TABLE)
    path = unquote(parts.path)
    if parts.hostname and not rest.startswith("///"):
        path = path.lstrip("/")
    elif not path and scheme != "null":
        raise ConfigError(f"{text!r} names no file or folder: write it after the colon, as in {scheme}:vectors")
    return SinkUrl(
        scheme,
        path,
        parts.hostname or "",
        port,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        options,
        table,
    )


def check_vectors(url: SinkUrl, kinds: Sequence[str]) -> None:
    """Raises `ConfigError` if the sink cannot store one of these kinds of vectors."""
    taken = VECTORS.get(url.scheme, (DENSE,))
    for kind in kinds:
        if kind not in taken:
            able = ", ".join(scheme for scheme, found in VECTORS.items() if kind in found and scheme != "null")
            raise ConfigError(f"a sink of {url.scheme} stores {', '.join(taken)} vectors, not {kind}: {able} can")


def open_sink(text: str) -> Sink:
    """Raises `ConfigError` for a URL that names no sink, `EmbedError`s if it cannot be opened."""
    url = parse_url(text)
    module, _, function = OPENERS[url.scheme].partition(":")
    opener = getattr(import_module(f"gguf_embed.ingest.sinks.{module}"), function)
    return cast(Callable[[SinkUrl], Sink], opener)(url)
