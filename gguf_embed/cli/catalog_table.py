"""The catalog as a table, and which of its models are meant by words and a size."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gguf_embed.cli.table import Column, table_lines
from gguf_embed.model_store.catalog import CatalogRow

LANGUAGES = {
    "arabic": "ar",
    "chinese": "zh",
    "english": "en",
    "french": "fr",
    "german": "de",
    "italian": "it",
    "japanese": "ja",
    "korean": "ko",
    "portuguese": "pt",
    "russian": "ru",
    "spanish": "es",
    "turkish": "tr",
}

_COLUMNS = (
    Column("NAME", shrinks_to=35, folds=True),
    Column("ALIASES", leaves=2, shrinks_to=14),
    Column("SIZE", right=True),
    Column("DIMS", right=True),
    Column("CONTEXT", right=True),
    Column("LANG"),
    Column("KIND"),
    Column("LICENSE", leaves=1),
    Column("FROM", leaves=3, shrinks_to=24),
)


def catalog_lines(rows: Sequence[CatalogRow], width: int | None) -> list[str]:
    """`width`: columns of the terminal; None: everything."""
    return table_lines(_COLUMNS, [_cells(row) for row in rows], width)


def _cells(row: CatalogRow) -> tuple[str, ...]:
    return (
        row.name,
        ", ".join(row.aliases) or "-",
        size_text(row),
        str(row.dimensions or "-"),
        str(row.context or "any"),
        languages_text(row),
        "not yet" if row.not_yet else row.kind,
        row.license or "-",
        source_label(row),
    )


def size_text(row: CatalogRow) -> str:
    """About how large the file is."""
    if not row.size_bytes:
        return "-"
    n_mb = row.size_bytes / 1e6
    return f"~{n_mb:.0f} MB" if n_mb < 999.5 else f"~{n_mb / 1e3:.1f} GB"


def languages_text(row: CatalogRow) -> str:
    """ "en", "de, en", "many", "code"."""
    if "multilingual" in row.languages or len(row.languages) > 3:
        return "many"
    return "code" if "code" in row.languages else ", ".join(row.languages)


def chosen_rows(rows: Sequence[CatalogRow], words: Sequence[str], max_bytes: int | None) -> list[CatalogRow]:
    """The rows that have all of these words in what the table shows, and whose file is not larger.

    A language, "de" or "german", is meant as such, and multilingual models have it.
    """
    return [row for row in rows if all(_has(row, word) for word in words) and _fits(row, max_bytes)]


def _has(row: CatalogRow, word: str) -> bool:
    code = LANGUAGES.get(word.lower(), word.lower())
    if code in LANGUAGES.values():
        return code in row.languages or "multilingual" in row.languages
    return has_words(_searched(row), [word])


def has_words(text: str, words: Sequence[str]) -> bool:
    """Whether all words are in the text; case does not matter."""
    return all(word.lower() in text.lower() for word in words)


def _searched(row: CatalogRow) -> str:
    return " ".join((*row.names, row.kind, row.architecture, row.license, *row.languages, languages_text(row)))


def _fits(row: CatalogRow, max_bytes: int | None) -> bool:
    return max_bytes is None or (row.size_bytes is not None and row.size_bytes <= max_bytes)


def source_label(row: CatalogRow) -> str:
    """The repository that a model comes from, or why it cannot be used yet."""
    if row.not_yet is not None:
        return f"not yet: {row.not_yet}"
    if row.language is not None:
        return "made here"
    return row.repo or f"{row.convert}, converted"


def catalog_json(rows: Sequence[CatalogRow]) -> str:
    return json.dumps([row_fields(row) for row in rows], indent=1, ensure_ascii=False)


def row_fields(row: CatalogRow) -> dict[str, object]:
    """The fields of a row for JSON."""
    fields = {name: getattr(row, name) for name in CatalogRow.__dataclass_fields__}
    return fields | {"prompts": dict(row.prompts), "size_bytes": row.size_bytes}
