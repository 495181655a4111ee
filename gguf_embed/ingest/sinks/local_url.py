"""The URLs of sinks on this machine."""

from __future__ import annotations

from pathlib import Path

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.sinks.open import SinkUrl


def local_path(url: SinkUrl) -> Path:
    """Raises `ConfigError` for a URL with a host, as in `parquet://vectors`, and for unknown options."""
    if url.host:
        raise ConfigError(
            f"{url.scheme}://{url.host} names a host, and {url.scheme} writes to this machine: use "
            f"{url.scheme}:{url.host}{'/' if url.path else ''}{url.path}, or three slashes for a path from the root"
        )
    for option in url.options or {}:
        raise ConfigError(f"{url.scheme}: has no option {option!r}; the only one is table, for databases")
    return url.file
