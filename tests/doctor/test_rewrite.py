"""Corrected copies: only the metadata differs, and the results are those of a correct file."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFValueType

from gguf_embed.doctor.examine import examine
from gguf_embed.doctor.findings import Change, ValueType
from gguf_embed.doctor.rewrite import check_can_rewrite, fixed_path, rewrite
from gguf_embed.engines.llama.engine import LlamaEngine, LlamaEngineConfig
from gguf_embed.errors import ConfigError, ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.preprocessing.tokenizers import choose_tokenizer
from gguf_embed.types import Pooling
from tests.doctor import doctor_models as models
from tests.doctor.doctor_models import Edit, Typed, contents, edit
from tests.engines.contexts import context_spec

G = "tokenizer.ggml."
TEXTS = ("hello world", "the cat sat on the mat", "1 red dog!")


def fix(path: Path, output: Path | None = None) -> Path:
    """What `doctor --fix` does without --set."""
    output = output or fixed_path(path)
    rewrite(check_can_rewrite(path, output, overwrite=False), output, examine(path).changes)
    return output


def vectors(path: Path) -> np.ndarray:
    """float32[3, n]: as served, with the file's own pooling and tokenizer."""
    header = read_header(path)
    rank_head = "cls.output.weight" in header.tensors
    with closing(LlamaEngine(LlamaEngineConfig(path, rank_head=rank_head))) as engine:
        tokens = choose_tokenizer(engine.codec, None, "auto").encode_batch(TEXTS)
        spec = context_spec(engine.info.pooling or Pooling.NONE, 64, 1, False)
        with closing(engine.open_context(spec)) as context:
            return np.concatenate([context.embed([text], 1).matrix for text in tokens])


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (models.reranker, Edit(drop=["bert.pooling_type"])),
        (models.qwen, Edit(drop=["qwen3.pooling_type"])),
        (models.qwen, Edit({"qwen3.pooling_type": 1})),
        (models.qwen, Edit(drop=[G + "add_eos_token"])),
        (models.qwen, Edit({G + "add_eos_token": False, "qwen3.pooling_type": 0})),
        (models.bge_m3, Edit({"bert.pooling_type": 1}, [G + "add_bos_token"])),
        (models.bge_m3, Edit({G + "add_eos_token": False}, [G + "add_bos_token", G + "bos_token_id"])),
        (models.roberta, Edit(drop=[G + "add_bos_token", G + "add_eos_token"])),
        (models.decoder, Edit(drop=[G + "pre"])),
        (models.encoder, Edit({G + "bos_token_id": 9, G + "seperator_token_id": 999})),
        (models.encoder, Edit(drop=[G + "bos_token_id", G + "unknown_token_id"])),
        (models.encoder, Edit({"bert.context_length": 512}, [G + "token_type_count"])),
        (models.encoder, Edit({"bert.pooling_type": Typed(1, GGUFValueType.INT32)})),
        (models.encoder, Edit({G + "add_bos_token": 1, "bert.context_length": Typed(64, GGUFValueType.UINT64)})),
    ],
    ids=lambda value: value.__name__ if callable(value) else "+".join([*value.change, *value.drop]),
)
def test_a_fixed_copy_computes_what_the_right_file_computes(tmp_path, build, what):
    right = build(tmp_path / "right.gguf")
    fixed = fix(edit(right, tmp_path / "wrong.gguf", what))
    assert [finding for finding in examine(fixed).findings if finding.severity == "serious"] == []
    np.testing.assert_array_equal(vectors(fixed), vectors(right))


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (models.qwen, Edit(drop=[G + "add_eos_token"])),
        (models.bge_m3, Edit(drop=[G + "add_bos_token"])),
        (models.roberta, Edit(drop=[G + "add_bos_token", G + "add_eos_token"])),
        (models.encoder, Edit({G + "bos_token_id": 9})),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_called_serious_changes_the_vectors(tmp_path, build, what):
    right = build(tmp_path / "right.gguf")
    wrong = edit(right, tmp_path / "wrong.gguf", what)
    assert not np.allclose(vectors(wrong), vectors(right), atol=1e-4)


