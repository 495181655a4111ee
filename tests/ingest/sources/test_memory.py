"""Memory stays the same however large a source is. Each is read in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.ingest.sources.peak_memory import __file__ as script

MIB = 1 << 20
LIMIT = 200 * MIB

WRITE_ONE_ROW_GROUP = """
import sys, numpy, pyarrow, pyarrow.parquet
n_rows, n_characters = 800_000, 500
letters = numpy.random.default_rng(1).integers(97, 123, n_rows * n_characters, numpy.uint8)
ends = numpy.arange(0, n_rows * n_characters + 1, n_characters, dtype=numpy.int32)
text = pyarrow.Array.from_buffers(pyarrow.string(), n_rows, [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(letters)])
table = pyarrow.table({"id": pyarrow.array(range(n_rows)), "text": text})
pyarrow.parquet.write_table(table, sys.argv[1], row_group_size=n_rows, compression="none", use_dictionary=False)
"""


def read_in_process(location: str) -> tuple[int, int]:
    """The number of documents, and the peak in bytes."""
    done = subprocess.run([sys.executable, script, location], capture_output=True, text=True, check=True)
    n_documents, n_bytes = done.stdout.split()
    return int(n_documents), int(n_bytes)


def test_a_parquet_file_with_one_huge_row_group(tmp_path):
    path = tmp_path / "a.parquet"
    subprocess.run([sys.executable, "-c", WRITE_ONE_ROW_GROUP, str(path)], check=True)
    assert path.stat().st_size > 380 * MIB
    n_documents, peak = read_in_process(str(path))
    path.unlink()
    assert n_documents == 800_000
    assert peak < LIMIT


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_large_file_of_lines(tmp_path, name):
    path: Path = tmp_path / name
    row = b'{"text": "%s"}\n' % (b"x" * 1000) if name == "a.jsonl" else b"x" * 1000 + b"\n"
    with path.open("wb") as file:
        file.write(b"text\n" if name == "a.csv" else b"")
        for _ in range(300):
            file.write(row * 1000)
    n_documents, peak = read_in_process(str(path))
    path.unlink()
    assert n_documents == 300_000
    assert peak < LIMIT


def test_a_few_very_long_rows(tmp_path):
    with (tmp_path / "a.jsonl").open("wb") as file:
        for _ in range(60):
            file.write(b'{"text": "%s"}\n' % (b"x" * (5 * MIB)))
    n_documents, peak = read_in_process(str(tmp_path / "a.jsonl"))
    (tmp_path / "a.jsonl").unlink()
    assert n_documents == 60
    assert peak < LIMIT
