"""Encoders that only the graph engine computes: what is written, and that texts get the original tokenizer's ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from unicodedata import normalize

import pytest

from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.convert.convert import convert_directory
from gguf_embed.doctor.examine import examine
from gguf_embed.doctor.rewrite import check_can_rewrite
from gguf_embed.engines.openvino.driver import OpenVinoDriver
from gguf_embed.engines.select import Candidates, select_driver
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.bounds import check_bounds, vocabulary_problem
from gguf_embed.gguf_file.facts import check_can_embed, has_rank_head, pooling_type
from gguf_embed.gguf_file.graph_only import OWN_ARCHITECTURES
from gguf_embed.gguf_file.header import read_header
from gguf_embed.preprocessing.pairs import pair_form, pair_maker
from gguf_embed.preprocessing.tokenizers import Tokenizer, choose_tokenizer
from gguf_embed.types import Pooling
from tests.convert.encoders import tiny_models as tiny
from tests.engines.openvino.graph_models import MODELS, write_gguf
from tests.engines.openvino.running import load_spec
from tests.engines.openvino.test_bad_files import rewritten

Converted = Callable[[str], Path]

EMBEDDERS = ("mpnet", "gte", "deberta_v2", "jina_v3", "t5_gated", "t5_relu")
RERANKERS = ("mpnet_reranker", "distilbert_reranker", "gte_reranker", "deberta_v2_reranker")


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Converted:
    """Converts a tiny model once."""
    folder = tmp_path_factory.mktemp("encoders")

    @cache
    def convert(name: str) -> Path:
        source = tiny.write_directory(name, folder / name)
        convert_directory(source, folder / f"{name}.gguf", "f32", report=lambda line: None)
        return folder / f"{name}.gguf"

    return convert


@contextmanager
def loaded(path: Path, pooling: Pooling):
    engine = OpenVinoDriver().load(load_spec(path, pooling))
    with closing(engine.engine):
        yield engine


@contextmanager
def tokenizer_of(path: Path, pooling: Pooling = Pooling.MEAN) -> Iterator[Tokenizer]:
    with loaded(path, pooling) as model:
        yield choose_tokenizer(model.codec, model.exact, "auto")


@pytest.mark.parametrize("name", EMBEDDERS)
def test_texts_get_the_ids_of_the_original_tokenizer(converted, name):
    with tokenizer_of(converted(name)) as tokenizer:
        assert tokenizer.encode_batch(tiny.OWN_TEXTS) == tiny.ids_of(tiny.reference(name))


@pytest.mark.parametrize("layout", ["_of_crisp_embed", "_of_crisp_embed_with_our_names"])
@pytest.mark.parametrize("name", ["mpnet", "bert", "bert_unigram", "xlm_roberta", "roberta", "modern_bert"])
def test_crisp_embeds_files_get_the_same_ids(tmp_path, name, layout):
    if name + layout not in MODELS:
        pytest.skip("CrispEmbed does not write it, or it is llama.cpp's own")
    texts = tiny.OWN_TEXTS if name == "mpnet" else tiny.TEXTS
    expected = tiny.ids_of(tiny.reference(name))
    with tokenizer_of(write_gguf(name + layout, tmp_path / "m.gguf")) as tokenizer:
        found = tokenizer.encode_batch(texts)
    has_table = name not in ("bert_unigram", "xlm_roberta")  # the tiny Unigram tokenizer does not normalize
    plain = [has_table or normalize("NFKC", text) == text.replace("\u200d", "") for text in texts]
    assert [ids for ids, is_plain in zip(found, plain, strict=True) if is_plain] == [
        ids for ids, is_plain in zip(expected, plain, strict=True) if is_plain
    ]
    assert sum(plain) > 5
    assert examine(tmp_path / "m.gguf").findings == ()


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("unknown_token_id", "tokenizer.ggml.unknown_token_id is missing"),
        ("scores", "tokenizer.ggml.scores has 0 numbers for 432 entries"),
    ],
)
def test_a_missing_part_of_crisp_embeds_tokenizer_is_named(tmp_path, key, problem):
    path = write_gguf("xlm_roberta_of_crisp_embed", tmp_path / "m.gguf")
    changed = rewritten(path, entries={f"tokenizer.ggml.{key}": None})
    with pytest.raises(ModelFileError, match=problem), tokenizer_of(changed):
        pass


@pytest.mark.parametrize(
    "name",
    [
        "bert_reranker_of_crisp_embed",
        "bert_reranker_of_crisp_embed_with_our_names",
        "xlm_roberta_reranker_of_crisp_embed",
        "xlm_roberta_reranker_of_crisp_embed_with_our_names",
        "roberta_reranker_of_crisp_embed",
        "modern_bert_reranker_cls_of_crisp_embed",
    ],
)
def test_crisp_embeds_rerankers_get_the_same_pairs(tmp_path, name):
    path = write_gguf(name, tmp_path / "m.gguf")
    assert pooling_type(read_header(path)) is Pooling.RANK
    assert pairs_of(path) == tiny.ids_of(tiny.reference(name.partition("_of_")[0]))
    assert {finding.code for finding in examine(path).findings} <= {"rank_labels"}  # some have two, without names
    with pytest.raises(ModelFileError, match="CrispEmbed's layout, which cannot be rewritten"):
        check_can_rewrite(path, tmp_path / "fixed.gguf", overwrite=False)


@pytest.mark.parametrize("name", RERANKERS)
def test_pairs_get_the_ids_of_the_original_tokenizer(converted, name):
    assert pairs_of(converted(name)) == tiny.ids_of(tiny.reference(name))


def pairs_of(path: Path) -> list[list[int]]:
    with loaded(path, Pooling.RANK) as model:
        tokenizer = choose_tokenizer(model.codec, model.exact, "auto")
        form = pair_form("", model.engine.info)
        pairs = [pair_maker(model.codec, tokenizer, form, query)(text) for query, text in tiny.PAIRS]
        n_vocab = len(model.codec.vocabulary().entries)
        found = [[*pair.opening, *pair.body, *pair.closing] for pair in pairs]
        if form.has_second_text:  # from the document on, the second type
            first = [len(pair.opening) for pair in pairs]
            types = [[token // n_vocab for token in ids] for ids in found]
            assert types == [[0] * n + [1] * (len(ids) - n) for n, ids in zip(first, found, strict=True)]
        return [[token % n_vocab for token in ids] for ids in found]


@pytest.mark.parametrize("name", ["t5_gated", "t5_of_llama_cpp"])
def test_llama_cpp_computes_the_same_for_a_t5_encoder_without_dense(tmp_path, name):
    stored = tiny.reference("t5_gated")
    with closing(tiny.open_engine(write_gguf(name, tmp_path / "model.gguf"))) as engine:
        assert not engine.info.causal
        found = tiny.rows(engine, tiny.ids_of(stored), Pooling.MEAN)
    assert tiny.cosines(found, stored["vectors"]).min() > 0.9999


def test_the_originals_ntk_scaling_means_the_same(tmp_path, converted):
    original = {"architectures": ["NewModel"], "model_type": "new", "rope_theta": 20_000, "rope_parameters": None}
    scaling = {"type": "ntk", "factor": 8.0}
    source = tiny.write_directory("gte", tmp_path / "hf", **original, rope_scaling=scaling)
    convert_directory(source, tmp_path / "m.gguf", "f32", report=lambda line: None)
    found, expected = read_header(tmp_path / "m.gguf").metadata, read_header(converted("gte")).metadata
    for key in ("gte.rope.freq_base", "gte.rope.scaling.factor", "gte.rope.scaling.type"):
        assert found[key] == expected[key]


def test_a_dense_module_is_left_to_the_graph(converted):
    header = read_header(converted("t5_relu"))
    assert [driver.name for driver in Candidates(header, ModelConfig()).drivers()] == ["openvino"]
    with pytest.raises(ModelFileError, match="llama: it does not compute the Dense module of a T5 encoder"):
        select_driver(header, ModelConfig(compute=ComputeConfig(engine="llama")))


@pytest.mark.parametrize("name", [*EMBEDDERS, *RERANKERS])
def test_a_converted_file_has_nothing_to_complain_about(converted, name):
    header = read_header(converted(name))
    check_can_embed(header)
    check_bounds(header)
    assert vocabulary_problem(header) is None
    assert has_rank_head(header) == (name in RERANKERS)
    assert examine(header.path).findings == ()


@pytest.mark.parametrize("name", ["mpnet", "distilbert_reranker", "gte", "deberta_v2"])
def test_llama_cpp_is_never_asked(converted, monkeypatch, name):
    header = read_header(converted(name))
    assert header.architecture in OWN_ARCHITECTURES
    assert [driver.name for driver in Candidates(header, ModelConfig()).drivers()] == ["openvino"]
    with pytest.raises(ModelFileError, match=f"llama: it does not compute {header.architecture} models"):
        select_driver(header, ModelConfig(compute=ComputeConfig(engine="llama")))
    monkeypatch.setattr("gguf_embed.engines.openvino.support.find_spec", lambda name: None)
    with pytest.raises(ModelFileError, match=r"openvino is not installed \(pip .*; llama: it does not compute"):
        select_driver(header, ModelConfig())
    with pytest.raises(ModelFileError, match=r"tokenizer"):
        select_driver(header, ModelConfig(tokenizer="llama"))
