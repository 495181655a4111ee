"""The scripts of docs/examples run against a real server, and show what they say they show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gguf_embed.types import Pooling
from tests.gguf_models import write_tiny_encoder
from tests.server_process import Server

FOLDER = Path(__file__).parent.parent / "docs" / "examples"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))

pytestmark = pytest.mark.process


def run(server: Server, name: str, *arguments: str) -> str:
    """What the script prints, for the server's address."""
    command = [sys.executable, str(FOLDER / name), "--url", server.url, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout


def ranked(printed: str) -> dict[str, list[str]]:
    """Heading of each paragraph → the texts of its lines `  0.123  text`, in their order."""
    paragraphs = [paragraph.splitlines() for paragraph in printed.strip().split("\n\n")]
    return {lines[0]: [re.sub(r"^\s+-?\d\.\d+\s+", "", line) for line in lines[1:]] for lines in paragraphs}


def test_every_script_is_in_the_list_and_tested():
    page = (FOLDER / "README.md").read_text("utf-8")
    listed = re.findall(r"^\| \[(\w+\.py)\]\((\w+\.py)\) \|", page, re.MULTILINE)
    assert sorted(listed) == [(name, name) for name in SCRIPTS]
    own_source = Path(__file__).read_text("utf-8")
    assert [name for name in SCRIPTS if f'"{name}"' not in own_source] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_shows_and_how_to_run_it(name):
    docstring = (FOLDER / name).read_text("utf-8").split('"""')[1]
    assert f"\npython docs/examples/{name} [--url http://127.0.0.1:8080]" in docstring


def test_duplicates_are_the_texts_that_say_the_same(default_server):
    pairs = {line.partition("  ")[2] for line in run(default_server, "duplicates.py").splitlines()}
    assert pairs == {
        "How do I reset my password?  =  I forgot my password, how can I set a new one?",
        "Where is my parcel? It has not arrived.  =  My parcel has not arrived, where is it?",
    }
    assert run(default_server, "duplicates.py", "--threshold", "0.999") == ""


def test_semantic_search_finds_what_is_meant(default_server):
    found = ranked(run(default_server, "semantic_search.py"))
    best = {query: texts[0].split()[0] for query, texts in found.items()}
    assert best == {
        "How do plants get their energy?": "Photosynthesis",
        "a pet taking a nap": "The",
        "avoid losing data": "Regular",
    }
    (texts,) = ranked(run(default_server, "semantic_search.py", "railway travel")).values()
    assert texts[0].startswith("A train")


def test_openais_client_gets_cosines_an_error_and_a_visible_cut(default_server):
    printed = run(default_server, "openai_client.py")
    assert "3 vectors of 384 numbers, 24 tokens" in printed
    weather, sunny, stadium = map(float, re.findall(r"-?\d\.\d{3}", printed)[:3])
    assert weather == 1.0
    assert sunny > stadium + 0.3
    assert "400 context_length_exceeded" in printed
    assert "512 of 100002 tokens" in printed


def test_rerank_scores_what_the_vectors_chose(default_server):
    printed = run(default_server, "rerank.py")
    chosen = re.findall(r"\d", re.findall(r"documents (.*)", printed)[0])
    assert re.search(r" all-MiniLM-L6-v2\b.*\bcosine\b", printed)
    results = re.findall(r"^  (-?\d\.\d{3})  (\d): ", printed, re.MULTILINE)
    assert [index for _, index in results] == chosen[:3]
    assert results[0][1] == "0"
    assert sorted(results, key=lambda result: -float(result[0])) == results


def test_rerank_takes_a_reranker(launch, tmp_path):
    vectors = write_tiny_encoder(tmp_path / "vectors.gguf", n_ctx=512)
    scores = write_tiny_encoder(tmp_path / "scores.gguf", n_ctx=512, pooling=Pooling.RANK, rank_head=True)
    server = launch("-m", vectors, "-m", scores)
    printed = run(server, "rerank.py", "--reranker", "scores")
    assert re.search(r" scores\b.*\blogit\b", printed)
    assert len(re.findall(r"^  -?\d+\.\d{3}  \d: ", printed, re.MULTILINE)) == 3


def test_late_chunking_finds_the_sentence_that_does_not_name_its_subject(default_server):
    printed = run(default_server, "late_chunking.py")
    rows = re.findall(r"^ +(-?\d\.\d{3}) +(-?\d\.\d{3})  (.*)$", printed, re.MULTILINE)
    assert len(rows) == 5
    in_its_text = max(rows, key=lambda row: float(row[0]))
    alone = max(rows, key=lambda row: float(row[1]))
    assert in_its_text[2] == "It has 3.8 million inhabitants."
    assert alone[2] == "Berlin is the capital of Germany."


def test_token_vectors_tell_which_word_is_met_by_which(default_server):
    printed = run(default_server, "token_vectors.py")
    assert printed.startswith("13 tokens of 384 numbers: We | sat | on | the | bank")
    met = dict(re.findall(r"^ *(\w+)  best match: (\w+) ", printed, re.MULTILINE))
    assert met["ships"] == "boats"
    mean = sum(map(float, re.findall(r"best match: .* (\d\.\d+)$", printed, re.MULTILINE))) / len(met)
    assert float(printed.split()[-1]) == pytest.approx(mean, abs=0.001)


def test_small_vectors_keep_the_ranking(default_server):
    printed = run(default_server, "small_vectors.py")
    assert re.findall(r"(\w+): (\d+) bytes", printed) == [("float", "1536"), ("int8", "384"), ("ubinary", "48")]
    floats, int8, bits = list(ranked(printed).values())[1:]
    assert floats == int8
    assert floats[:2] == bits[:2]
    assert floats[0] == "Kids have fun on the lawn."
