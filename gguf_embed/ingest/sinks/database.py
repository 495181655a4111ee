"""What the sinks in databases share: columns of a batch, and errors in one line."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import pyarrow as pa

from gguf_embed.errors import ConfigError, Unavailable
from gguf_embed.ingest.rows import METADATA_KEYS, STORED, row_schema
from gguf_embed.ingest.sinks.open import SinkUrl

_STORED_SCHEMA = pa.schema([row_schema(1).field(name) for name in STORED])


def require(module: str, package: str, extra: str) -> Any:
    """The module of a package that comes with an extra. Raises `ConfigError` if it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] != module.partition(".")[0]:
            raise ConfigError(f"the package {package} cannot be loaded: {one_line(error)}") from error
        raise ConfigError(f"this sink needs the package {package}: pip install 'gguf-embed[{extra}]'") from error


def lists(rows: pa.RecordBatch) -> dict[str, list[Any]]:
    """The columns besides the vectors, as Python objects."""
    return {name: rows.column(name).to_pylist() for name in ("id", *METADATA_KEYS)}


def stored_batch(rows: Sequence[Sequence[Any]]) -> pa.RecordBatch:
    """From rows of the values of `STORED`."""
    by_column = list(zip(*rows, strict=True)) if rows else [()] * len(STORED)
    arrays = [pa.array(values, field.type) for values, field in zip(by_column, _STORED_SCHEMA, strict=True)]
    return pa.record_batch(arrays, schema=_STORED_SCHEMA)


def not_ours(name: str, option: str = "?table=") -> ConfigError:
    """For a table that no job has made."""
    return ConfigError(
        f"{name} has no manifest of gguf-embed, so it is not known what its vectors were made with: "
        f"name another one with {option}, or remove it"
    )


def one_line(error: BaseException, secret: str = "") -> str:
    """What the error says, without line breaks and without the password."""
    text = " ".join(str(error).split()) or type(error).__name__
    if secret:
        text = text.replace(secret, "***")
    return text if len(text) <= 400 else f"{text[:400]}…"


def unreachable(where: str, message: str) -> Unavailable:
    """For a server that gives no answer. `where`: "Qdrant at localhost:6333"."""
    return Unavailable(
        f"{where} does not answer ({message}): check that it is running, and that the address and port in the sink's "
        "URL are right"
    )


def host_and_port(url: SinkUrl, port: int) -> str:
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{host}:{url.port or port}"


def collection_of(url: SinkUrl) -> str:
    """`scheme://host/collection`, or `scheme://host?table=collection`."""
    return url.path.strip("/") or url.table
