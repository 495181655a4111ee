"""What was given for a GGUF is named as what it is, with the way out: the answers to files that people really pass."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile

import pytest

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.model_store.locate import ModelSource, locate_model
from tests.gguf_models import write_tiny_encoder
from tests.server_process import run_to_end

LFS = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 133466304
"""
PAGE = b"<!DOCTYPE html>\n<html class=''><head><title>model.gguf &middot; org/repo at main</title></head>" + b" " * 900
SAFETENSORS = struct.pack("<Q", 100) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}' + b" " * 700


def zipped(name: str = "model.gguf") -> bytes:
    with io.BytesIO() as out:
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr(name, b"x" * 900)
        return out.getvalue()


def tarred() -> bytes:
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("model.gguf"))
        return out.getvalue()


CASES = [
    ("m.gguf", LFS, r"is a Git LFS pointer to 133,466,304 bytes, .*`git lfs pull` in "),
    ("m.gguf", b"/annex/objects/SHA256E-s1--aa.gguf\n", r"git-annex pointer.*git annex get m.gguf"),
    ("m.gguf", PAGE, r"is a web page \('model.gguf &middot; org/repo at main'\).*/resolve/ for /blob/"),
    ("m.gguf", b"\xef\xbb\xbf\n <html>" + b" " * 600, "is a web page, not a model"),
    ("m.gguf", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is an XML document.*download"),
    ("m.gguf", b'{"error":"Repository not found"}', "is a JSON document .*Repository not found.*download"),
    ("m.gguf", b"Entry not found", r"is a short text \('Entry not found'\).*download"),
    ("config.json", b'{"hidden_size": 384}' + b" " * 600, "is a JSON document"),
    ("model.safetensors", SAFETENSORS, r"holds an original's weights; `gguf-embed convert .*` makes a GGUF"),
    ("m.gguf", SAFETENSORS, r"holds an original's weights; `gguf-embed convert"),  # renamed
    ("pytorch_model.bin", zipped("archive/data.pkl"), "PyTorch writes them; .*safetensors"),
    ("m.gguf", zipped("archive/data.pkl"), "PyTorch writes them; .*safetensors"),
    ("old.bin", pickle.dumps([1] * 900, protocol=2), "PyTorch writes them; "),
    ("m.pth", b"\x00\x01" * 600, "PyTorch writes them; "),
    ("model.onnx", b"\x08\x07\x12\x07pytorch" + b"\x01" * 600, "is an ONNX model; .*safetensors"),
    ("model.h5", b"\x89HDF\r\n\x1a\n" + b"\x01" * 600, "Keras"),
    ("m.bin", b"tjgg" + b"\x01" * 600, "from before GGUF"),
    ("m.zip", zipped(), r"is a zip archive; .*`unzip .*m.zip`"),
    ("m.gguf", zipped(), "is a zip archive; "),
    ("m.gguf.gz", gzip.compress(b"GGUF" * 999), r"compressed with gzip; .*`gunzip .*m.gguf.gz`"),
    ("m.bin.gz", gzip.compress(b"GGUF" * 999), "compressed with gzip; "),
    ("m.gguf.bz2", bz2.compress(b"GGUF" * 999), "compressed with bzip2; "),
    ("m.gguf.xz", lzma.compress(b"GGUF" * 999), "compressed with xz; "),
    ("m.gguf.zst", b"\x28\xb5\x2f\xfd" + b"\x01" * 600, "compressed with zstd; "),
    ("m.tar", tarred(), r"is a tar archive; .*`tar -xf "),
    ("m.gguf", b"\0" * 5000, "begins with zeros only"),
    ("m.gguf.crdownload", b"\x01\x02" * 600, "a download that has not finished"),
    ("m.gguf.part2of3", b"\x01\x02" * 600, r"a later piece .*`cat .*m.gguf\?\* > .*m.gguf`"),
    ("m.gguf", bytes(range(1, 256)) * 9, r"is not a GGUF file \(it begins with 01 02 03 04"),
]


@pytest.mark.parametrize(("name", "content", "message"), CASES)
def test_a_file_is_named_as_what_it_is(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message) as caught:
        read_header(path)
    assert caught.value.message.startswith(f"{path} ")
    assert "\n" not in caught.value.message


def test_the_first_piece_of_a_cut_file_is_told_from_a_truncated_one(tmp_path):
    whole = write_tiny_encoder(tmp_path / "m.gguf").read_bytes()
    piece = tmp_path / "m.gguf.part1of2"
    piece.write_bytes(whole[:-100])
    with pytest.raises(ModelFileError, match=r"is the first piece of a file that was cut; join .*`cat "):
        read_header(piece)


FOLDERS = [
    (["model.safetensors", "config.json"], r"a folder with an original model; `gguf-embed convert .*` makes"),
    (["a.gguf"], r"is a folder; name the file in it: .*/a.gguf"),
    (["a.gguf", "b.gguf"], r"name one of its files \(a.gguf, b.gguf\), or serve all with --models-dir"),
    (["pytorch_model.bin"], r"a folder without a GGUF; its pytorch_model.bin holds .* as PyTorch"),
    (["model.onnx"], r"its model.onnx is an ONNX model"),
    ([], r"a folder without a GGUF in it; name a .gguf file"),
]


@pytest.mark.parametrize(("names", "message"), FOLDERS)
def test_a_folder_is_named_by_what_is_in_it(names, message, tmp_path):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ModelFileError, match=message):
        read_header(tmp_path)


