"""Tests of the sink in a DuckDB file."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pytest

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.sinks.open import open_sink
from tests.ingest.sinks.contract import Place, SinkContract
from tests.ingest.sinks.sample_rows import MANIFEST, numbered, rows

duckdb = pytest.importorskip("duckdb")


class TestDuckdb(SinkContract):
    @pytest.fixture
    def place(self, tmp_path):
        file = tmp_path / "new" / "docs.duckdb"

        def read() -> pa.Table:
            with duckdb.connect(str(file), read_only=True) as connection:
                return connection.sql('select * from "my ""notes"').to_arrow_table()

        def put_foreign() -> None:
            file.parent.mkdir()
            with duckdb.connect(str(file)) as connection:
                connection.execute('create table "my ""notes" (id varchar, embedding float[3])')

        return Place(f'duckdb:{file}?table=my "notes', read, put_foreign)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "docs.duckdb"


def made(file):
    sink = open_sink(f"duckdb:{file}")
    sink.create(MANIFEST)
    sink.write(rows(numbered(5)))
    sink.flush()
    return sink


def test_another_process_is_told_who_has_the_file_open(file):
    code = f"import duckdb; connection = duckdb.connect({str(file)!r}); print(1, flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        sink = open_sink(f"duckdb:{file}")
        with pytest.raises(ConfigError, match=f"process {process.pid} has {file} open"):
            sink.manifest()
        process.communicate("")
    assert sink.manifest() is None
    sink.close()


def test_looking_keeps_no_other_process_from_looking(file):
    made(file).close()
    sink = open_sink(f"duckdb:{file}")
    assert sink.count() == 5
    code = f"import duckdb; print(duckdb.connect({str(file)!r}, read_only=True).execute('from documents').fetchall())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.count("doc-")) == (0, 5)
    sink.close()


def test_a_second_sink_of_this_process_can_look_and_not_write(file):
    writer = made(file)
    reader = open_sink(f"duckdb:{file}")
    assert (reader.manifest(), reader.count()) == (MANIFEST, 5)
    with pytest.raises(ConfigError, match=r"process \d+ is writing to DuckDB table documents"):
        reader.write(rows(numbered(2)))
    reader.close()
    writer.close()


def test_two_tables_of_one_file_have_manifests_of_their_own(file):
    made(file).close()
    other = open_sink(f"duckdb:{file}?table=other")
    assert other.manifest() is None
    other.create(MANIFEST)
    assert other.count() == 0
    other.close()


def test_a_file_that_is_no_database_is_refused(file):
    file.write_text("not a database, but long enough to look at" * 1000)
    sink = open_sink(f"duckdb:{file}")
    with pytest.raises(ConfigError, match="is not a DuckDB database"):
        sink.manifest()
    sink.close()


def test_a_table_that_was_dropped_can_be_made_again(file):
    made(file).close()
    with duckdb.connect(str(file)) as connection:
        connection.execute("drop table documents")
    sink = open_sink(f"duckdb:{file}")
    assert sink.manifest() is None
    sink.create(MANIFEST)
    assert sink.count() == 0
    sink.close()
