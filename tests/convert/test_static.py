"""Converting static models: what is recognized, written and refused, without leaving files behind."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.convert.static import convert_static, is_static
from gguf_embed.convert.word_tables import read_word_table
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.facts import check_can_embed, file_type_name, pooling_type
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.strings import read_strings
from gguf_embed.types import Pooling

STATIC = Path(__file__).parent.parent / "data/static"
WORDS = ("the", "cat", ",", "<user>", "naïve")
ROWS = np.arange(1, 21, dtype=np.float32).reshape(5, 4) / 8


def convert(source: Path, output: Path, outtype: str = "f32", name: str | None = None) -> list[str]:
    said: list[str] = []
    convert_static(source, output, outtype, report=said.append, name=name)
    return said


def as_lines(separator: str = " ", end: str = "\n") -> str:
    rows = zip(WORDS, ROWS.tolist(), strict=True)
    return "".join(separator.join([word, *map(str, values)]) + end for word, values in rows)


def as_binary(gap: bytes = b"\n") -> bytes:
    rows = zip(WORDS, ROWS, strict=True)
    return b"5 4\n" + b"".join(word.encode() + b" " + row.tobytes() + gap for word, row in rows)


CSV = "".join(
    ",".join([f'"{word}"', *map(str, values)]) + "\r\n" for word, values in zip(WORDS, ROWS.tolist(), strict=True)
)
TABLES = {
    "glove.txt": as_lines().encode(),
    "word2vec.txt": b"5 4\n" + as_lines().encode(),
    "fasttext.vec": b"5 4\n" + as_lines(end=" \n").encode(),
    "windows.txt": as_lines(end="\r\n").encode(),
    "table.tsv": as_lines("\t").encode(),
    "table.csv": CSV.encode(),
    "named.csv": b"word,a,b,c,d\r\n" + CSV.encode(),
    "semicolons.csv": as_lines(";").encode(),
    "word2vec.bin": as_binary(),
    "gensim.bin": as_binary(b""),  # gensim writes no line ends between rows
    "glove.txt.gz": gzip.compress(as_lines().encode()),
    "word2vec.bin.gz": gzip.compress(as_binary()),
}


@pytest.mark.parametrize("file_name", TABLES)
def test_every_form_of_a_word_table_gives_the_same_words_and_rows(file_name, tmp_path):
    path = tmp_path / file_name
    path.write_bytes(TABLES[file_name])
    assert is_static(path)
    table = read_word_table(path, tmp_path, lambda line: None)
    assert (table.words, table.lowercase) == (WORDS, True)
    np.testing.assert_array_equal(table.rows, ROWS)
    assert sorted(tmp_path.iterdir()) == [path]


def test_words_with_spaces_are_read_from_the_rows_end(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("the 1 2\n. . . 3 4\n")
    table = read_word_table(path, tmp_path, lambda line: None)
    assert table.words == ("the", ". . .")


def test_repeated_words_and_rows_of_zeros_are_left_out_and_reported(tmp_path):
    path, said = tmp_path / "glove.txt", []
    path.write_text("a 1 2\nA 3 4\na 5 6\nnull 0 0\n")
    table = read_word_table(path, tmp_path, said.append)
    assert (table.words, table.lowercase) == (("a", "A"), False)
    np.testing.assert_array_equal(table.rows, [[1, 2], [3, 4]])
    assert [line.split()[0] for line in said] == ["1", "1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a 1 2\nb 3\n", "row 2 does not have 2 numbers like the first; correct the row or remove it$"),
        (b"a 1 2\nb 3 x\n", r"row 2 \('b'\)"),
        (b"a 1 2\nb 3 nan\n", "not finite"),
        (b"3 2\na 1 2\nb 3 4\n", "3 rows, .*it has 2"),
        (b"1 2\na 1 2\nb 3 4\n", "1 rows, .*it has 2"),
        (as_binary()[:-10], "ends in row 5 of 5"),
        (b"a 0 0\nb 0 0\n", "no word with a vector"),
        (gzip.compress(as_lines().encode() * 50)[:-30], "truncated or damaged"),
        (b"a,1,2\n" + b"b" * 200_000 + b",1,2\n", "truncated or damaged"),
        (b"no table at all\n", "not a word-vector table"),
        (b"", "not a word-vector table"),
    ],
)
def test_broken_tables_are_refused_and_leave_nothing(content, message, tmp_path):
    path, output = tmp_path / "table.txt", tmp_path / "out.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message) as caught:
        convert(path, output)
    assert str(path) in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content",
    [
        b"x" * 200_000,
        b"",
        b"hello world\n",
        b"a,b\n",
        b"GGUF\x03\x00\x00\x00",
        b"PK\x03\x04" + b"\x00" * 64,
        b"\x1f\x8b\x08garbage",
    ],
)
def test_other_files_are_not_recognized_as_word_tables(content, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    assert not is_static(path)


def test_other_directories_are_not_recognized_as_static_models(tmp_path):
    assert not is_static(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    assert not is_static(tmp_path)
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Transformer", "path": ""}]')
    assert not is_static(tmp_path)
    assert not is_static(tmp_path / "missing")


@pytest.mark.parametrize(
    ("model", "kind", "normalize", "skips"),
    [
        ("model2vec", "model2vec", True, True),
        ("model2vec_clustered", "model2vec", False, True),
        ("static_embedding", "sentence-transformers", True, False),
    ],
)
def test_a_directory_becomes_the_documented_keys(model, kind, normalize, skips, tmp_path):
    assert is_static(STATIC / model)
    convert(STATIC / model, tmp_path / "m.gguf")
    header = read_header(tmp_path / "m.gguf")
    check_can_embed(header)
    assert (header.architecture, file_type_name(header), pooling_type(header)) == (
        "static-embedding",
        "F32",
        Pooling.MEAN,
    )
    assert header.metadata["general.name"] == model
    assert header.metadata["static-embedding.kind"] == kind
    assert header.metadata["static-embedding.normalize"] is normalize
    assert header.metadata["static-embedding.skip_unknown"] is skips
    assert header.metadata["tokenizer.huggingface.json"] == (STATIC / model / "tokenizer.json").read_text("utf-8")
    n_tokens = header.metadata["static-embedding.vocab_size"]
    tokens = read_strings(header.path, "tokenizer.ggml.tokens")
    assert len(tokens) == header.array_lengths["tokenizer.ggml.token_type"] == n_tokens
    assert tokens[header.metadata["tokenizer.ggml.unknown_token_id"]] in ("[UNK]", "<unk>")
    assert {"token_weight", "token_mapping"} <= header.tensors.keys() or model != "model2vec_clustered"


def test_a_word_table_becomes_the_documented_keys(tmp_path):
    path = tmp_path / "glove.txt.gz"
    path.write_bytes(TABLES["glove.txt.gz"])
    convert(path, tmp_path / "m.gguf", name="glove-small")
    header = read_header(tmp_path / "m.gguf")
    check_can_embed(header)
    assert header.metadata["general.name"] == "glove-small"
    assert header.metadata["static-embedding.kind"] == "word-table"
    assert header.metadata["tokenizer.ggml.normalizer.lowercase"] is True
    assert header.tensors["token_embd.weight"].shape == (4, 5)
    assert tuple(read_strings(header.path, "tokenizer.ggml.tokens")) == WORDS
    assert read_strings(header.path, "tokenizer.ggml.merges") == []


@pytest.mark.parametrize(
    ("model", "outtype", "stored"),
    [
        ("model2vec", "f16", "F16"),
        ("model2vec", "bf16", "BF16"),
        ("model2vec", "q8_0", "Q8_0"),
        ("model2vec", "auto", "F16"),
        ("model2vec_clustered", "auto", "F16"),
        ("static_embedding", "q8_0", "F16"),  # 16 dimensions make no block of 32
    ],
)
def test_rows_are_stored_as_asked_for(model, outtype, stored, tmp_path):
    said = convert(STATIC / model, tmp_path / "m.gguf", outtype)
    header = read_header(tmp_path / "m.gguf")
    assert (header.tensors["token_embd.weight"].type, file_type_name(header)) == (stored, stored)
    assert stored in said[-1]


def test_an_unknown_type_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="cannot be stored as 'q4_k'"):
        convert(STATIC / "model2vec", tmp_path / "m.gguf", "q4_k")


def write_tensors(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    """A safetensors file: names, their safetensors type, their bytes."""
    header, data = {}, b""
    for name, (dtype, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [len(data), len(data) + values.nbytes]}
        data += values.tobytes()
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


@pytest.fixture
def directory(tmp_path) -> Path:
    return Path(shutil.copytree(STATIC / "model2vec", tmp_path / "model"))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"other": ("F32", np.ones((1500, 4), np.float32))}, "no table embeddings or embedding.weight"),
        ({"embeddings": ("F32", np.ones(1500, np.float32))}, "no table"),
        ({"embeddings": ("F32", np.ones((1499, 4), np.float32))}, "token ids up to 1499, .* rows for 1499"),
        ({"embeddings": ("F32", np.full((1500, 4), np.nan, np.float32))}, "not finite"),
        ({"embeddings": ("F64", np.full((1500, 4), 1e300))}, "not finite"),
        ({"embeddings": ("U8", np.ones((1500, 4), np.uint8))}, "type U8 cannot be converted"),
        (
            {
                "embeddings": ("F32", np.ones((1500, 4), np.float32)),
                "weights": ("F32", np.ones(3, np.float32)),
            },
            "3 weights for 1500 tokens",
        ),
        (
            {"embeddings": ("F32", np.ones((7, 4), np.float32)), "mapping": ("I64", np.full(1500, 7, np.int64))},
            "outside the 7",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_leave_nothing(directory, tmp_path, tensors, message):
    write_tensors(directory / "model.safetensors", tensors)
    with pytest.raises(ModelFileError, match=message):
        convert(directory, tmp_path / "m.gguf")
    assert sorted(tmp_path.iterdir()) == [directory]


def test_values_too_large_for_f16_name_the_way_out(directory, tmp_path):
    write_tensors(directory / "model.safetensors", {"embeddings": ("F32", np.full((1500, 4), 1e6, np.float32))})
    with pytest.raises(ModelFileError, match="convert to bf16 or f32"):
        convert(directory, tmp_path / "m.gguf", "f16")


def test_doubles_bfloats_and_half_floats_are_read(directory, tmp_path):
    rows = np.arange(6000, dtype=np.float32).reshape(1500, 4) / 2
    upper_halves = (rows.view(np.uint32) >> 16).astype(np.uint16)
    stored = {"F64": rows.astype(np.float64), "F16": rows.astype(np.float16), "BF16": upper_halves}
    for dtype, values in stored.items():
        write_tensors(directory / "model.safetensors", {"embeddings": (dtype, values)})
        convert(directory, tmp_path / "m.gguf")
        tensor = read_header(tmp_path / "m.gguf").tensors["token_embd.weight"]
        written = np.fromfile(tmp_path / "m.gguf", np.float32, offset=(tmp_path / "m.gguf").stat().st_size - 24000)
        assert tensor.size_bytes == 24000
        np.testing.assert_allclose(written.reshape(1500, 4), rows, rtol=2**-7 if dtype == "BF16" else 2**-11)


def test_a_step_after_the_rows_that_would_change_them_is_refused(directory, tmp_path):
    modules = json.loads((directory / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (directory / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelFileError, match="Normalize, Dense after the rows"):
        convert(directory, tmp_path / "m.gguf")


def test_older_layouts_are_recognized(directory, tmp_path):
    (directory / "modules.json").unlink()
    assert is_static(directory)  # by its config
    (directory / "config.json").unlink()
    assert is_static(directory)  # by its tensor
    nested = tmp_path / "nested"
    (nested / "0_StaticEmbedding").mkdir(parents=True)
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.move(directory / name, nested / "0_StaticEmbedding" / name)
    assert is_static(nested)
    convert(nested, tmp_path / "m.gguf")
