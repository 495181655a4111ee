"""The main text of HTML files as Markdown, by trafilatura."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.rows import BadRow
from gguf_embed.ingest.sources.input_file import reason_of

DECLARED = re.compile(rb"""charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)


def html_reader() -> Callable[[Path], str | BadRow]:
    """From a file to its text, without menus and footers."""
    try:
        import trafilatura
    except ImportError:
        raise ConfigError("an HTML file needs the package trafilatura: pip install 'gguf-embed[html]'") from None
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)

    def read(path: Path) -> str | BadRow:
        content = decoded(path.read_bytes())
        try:
            text = trafilatura.extract(content, output_format="markdown", include_comments=False)
        except Exception as error:  # of the parsers below it
            return BadRow(f"is not readable HTML: {reason_of(error)}")
        return text or BadRow("has no main text")

    return read


def decoded(content: bytes) -> str | bytes:
    """By UTF-8, or the encoding that its beginning names; bytes if neither fits."""
    declared = DECLARED.search(content[:2048])
    for encoding in ("utf-8", declared[1].decode("ascii") if declared else "utf-8"):
        try:
            return content.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return content
