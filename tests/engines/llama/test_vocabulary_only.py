"""A file opened for its vocabulary alone gives what a full load gives, for every kind of vocabulary."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from gguf_embed.convert.convert import convert_directory
from gguf_embed.engines.llama import api
from gguf_embed.engines.llama.codec import LlamaCodec, open_codec
from gguf_embed.engines.llama.engine import LlamaEngine, LlamaEngineConfig
from gguf_embed.errors import InvalidRequest, ModelFileError
from gguf_embed.gguf_file.constants import VocabularyType
from tests.convert.encoders.tiny_models import write_directory
from tests.convert.tokenizers.decoder_directory import MODELS, write_decoder_directory
from tests.convert.tokenizers.references import TEXTS, reference_tokenizers
from tests.gguf_models import write_tiny_decoder, write_tiny_encoder
from tests.wordpiece_files import in_full

ODD_TEXTS = ("", " ", "[SEP] <s> </s> <|endoftext|> <bos>", "\0", "\ud800", "🚀👩‍🚀", "e\u0301", "▁the")


def encoder(name: str) -> Callable[[Path], Path]:
    return lambda folder: write_directory(name, folder / "hf")


def decoder(name: str) -> Callable[[Path], Path]:
    model = MODELS[name]
    return lambda folder: write_decoder_directory(folder / "hf", model, reference_tokenizers()[model.tokenizer])


def converted(write: Callable[[Path], Path], folder: Path) -> Path:
    convert_directory(write(folder), folder / "model.gguf", "f32", report=lambda line: None)
    return folder / "model.gguf"


FILES: dict[str, tuple[VocabularyType, Callable[[Path], Path]]] = {
    "wordpiece": (VocabularyType.WPM, lambda folder: write_tiny_encoder(folder / "m.gguf")),
    "qwen": (VocabularyType.BPE, lambda folder: write_tiny_decoder(folder / "m.gguf")),
    "qwen3": (VocabularyType.BPE, lambda folder: converted(decoder("qwen3_embedding"), folder)),
    "gpt2": (VocabularyType.BPE, lambda folder: converted(encoder("roberta"), folder)),
    "modern_bert": (VocabularyType.BPE, lambda folder: converted(encoder("modern_bert"), folder)),
    "gemma": (VocabularyType.SPM, lambda folder: converted(decoder("gemma_embedding"), folder)),
    "xlm_roberta": (VocabularyType.UGM, lambda folder: converted(encoder("xlm_roberta"), folder)),
}


@pytest.mark.parametrize("name", FILES)
def test_it_agrees_with_a_full_load(name, tmp_path):
    family, write = FILES[name]
    path = write(tmp_path)
    opened = open_codec(path)
    with closing(LlamaEngine(LlamaEngineConfig(path))) as engine:
        ours, theirs = opened.codec, engine.codec
        assert isinstance(ours, LlamaCodec)
        assert ours.vocabulary_code == theirs.vocabulary_code == family == engine.info.vocab_type
        assert in_full(ours.vocabulary()) == in_full(theirs.vocabulary())
        assert ours.vocabulary().kind == family.kind
        assert ours.vocabulary().composes == (name in ("qwen", "qwen3", "modern_bert"))
        check_same_texts(ours, theirs)
        check_same_facts(ours, theirs)
    opened.close()
    opened.close()


def check_same_texts(ours: LlamaCodec, theirs: LlamaCodec) -> None:
    for text in (*TEXTS.values(), *ODD_TEXTS):
        for flags in ({"add_special": True, "parse_special": True}, {"add_special": False, "parse_special": False}):
            ids = ours.tokenize(text, **flags)
            assert ids == theirs.tokenize(text, **flags)
            assert ours.detokenize(ids) == theirs.detokenize(ids)
    n_vocab = len(ours.vocabulary().entries)
    assert [ours.token_bytes(i) for i in range(n_vocab)] == [theirs.token_bytes(i) for i in range(n_vocab)]
    source = random.Random(1)
    for _ in range(200):
        ids = source.choices(range(n_vocab), k=9)
        assert ours.detokenize(ids) == theirs.detokenize(ids)
    for codec in (ours, theirs):
        with pytest.raises(InvalidRequest, match=f"token id {n_vocab} is not in the model's vocabulary of {n_vocab}"):
            codec.token_bytes(n_vocab)


def check_same_facts(ours: LlamaCodec, theirs: LlamaCodec) -> None:
    """Of `ModelFacts`, what `load_model` promises for a vocabulary alone, and the metadata."""
    facts, full = api.model_facts(ours._model), api.model_facts(theirs._model)
    assert (facts.n_vocab, facts.has_encoder_and_decoder) == (full.n_vocab, full.has_encoder_and_decoder)
    for key in ("general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre", "missing"):
        assert api.read_metadata(ours._model, key) == api.read_metadata(theirs._model, key)


def test_a_file_that_llama_cpp_refuses_is_an_error_with_its_reason(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ModelFileError, match=r"llama\.cpp cannot load broken\.gguf: "):
        open_codec(tmp_path / "broken.gguf")
