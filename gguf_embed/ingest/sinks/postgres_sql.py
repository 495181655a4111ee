"""The SQL of the sink in PostgreSQL."""

from __future__ import annotations

from functools import cached_property
from hashlib import blake2b
from typing import Any

from gguf_embed.ingest.rows import METADATA_KEYS, STORED
from gguf_embed.types import SPARSE

MANIFESTS = "gguf_embed_manifest"
COLUMNS = ("id", *METADATA_KEYS)
COPY_TYPES = ("text", "text", "int4", "int8", "int8", "text", "text", "text", "text")  # of `COLUMNS`

LOCK = f"select pg_advisory_xact_lock(hashtext('{MANIFESTS}'))"
TABLE = (
    "select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = %s and c.relname = %s"
)
VECTOR_TYPES = f"""
    select attname, format_type(atttypid, atttypmod) from pg_attribute
    where attrelid = ({TABLE}) and attname in ('embedding', '{SPARSE}') and not attisdropped order by attname
"""
VECTOR_INDEXES = f"""
    select i.relname from pg_index x join pg_class i on i.oid = x.indexrelid join pg_am a on a.oid = i.relam
    where x.indrelid = ({TABLE}) and a.amname in ('hnsw', 'ivfflat', 'diskann', 'vchordrq', 'vchordg')
    order by i.relname
"""


class Statements:
    """For one table."""

    def __init__(self, schema: str, table: str, n_dims: int = 0, n_vocab: int = 0) -> None:
        """`n_dims`, `n_vocab`: dimensions of its columns with dense and with sparse vectors; 0: it has none of them."""
        self.schema, self.table = schema, table
        dense = {"embedding": f"vector({n_dims})"} if n_dims else {}
        sparse = {SPARSE: f"sparsevec({n_vocab})"} if n_vocab else {}
        self.vector_types = dense | sparse
        self._n_dims = n_dims
        self.place = (schema, table)
        self.index_name = f"{shortened(table)}_embedding_hnsw"

    @property
    def columns(self) -> tuple[str, ...]:
        return (*COLUMNS, *self.vector_types)

    @property
    def copy_types(self) -> list[str]:
        return [*COPY_TYPES, *(kind.partition("(")[0] for kind in self.vector_types.values())]

    @property
    def _schema(self) -> str:
        return quoted(self.schema)

    @cached_property
    def _table(self) -> str:
        return f"{self._schema}.{quoted(self.table)}"

    @cached_property
    def _manifests(self) -> str:
        return f"{self._schema}.{MANIFESTS}"

    @property
    def create_manifests(self) -> str:
        return f"create table if not exists {self._manifests} (table_name text primary key, manifest jsonb not null)"

    @property
    def read_manifest(self) -> str:
        return f"select manifest::text from {self._manifests} where table_name = %s"

    @property
    def write_manifest(self) -> str:
        return (
            f"insert into {self._manifests} values (%s, %s) "
            "on conflict (table_name) do update set manifest = excluded.manifest"
        )

    @property
    def create(self) -> str:
        vectors = ", ".join(f"{name} {kind} not null" for name, kind in self.vector_types.items())
        return (
            f'create table {self._table} (id text primary key, doc_id text not null, chunk integer not null, "start" '
            'bigint not null, "end" bigint not null, hash text not null, headings text not null, text text not null, '
            f"metadata jsonb not null, {vectors})"
        )

    @property
    def create_loading(self) -> str:
        """Metadata are text here, and parsed by the server."""
        columns = ", ".join(f"{quoted(n)} {kind}" for n, kind in zip(self.columns, self.copy_types, strict=True))
        return f"create temporary table gguf_embed_rows ({columns}) on commit delete rows"

    @property
    def copy(self) -> str:
        return "copy pg_temp.gguf_embed_rows from stdin with (format binary)"

    @cached_property
    def upsert(self) -> str:
        names = ", ".join(quoted(name) for name in self.columns)
        values = ", ".join("metadata::jsonb" if name == "metadata" else quoted(name) for name in self.columns)
        changes = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in self.columns if name != "id")
        return (
            f"insert into {self._table} ({names}) select {values} from pg_temp.gguf_embed_rows order by id "
            f"on conflict (id) do update set {changes}"
        )

    @property
    def delete(self) -> str:
        """Locks the rows in the order in which `upsert` does."""
        return (
            f"with found as (select id from {self._table} where id = any(%s) order by id for update) "
            f"delete from {self._table} using found where {self._table}.id = found.id"
        )

    @property
    def stored(self) -> str:
        return f"select {', '.join(STORED)} from {self._table}"

    @property
    def count(self) -> str:
        return f"select count(*) from {self._table}"

    @property
    def analyze(self) -> str:
        return f"analyze {self._table}"

    @property
    def drop_index(self) -> str:
        return f"drop index if exists {self._schema}.{quoted(self.index_name)}"

    def create_index(self, *, half: bool) -> str:
        column = f"(embedding::halfvec({self._n_dims})) halfvec_cosine_ops" if half else "embedding vector_cosine_ops"
        return f"create index {quoted(self.index_name)} on {self._table} using hnsw ({column})"

    def search(self, *, half: bool) -> str:
        """`half`: in the words of the index of half precision, which is used for nothing else."""
        cast = f"::halfvec({self._n_dims})" if half else ""
        return (
            "select id, 1 - (embedding <=> %(vector)s), doc_id, text, metadata::text, headings "
            f"from {self._table} order by embedding{cast} <=> %(vector)s{cast} limit %(n)s"
        )

    @property
    def search_sparse(self) -> str:
        return (
            "select id, -(sparse <#> %(vector)s) as score, doc_id, text, metadata::text, headings "
            f"from {self._table} where sparse <#> %(vector)s < 0 order by score desc limit %(n)s"
        )


def shortened(name: str) -> str:
    """At most 48 bytes, so that a name with a suffix keeps within the 63 that PostgreSQL does not cut."""
    data = name.encode()
    if len(data) <= 48:
        return name
    return f"{data[:39].decode(errors='ignore')}_{blake2b(data, digest_size=4).hexdigest()}"


def quoted(name: Any) -> str:
    """As an identifier."""
    return '"' + str(name).replace('"', '""') + '"'
