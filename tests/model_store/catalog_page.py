"""The table in docs/models.md, made from the catalog; `python -m tests.model_store.catalog_page` regenerates it."""

from __future__ import annotations

from pathlib import Path

from gguf_embed.cli.catalog_table import size_text, source_label
from gguf_embed.model_store.catalog import CatalogRow, load_catalog

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
COLUMNS = (
    *("Name", "Further names", "Kind", "Size", "Languages", "Dimensions", "Context", "Pooling", "Prompts", "License"),
    "From",
)
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"


def table() -> str:
    return HEAD + "".join(table_row(row) for row in load_catalog().rows)


def table_row(row: CatalogRow) -> str:
    way = source_label(row).replace("|", "\\|")
    cells = (
        f"[{row.name}]({row.source})",
        ", ".join(f"`{alias}`" for alias in row.aliases),
        row.kind,
        size_text(row),
        ", ".join(row.languages),
        ", ".join(map(str, row.matryoshka or (row.dimensions,))),
        str(row.context or "any"),
        str(row.pooling or ""),
        ", ".join(row.prompts),
        row.license,
        way if row.verified or row.not_yet else f"{way} (not checked)",
    )
    return "| " + " | ".join(cells) + " |\n"


def page_with_table(page: str) -> str:
    """The page with its last table replaced."""
    return page[: page.index(HEAD.splitlines()[0])] + table()


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text("utf-8")), "utf-8")
