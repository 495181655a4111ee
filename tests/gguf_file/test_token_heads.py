"""Heads in a GGUF: numbers that do not fit are an error that names the key."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.layout import read_number_arrays
from gguf_embed.gguf_file.token_heads import read_token_heads

N_EMBD, N_VOCAB = 8, 20
FLOAT, INT = gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.INT32


def write(path: Path, values: dict[str, object]) -> Path:
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_embedding_length(N_EMBD)
    writer.add_token_list([f"t{number}" for number in range(N_VOCAB)])
    for key, value in values.items():
        match value:
            case list():
                writer.add_key_value(
                    f"gguf-embed.{key}", value, gguf.GGUFValueType.ARRAY, FLOAT if isinstance(value[0], float) else INT
                )
            case int():
                writer.add_uint32(f"gguf-embed.{key}", value)
            case _:
                writer.add_string(f"gguf-embed.{key}", str(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


COLBERT: dict[str, object] = {"colbert.dimensions": 2, "colbert.weight": [0.5] * 16}
LISTWISE: dict[str, object] = {
    "listwise.dimensions": 2,
    "listwise.hidden": 3,
    "listwise.weight": [0.5] * 24,
    "listwise.output_weight": [0.5] * 6,
    "listwise.document_token": 18,
    "listwise.query_token": 19,
    "listwise.document_length": 2048,
    "listwise.query_length": 512,
    "listwise.max_documents": 125,
}
LEXICAL: dict[str, object] = {"sparse.kind": "lexical", "sparse.weight": [0.5] * 8}


def test_arrays_are_read_in_the_types_of_the_file(tmp_path):
    path = write(tmp_path / "m.gguf", {"a": [1.5, 2.5], "b": [1, -2], "c": [3]})
    found = read_number_arrays(read_header(path), ("gguf-embed.a", "gguf-embed.b", "gguf-embed.none"))
    assert {key: (array.dtype, array.tolist()) for key, array in found.items()} == {
        "gguf-embed.a": (np.dtype("<f4"), [1.5, 2.5]),
        "gguf-embed.b": (np.dtype("<i4"), [1, -2]),
    }


def test_a_list_of_strings_is_no_list_of_numbers(tmp_path):
    path = write(tmp_path / "m.gguf", {})
    with pytest.raises(ModelFileError, match=r"tokenizer\.ggml\.tokens is not a list of numbers"):
        read_number_arrays(read_header(path), ("tokenizer.ggml.tokens",))


def test_a_file_without_heads_has_none(tmp_path):
    assert read_token_heads(read_header(write(tmp_path / "m.gguf", {}))) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (COLBERT | {"colbert.dimensions": 3}, "colbert.weight has 16 numbers of type float32, expected 24"),
        (COLBERT | {"colbert.dimensions": 0}, "colbert.dimensions is 0, expected 1 to 65536"),
        (COLBERT | {"colbert.weight": [1] * 16}, "colbert.weight has 16 numbers of type int32"),
        (COLBERT | {"colbert.weight": [float("nan")] * 16}, "colbert.weight has numbers that are not finite"),
        (COLBERT | {"colbert.query_prefix": [20]}, "colbert.query_prefix has the token 20, expected 0 to 19"),
        (
            COLBERT | {"colbert.skipped": [float("nan")]},
            "colbert.skipped has numbers of type float32, expected integers",
        ),
        (COLBERT | {"colbert.expansion_token": 99}, "colbert.expansion_token has the token 99"),
        (COLBERT | {"colbert.query_length": 2**31}, "colbert.query_length is 2147483648"),
        (LISTWISE | {"listwise.hidden": 4}, "listwise.weight has 24 numbers of type float32, expected 32"),
        (LISTWISE | {"listwise.dimensions": 3}, "listwise.output_weight has 6 numbers of type float32, expected 9"),
        (LISTWISE | {"listwise.query_token": 20}, "listwise.query_token has the token 20, expected 0 to 19"),
        (LISTWISE | {"listwise.max_documents": 0}, "listwise.max_documents is 0, expected 1 to"),
        ({"listwise.dimensions": 2}, "listwise.hidden is missing"),
        (LEXICAL | {"sparse.kind": "other"}, "sparse.kind is 'other', expected 'lexical', 'mlm' or 'bm25'"),
        (LEXICAL | {"sparse.weight": [0.5]}, "sparse.weight has 1 numbers"),
        (LEXICAL | {"sparse.kind": "mlm"}, "token_embd.weight is not a table of 20 rows of 8 numbers"),
        (LEXICAL | {"sparse.query_weights": [1.0]}, "sparse.query_weights has 1 numbers"),
    ],
)
def test_numbers_that_do_not_fit_are_named(tmp_path, values, message):
    with pytest.raises(ModelFileError, match=message):
        read_token_heads(read_header(write(tmp_path / "m.gguf", values)))
