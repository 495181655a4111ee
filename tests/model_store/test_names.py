"""Which names are valid, and which files they mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_embed.errors import ConfigError, InvalidRequest
from gguf_embed.model_store.names import (
    FileChoice,
    ModelName,
    choose_file,
    choose_model_file,
    is_quant,
    model_key,
    model_stem,
    parse_model_name,
    parse_repo,
    quant_of,
    source_files,
    split_parts,
    without_folders,
)

REPO = ("README.md", "m-F16.gguf", "m-Q4_0.gguf", "m-q8_0.gguf", "mmproj-Q4_K_M.gguf")


@pytest.mark.parametrize(
    ("names", "quant", "chosen"),
    [
        (REPO, None, "m-q8_0.gguf"),
        ((*REPO, "m.Q4_K_M.gguf"), None, "m.Q4_K_M.gguf"),
        (REPO, "f16", "m-F16.gguf"),
        (REPO, "Q4_0", "m-Q4_0.gguf"),
        (REPO, "Q6_K", None),
        (REPO[:3], None, "m-F16.gguf"),
        (("Q8_0/m-00002-of-00002.gguf", "Q8_0/m-00001-of-00002.gguf"), None, "Q8_0/m-00001-of-00002.gguf"),
        (("m-Q8_0-00002-of-00002.gguf", "m-Q8_0-00001-of-00002.gguf"), "Q8_0", "m-Q8_0-00001-of-00002.gguf"),
        (("mmproj-F16.gguf", "imatrix.gguf", "config.json"), None, None),
        ((), None, None),
    ],
)
def test_choose_model_file_as_llama_cpp_does(names, quant, chosen):
    assert choose_model_file(names, quant) == chosen


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/repo", ("org/repo", None)),
        ("org/repo:Q8_0", ("org/repo", "Q8_0")),
        ("hf.co/org/my.repo-GGUF:latest", ("org/my.repo-GGUF", None)),
        ("https://huggingface.co/org/repo", ("org/repo", None)),
    ],
)
def test_parse_repo(text, expected):
    assert parse_repo(text) == expected


@pytest.mark.parametrize("text", ["", "repo", "a/b/c", "org/repo:", "org/../x", "org/repo:a:b", "/repo"])
def test_parse_repo_refuses_other_text(text):
    with pytest.raises(ConfigError, match="-hf takes"):
        parse_repo(text)


@pytest.mark.parametrize(
    ("name", "stem", "quant"),
    [
        ("dir/model-Q8_0.gguf", "model-Q8_0", "Q8_0"),
        ("m.IQ4_XS-00001-of-00003.gguf", "m.IQ4_XS", "IQ4_XS"),
        ("all-MiniLM-L6-v2-ggml-model-f16.gguf", "all-MiniLM-L6-v2-ggml-model-f16", "F16"),
        ("bge-small-en-v1.5.GGUF", "bge-small-en-v1.5", None),
        ("plain.gguf", "plain", None),
    ],
)
def test_stem_and_quantization_of_a_file(name, stem, quant):
    assert (model_stem(name), quant_of(name)) == (stem, quant)


def test_split_parts_lists_all_in_order():
    parts = ("a/m-00001-of-00003.gguf", "a/m-00002-of-00003.gguf", "a/m-00003-of-00003.gguf")
    assert split_parts("a/m-00002-of-00003.gguf") == parts
    assert split_parts("m.gguf") == ("m.gguf",)


@pytest.mark.parametrize(
    ("text", "base", "tag"),
    [
        ("all-minilm", "all-minilm", None),
        ("all-minilm:latest", "all-minilm", None),
        ("Qwen3-Embedding:0.6b", "Qwen3-Embedding", "0.6b"),
        ("org/repo-GGUF:Q8_0", "org/repo-GGUF", "Q8_0"),
        ("https://huggingface.co/org/repo", "org/repo", None),
        (" hf.co/org/repo:Q4_K_M ", "org/repo", "Q4_K_M"),
    ],
)
def test_a_model_name_has_a_base_and_perhaps_a_tag(text, base, tag):
    assert parse_model_name(text) == ModelName(base, tag)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/etc/passwd",
        "./model.gguf",
        "../model",
        "a/../b",
        "org/..",
        "..",
        ".hidden",
        "a/b/c",
        "a\\b",
        "a\0b",
        "a\nb",
        "a b",
        "a:b:c",
        "a:",
        "~/model",
        "-rf",
        "é",
        "x" * 201,
    ],
)
def test_anything_but_a_model_name_is_refused_on_one_line(text):
    with pytest.raises(InvalidRequest, match="ORG/REPO:QUANT") as caught:
        parse_model_name(text)
    assert caught.value.param == "model"
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 250


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("All-MiniLM", "all-minilm"),
        ("all-minilm:latest", "all-minilm"),
        ("hf.co/Org/Repo:Q8_0", "org/repo:q8_0"),
        ("https://huggingface.co/Org/Repo:latest", "org/repo"),
    ],
)
def test_names_compare_by_their_key(name, key):
    assert model_key(name) == key


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        (FileChoice(), "m-q8_0.gguf"),
        (FileChoice(pattern="*-f16.gguf"), "m-F16.gguf"),
        (FileChoice(pattern="*-bf16.gguf"), "m-q8_0.gguf"),
        (FileChoice(quant="Q4_0", pattern="*-f16.gguf"), "m-Q4_0.gguf"),
        (FileChoice(quant="Q6_K", pattern="*-f16.gguf"), None),
        (FileChoice(file="m-F16.gguf", quant="Q4_0"), "m-F16.gguf"),
        (FileChoice(file="gone.gguf"), None),
        (FileChoice(pattern="mmproj*"), "m-q8_0.gguf"),
    ],
)
def test_a_choice_of_file_type_or_pattern(choice, chosen):
    assert choose_file(REPO, choice) == chosen


def test_a_pattern_may_mean_a_split_model_and_names_in_capitals():
    assert choose_file(["s-F16-00001-of-00002.gguf", "s-F16-00002-of-00002.gguf"], FileChoice(pattern="*f16*")) == (
        "s-F16-00001-of-00002.gguf"
    )
    assert choose_file(["snow-f16.GGUF", "snow-Q8_0.GGUF"], FileChoice(quant="f16")) == "snow-f16.GGUF"


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["README.md", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], "all"),
        (["model.safetensors", "model.safetensors.index.json", "tokenizer.json", "sentencepiece.bpe.model"], "all"),
        (["0_StaticEmbedding/model.safetensors", "0_StaticEmbedding/tokenizer.json", "modules.json"], "all"),
        (["1_Pooling/config.json", "2_Dense/model.safetensors", "model.safetensors", "spiece.model"], "all"),
        (["1_Dense/model.safetensors", "artifact.metadata", "colbert_linear.pt", "idf.json", "m.safetensors"], "all"),
        (["glove-twitter-25.txt", "README.md"], "all"),
        (["pytorch_model.bin", "vocab.txt", "config.json", "training_args.bin", "requirements.txt"], "none"),
        (["onnx/model.safetensors", "config.json"], "none"),
        ([], "none"),
    ],
)
def test_what_a_converter_needs_of_a_repository(names, wanted):
    assert sorted(source_files(names)) == (sorted(names) if wanted == "all" else [])


@pytest.mark.parametrize(
    ("text", "expected"), [("Q8_0", True), ("f16", True), ("FP16", True), ("UD-Q4_K_XL", True), ("567m", False)]
)
def test_what_looks_like_a_quantization(text, expected):
    assert is_quant(text) is expected


@pytest.mark.parametrize(
    ("path", "message", "shown"),
    [
        ("/srv/models/x.gguf", "/srv/models/x.gguf: is empty", "x.gguf: is empty"),
        ("/srv/models/x.gguf", "run git lfs pull in /srv/models", "run git lfs pull in models"),
        ("models/x.gguf", "models/x.gguf: is empty. Use another", "x.gguf: is empty. Use another"),
        ("x.gguf", "x.gguf: is empty. Use another", "x.gguf: is empty. Use another"),
        ("/x.gguf", "/x.gguf: a/b is wrong", "x.gguf: a/b is wrong"),
    ],
)
def test_clients_see_names_of_files_and_no_paths(path, message, shown):
    assert without_folders(message, [Path(path)]) == shown
