"""The text of PDF files, by pypdf."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.rows import BadRow
from gguf_embed.ingest.sources.documents import MAX_TEXT_BYTES, TOO_LONG
from gguf_embed.ingest.sources.input_file import reason_of


def pdf_reader() -> Callable[[Path], str | BadRow]:
    """From a file to its text, pages separated by blank lines."""
    try:
        import pypdf
    except ImportError:
        raise ConfigError("a PDF file needs the package pypdf: pip install 'gguf-embed[pdf]'") from None
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)

    def read(path: Path) -> str | BadRow:
        try:
            with pypdf.PdfReader(path) as document:
                if document.is_encrypted and not document.decrypt(""):
                    return BadRow("is encrypted")
                return _joined(document)
        except OSError:
            raise
        except pypdf.errors.DependencyError:
            return BadRow("is encrypted")
        except Exception as error:  # a broken file raises whatever its parts were taken for
            return BadRow(f"is not a readable PDF: {reason_of(error)}")

    def _joined(document: pypdf.PdfReader) -> str | BadRow:
        texts: list[str] = []
        n_characters = 0
        for page in document.pages:
            text = page.extract_text().strip()
            if text:
                texts.append(text)
                n_characters += len(text)
            if n_characters > MAX_TEXT_BYTES:
                return BadRow(TOO_LONG)
        return "\n\n".join(texts) if texts else BadRow("has no text: its pages may be images")

    return read