def test_bert_flags_and_its_attention_flag_change_nothing(tmp_path):
    """So that their absence is rightly no finding."""
    right = models.encoder(tmp_path / "right.gguf")
    dropped = [f"{G}add_{role}_token" for role in ("bos", "eos", "sep")] + ["bert.attention.causal"]
    np.testing.assert_array_equal(vectors(edit(right, tmp_path / "bare.gguf", Edit(drop=dropped))), vectors(right))


@pytest.mark.parametrize("alignment", [None, 32, 64, 1024])
def test_a_copy_differs_in_the_changed_keys_alone(tmp_path, alignment):
    change = {"general.alignment": alignment} if alignment else {}
    path = edit(models.encoder(tmp_path / "m.gguf"), tmp_path / "aligned.gguf", Edit(change))
    header, output = read_header(path), tmp_path / "copy.gguf"
    changes = (
        Change("general.name", ValueType.STRING, "ein längerer Name als vorher"),
        Change("bert.pooling_type", ValueType.UINT32, 2),
        Change("my.number", ValueType.FLOAT64, 0.5),
    )
    made = rewrite(header, output, changes)
    copy = read_header(output)
    assert {key for key in copy.metadata if copy.metadata[key] != header.metadata.get(key)} == {c.key for c in changes}
    assert (copy.tensors, copy.array_lengths, copy.version) == (header.tensors, header.array_lengths, header.version)
    assert output.read_bytes()[copy.data_start :] == path.read_bytes()[header.data_start :]
    assert copy.data_start % (alignment or 32) == 0
    assert contents(output, f"{G}tokens") == contents(path, f"{G}tokens")
    assert [(change.key, change.old, change.new) for change in made] == [
        ("general.name", "tiny-encoder", "ein längerer Name als vorher"),
        ("bert.pooling_type", 1, 2),
        ("my.number", None, 0.5),
    ]


def test_a_copy_without_changes_is_the_file_itself(tmp_path, default_model):
    output = tmp_path / "copy.gguf"
    rewrite(read_header(default_model), output, ())
    assert output.read_bytes() == default_model.read_bytes()


def test_files_are_never_overwritten_without_being_asked(tmp_path):
    path = models.encoder(tmp_path / "m.gguf")
    other = models.encoder(tmp_path / "other.gguf")
    (tmp_path / "link.gguf").hardlink_to(path)
    for output in (path, tmp_path / "link.gguf"):
        with pytest.raises(ConfigError, match=r"itself.*-o"):
            check_can_rewrite(path, output, overwrite=True)
    with pytest.raises(ConfigError, match="--force"):
        check_can_rewrite(path, other, overwrite=False)
    check_can_rewrite(path, other, overwrite=True)


def test_a_copy_that_fails_leaves_nothing_behind(tmp_path):
    path = models.encoder(tmp_path / "m.gguf")
    header = read_header(path)
    folder = tmp_path / "out"
    folder.mkdir()
    path.write_bytes(path.read_bytes()[:100])  # it changed meanwhile
    with pytest.raises(ModelFileError, match=r"m\.gguf cannot be read again"):
        rewrite(header, folder / "copy.gguf", ())
    with pytest.raises(ModelFileError, match="cannot be written"):
        rewrite(read_header(models.encoder(path)), tmp_path / "no folder" / "copy.gguf", ())
    assert list(folder.iterdir()) == []


def test_split_models_are_refused_by_name(tmp_path):
    for name, what in (("m-00001-of-00002.gguf", Edit()), ("m.gguf", Edit({"split.count": 2}))):
        path = edit(models.encoder(tmp_path / "whole"), tmp_path / name, what)
        with pytest.raises(ModelFileError, match="llama-gguf-split --merge"):
            check_can_rewrite(path, tmp_path / "out.gguf", overwrite=False)


def test_the_default_output_is_next_to_the_file():
    assert fixed_path(Path("/models/bge-m3-Q8_0.gguf")) == Path("/models/bge-m3-Q8_0-fixed.gguf")
