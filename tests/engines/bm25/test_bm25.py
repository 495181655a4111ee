"""BM25's sparse vectors are those of fastembed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gguf_embed import Embedder
from gguf_embed.convert.bm25 import write_bm25
from gguf_embed.engines.bm25.murmur import murmur3
from gguf_embed.engines.bm25.words import WordHashes
from gguf_embed.engines.heads.sparse import counted
from gguf_embed.errors import InvalidInput, ModelFileError, ModelLoadFailed, NotSupported
from gguf_embed.gguf_file.token_heads import Bm25

REFERENCE = json.loads((Path(__file__).parents[2] / "data" / "bm25" / "reference.json").read_text("utf-8"))
NAMES = {"english": "bm25", "german": "bm25:german"}


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("", 0),
        ("a", 1009084850),
        ("ab", 2613040991),
        ("abc", 3017643002),
        ("abcd", 1139631978),
        ("hello", 613153351),
        ("größe", 3822294591),
        ("x" * 17, 1181088194),
    ],
)
def test_hashes_are_those_of_mmh3(word, found):
    assert murmur3(word.encode()) == found


def test_words_are_read_in_lower_case_without_stop_words_and_long_ones():
    words = WordHashes(lambda word: word.removesuffix("s").removesuffix("q"), {"the"}, 5)
    ids, spans = words.ids_with_offsets("The Cats, cat_ _ longer! İx q")
    assert ids == words.ids("The Cats, cat_ _ longer! İx q")
    assert [min(murmur3(stem), 2**32 - murmur3(stem)) for stem in (b"cat", b"cat_", b"i", b"x")] == ids
    assert list(spans) == [(4, 8), (10, 14), (25, 26), (26, 27)]
    assert words.ids_with_offsets("") == ([], [])


def test_weights_grow_with_occurrences_and_shrink_with_length():
    bm25 = Bm25(1.2, 0.75, 2.0)
    found = counted([[7, 3, 7], [7, *range(10, 19)]], bm25, is_query=False)
    short, long = found.text(0), found.text(1)
    assert short[0].tolist() == [3, 7]
    assert short[1][1] > short[1][0] > long[1][0]
    assert counted([[7, 3, 7]], bm25, is_query=True).weights.tolist() == [1.0, 1.0]


@pytest.fixture(params=REFERENCE)
def language(request):
    pytest.importorskip("py_rust_stemmers")
    return request.param


def test_vectors_are_those_of_fastembed(language, tmp_path):
    expected = REFERENCE[language]
    with Embedder(NAMES[language], cache=tmp_path, offline=True) as model:
        documents = model.embed_sparse(expected["texts"])
        queries = model.embed_sparse(expected["texts"], prompt="query")
        for found, weights in zip(documents, expected["documents"], strict=True):
            assert found.indices.tolist() == sorted(map(int, weights))
            np.testing.assert_allclose(found.values, [weights[str(i)] for i in found.indices], rtol=1e-6)
        for found, ids in zip(queries, expected["queries"], strict=True):
            assert (found.indices.tolist(), set(found.values.tolist())) == (ids, {1.0})


def test_what_bm25_does_not_have_is_refused(tmp_path):
    pytest.importorskip("py_rust_stemmers")
    with Embedder("bm25", cache=tmp_path, offline=True) as model:
        assert (model.info.dimensions, model.details.head_outputs) == (0, ("sparse",))
        with pytest.raises(InvalidInput, match="no word"):
            model.embed_sparse(["the and of"])
        with pytest.raises(NotSupported, match=r"gives sparse vectors and no others: use embed_sparse\(\)$"):
            model.embed("cat")
        with pytest.raises(NotSupported, match="no head for multivector"):
            model.embed_multivector(["cat"])
    with pytest.raises(ModelLoadFailed, match="pooling mean has no meaning"):
        Embedder("bm25", cache=tmp_path, offline=True, pooling="mean")
    with pytest.raises(NotSupported, match="no weights to quantize"):
        Embedder("bm25:Q8_0", cache=tmp_path, offline=True)


def test_a_language_without_stop_words_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="no stop words for 'klingon', only for english, german"):
        write_bm25("klingon", tmp_path / "x.gguf", name="x")
    assert not (tmp_path / "x.gguf").exists()