@pytest.mark.parametrize(
    ("path", "way_out"),
    [
        ("bge-smal.gguf", "did you mean .*/bge-small.gguf"),
        ("BGE-Small.GGUF", "did you mean .*/bge-small.gguf"),
        ("other.gguf", "check the path"),
        ("modles/bge-small.gguf", "there is no folder .*/modles either"),
    ],
)
def test_a_mistyped_path_is_answered_with_what_is_near(path, way_out, tmp_path):
    (tmp_path / "bge-small.gguf").write_bytes(b"x")
    with pytest.raises(ModelFileError, match=rf"no such file; {way_out}"):
        read_header(tmp_path / path)


def split_part(tmp_path, number: int, n_parts: int, name: str):
    """A part as llama-gguf-split writes it; the first has the tensors."""
    import gguf

    path = tmp_path / name
    if number == 0:
        write_tiny_encoder(tmp_path / "whole.gguf")
        reader = gguf.GGUFReader(tmp_path / "whole.gguf")
        writer = gguf.GGUFWriter(path, "bert")
        tokens = reader.fields["tokenizer.ggml.tokens"]
        writer.add_token_list([bytes(tokens.parts[index]) for index in tokens.data])
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, tensor.data)
    else:
        writer = gguf.GGUFWriter(path, "bert")
    writer.add_uint16("split.no", number)
    writer.add_uint16("split.count", n_parts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_parts_joined_with_cat_are_told_apart_from_a_model(tmp_path):
    parts = [split_part(tmp_path, number, 2, f"m-{number + 1:05}-of-00002.gguf") for number in range(2)]
    path = tmp_path / "joined.gguf"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(ModelFileError, match=r"several GGUFs one after another: .* not be joined with cat; .*--merge"):
        read_header(path)


def test_two_whole_models_in_a_row_are_no_model(tmp_path):
    whole = write_tiny_encoder(tmp_path / "m.gguf").read_bytes()
    (tmp_path / "twice.gguf").write_bytes(whole + whole)
    with pytest.raises(ModelFileError, match="several GGUFs one after another"):
        read_header(tmp_path / "twice.gguf")
    (tmp_path / "longer.gguf").write_bytes(whole + b"\0" * 4096)  # what follows is nobody's
    assert read_header(tmp_path / "longer.gguf").architecture == "bert"


def test_a_part_under_another_name_is_told_its_own(tmp_path):
    path = split_part(tmp_path, 0, 3, "renamed.gguf")
    with pytest.raises(ModelFileError, match=r"is part 1 of 3 .* call this one NAME-00001-of-00003.gguf again"):
        locate_model(ModelSource(path=path), tmp_path / "cache", lambda line: None)


@pytest.mark.process
@pytest.mark.parametrize(
    "words",
    [["serve", "-m"], ["embed", "text", "-m"], ["show"], ["doctor"]],
    ids=lambda words: words[0],
)
def test_every_command_names_the_pointer(words, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(LFS)
    ended = run_to_end(tmp_path / "cache", *words, path)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 1
    assert "is a Git LFS pointer" in said
    assert f"run `git lfs pull` in {tmp_path}" in said
    assert "Traceback" not in said


@pytest.mark.process
def test_doctor_gives_the_way_out_as_the_fix(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(LFS)
    ended = run_to_end(tmp_path / "cache", "doctor", "--json", path)
    (finding,) = json.loads(ended.stdout)["findings"]
    assert finding["code"] == "unreadable"
    assert finding["fix"] == f"run `git lfs pull` in {tmp_path}"
