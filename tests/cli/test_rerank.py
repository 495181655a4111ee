"""`gguf-embed rerank`: scores of a reranker or cosines, best first."""

from __future__ import annotations

import json

import pytest

from gguf_embed.embedder.embedder import Embedder
from tests.cli.one_shot import Done, call

DOCUMENTS = ("the cat", "a red dog sat", "hello world")


@pytest.fixture
def run(models, cache_dir):
    def run_(*words, model="reranker.gguf", **streams) -> Done:
        named = ("-m", models / model) if model else ()
        return call("rerank", *words, *named, environment={"GGUF_EMBED_CACHE": str(cache_dir)}, **streams)

    return run_


def test_documents_are_printed_best_first(run, models, cache_dir):
    done = run("cat", *DOCUMENTS)
    with Embedder(models / "reranker.gguf", cache=cache_dir) as model:
        expected = model.rerank("cat", DOCUMENTS)
    assert (done.code, done.err) == (0, "")
    assert [line.split("  ")[-1] for line in done.lines] == [DOCUMENTS[hit.index] for hit in expected]
    assert [float(line.split()[0]) for line in done.lines] == pytest.approx([hit.score for hit in expected], abs=1e-3)


def test_json_has_the_index_and_the_place(run, tmp_path):
    path = tmp_path / "d.txt"
    path.write_text("the cat\n\nhello\n")
    rows = [json.loads(line) for line in run("cat", "a dog", "-f", path, "--json").lines]
    assert {row["index"]: (row["text"], row["place"]) for row in rows} == {
        0: ("a dog", "document 1"),
        1: ("the cat", f"{path}:1"),
        2: ("hello", f"{path}:3"),
    }
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)


@pytest.mark.parametrize("by", ["score", "embedding"])
def test_top_keeps_the_best(run, by):
    model = "reranker.gguf" if by == "score" else "encoder.gguf"
    everything = run("cat", *DOCUMENTS, "--by", by, model=model).lines
    assert len(everything) == 3
    assert run("cat", *DOCUMENTS, "--by", by, "--top", 2, model=model).lines == everything[:2]


def test_any_model_ranks_by_the_cosine(run):
    done = run("the cat", *DOCUMENTS, "--by", "embedding", model="encoder.gguf")
    assert done.lines[0] == "  1.0000  the cat"


def test_documents_are_read_from_stdin(run):
    assert len(run("cat", stdin="\n".join(DOCUMENTS).encode()).lines) == 3


def test_a_terminal_gets_texts_cut_to_its_width(run):
    long = "the cat and the dog " * 5
    assert run("cat", long, terminal=True).lines[0].endswith("and the dog the cat a…")
    assert len(run("cat", long, terminal=True).lines[0]) <= 80
    assert run("cat", long).lines[0].endswith(long.strip())


def test_an_endpoint_ranks_by_the_cosine(run, tiny_server):
    there = run("the cat", *DOCUMENTS, "--by", "embedding", "--endpoint", tiny_server.url, model=None)
    assert there.lines == run("the cat", *DOCUMENTS, "--by", "embedding", model="encoder.gguf").lines


@pytest.mark.parametrize(
    ("words", "model", "message"),
    [
        (["cat", "dog"], "encoder.gguf", "has no rank head, so it cannot rerank: use a reranker (`gguf-embed list --"),
        ([" ", "dog"], "reranker.gguf", "the query is empty"),
        (["cat", ""], "reranker.gguf", "document 1 is empty"),
        (["cat", "dog", "--api-key", "k"], "reranker.gguf", "--api-key is for an --endpoint"),
        (["cat", "dog", "cat " * 70], "reranker.gguf", "document 2 and the query have"),
        (["cat " * 70, "dog"], "reranker.gguf", "the query is too large (73 tokens alone"),
        (
            ["cat", "cat " * 70, "--by", "embedding"],
            "encoder.gguf",
            "document 1 has 72 tokens, the limit per text is 64",
        ),
        (
            ["cat", "dog", "--by", "embedding"],
            "reranker.gguf",
            "which gives scores and no vectors: leave out --by embedding",
        ),
    ],
)
def test_errors_are_one_line(run, words, model, message):
    done = run(*words, model=model)
    assert (done.code, done.out, done.err.count("\n")) == (1, b"", 1)
    assert message in done.err


def test_a_model_without_dense_vectors_ranks_without_the_flag(run, cache_dir):
    pytest.importorskip("py_rust_stemmers")
    assert call("pull", "bm25", environment={"GGUF_EMBED_CACHE": str(cache_dir)}).code == 0
    done = run("cat", "dog", "--by", "embedding", "-m", "bm25", model=None)
    assert (done.code, done.out) == (1, b"")
    assert done.err.endswith(
        "'bm25' gives sparse vectors and no others: use an embedding model, or a reranker without --by embedding\n"
    )


def test_no_document_on_a_terminal_is_wrong_usage(run):
    done = run("cat", terminal=True)
    assert done.code == 2
    assert done.err.endswith("`gguf-embed rerank --help` describes all flags\n")
    assert "no document given" in done.err


def test_an_endpoint_that_cannot_rerank_names_the_other_way(run, tiny_server):
    done = run("cat", "dog", "--endpoint", tiny_server.url, model=None)
    assert done.code == 1
    assert done.err.endswith(": use a reranker, or --by embedding\n")
