"""What SQLite and DuckDB have in common: one file, and a table of manifests beside those of rows."""

from __future__ import annotations

MANIFEST_TABLE = "gguf_embed_manifest"
CREATE_MANIFESTS = f"create table if not exists {MANIFEST_TABLE} (name text primary key, manifest text not null)"
SELECT_MANIFEST = f"select manifest from {MANIFEST_TABLE} where name = ?"
REPLACE_MANIFEST = f"insert or replace into {MANIFEST_TABLE} values (?, ?)"


def quoted(name: str) -> str:
    """As the name of a table or column."""
    return '"' + name.replace('"', '""') + '"'
