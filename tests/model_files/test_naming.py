"""Which file a name means."""

from __future__ import annotations

import pytest

from gguf_embed.errors import ConfigError
from gguf_embed.model_files.naming import choose_model_file, model_stem, parse_repo, quant_of, split_parts

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
def test_stem_and_quantisation_of_a_file(name, stem, quant):
    assert (model_stem(name), quant_of(name)) == (stem, quant)


def test_split_parts_lists_all_in_order():
    parts = ("a/m-00001-of-00003.gguf", "a/m-00002-of-00003.gguf", "a/m-00003-of-00003.gguf")
    assert split_parts("a/m-00002-of-00003.gguf") == parts
    assert split_parts("m.gguf") == ("m.gguf",)
