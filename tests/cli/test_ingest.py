"""`gguf-embed ingest` and `search` as a person runs them: real processes, a tiny model."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from contextlib import closing

import numpy as np
import pytest

from gguf_embed import Embedder, Muvera
from gguf_embed.cli.ingest_end import without_password
from gguf_embed.convert.convert import convert_directory
from tests.data.head_directories import write_directory
from tests.ingest.job.jobs import ENDLESS
from tests.server_process import clean_environment, command, run_to_end

PAGES = {
    "guide/install.md": "# Install\n\nRun the installer.\n\n## Windows\n\nDouble-click it, then restart the machine.\n",
    "guide/use.md": "# Use\n\nOpen the window and type your question into the field at the top.\n",
    "readme.txt": "A plain text without headings.",
}


@pytest.fixture
def job(tmp_path, cache_dir, models):
    """Runs `ingest` or `search` in a folder of its own, with the tiny encoder."""
    for name, text in PAGES.items():
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(name, *arguments, model=models / "encoder.gguf"):
        flags = ["-m", model] if model is not None else []
        return run_to_end(cache_dir, name, *arguments, *flags, XDG_STATE_HOME=str(tmp_path / "state"))

    return run


def sink_of(tmp_path):
    return f"sqlite:{tmp_path / 'rows.db'}?table=docs"


def write_rows(path, n):
    path.write_text("".join(json.dumps({"id": f"r{i}", "text": f"hello world number {i}"}) + "\n" for i in range(n)))


def test_a_folder_of_texts_is_stored_in_chunks_and_found_again(job, tmp_path):
    done = job("ingest", tmp_path / "docs", "--to", sink_of(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 documents read: 3 stored in 4 rows, 0 unchanged, 0 rejected" in done.stdout
    assert "0 stored in 0 rows, 3 unchanged" in job("ingest", tmp_path / "docs", "--to", sink_of(tmp_path)).stdout
    found = job("search", sink_of(tmp_path), "Double-click it, then restart", "-n", "4", "--json", model=None)
    assert found.returncode == 0, found.stderr
    hits = [json.loads(line) for line in found.stdout.splitlines()]
    assert {hit["doc_id"] for hit in hits} == set(PAGES)
    assert "Install > Windows" in {hit["headings"] for hit in hits}
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    shown = job("search", sink_of(tmp_path), "restart", "-n", "1")
    assert shown.returncode == 0
    assert shown.stdout.splitlines()[0].split()[1].partition("#")[0] in PAGES


def test_a_dry_run_stores_nothing(job, tmp_path):
    done = job("ingest", tmp_path / "docs", "--to", sink_of(tmp_path), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "3 would be stored in 4 rows" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs"]


def test_events_for_programs(job, tmp_path):
    write_rows(tmp_path / "rows.jsonl", 3)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write("not JSON\n")
    done = job(
        "ingest", tmp_path / "rows.jsonl", "--to", sink_of(tmp_path), "--json", "--rejects", tmp_path / "bad.jsonl"
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert (events[0]["event"], events[-1]["event"]) == ("start", "end")
    assert {name: events[-1][name] for name in ("read", "stored", "rejected", "rows", "complete", "error")} == {
        "read": 4, "stored": 3, "rejected": 1, "rows": 3, "complete": True, "error": None,
    }  # fmt: skip
    assert json.loads((tmp_path / "bad.jsonl").read_text())["place"] == "rows.jsonl:4"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["docs", "--to", "nowhere:x"], "'nowhere:x' is not the URL of a sink"),
        (["docs", "--to", "sqlte:x"], "did you mean sqlite:x?"),
        (["docs", "--to", "sqlite:"], "names no file or folder"),
        (["missing", "--to", "SINK"], "there is no file or folder"),
        (["docs", "docs", "--to", "SINK"], "two sources are called"),
        (["docs", "--to", "SINK", "--prune", "--limit", "1"], "give only one of them"),
        (["docs", "--to", "SINK", "--chunk", "many"], "many"),
        (["docs", "--to", "SINK", "--rejects", "no/such/folder/x"], "--rejects no/such/folder/x cannot be written"),
        (["docs", "--to", "SINK", "--api-key", "k"], "--api-key is for an --endpoint"),
        (["docs", "--to", "SINK", "--endpoint", "http://127.0.0.1:1", "--pooling", "cls"], "start that server with"),
        (["docs", "--to", "SINK", "--dimensions", "999"], "999"),
        (["docs", "--to", "SINK", "--ray-address", "x"], "--ray-address needs --runner ray"),
    ],
)
def test_mistakes_are_one_line_with_a_way_out(job, tmp_path, arguments, words):
    given = [sink_of(tmp_path) if word == "SINK" else word for word in arguments]
    given = [str(tmp_path / word) if word in ("docs", "missing") else word for word in given]
    done = job("ingest", *given)
    assert done.returncode == 1, done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert words in lines[0]


def test_a_search_where_nothing_is_stored(job, tmp_path):
    done = job("search", sink_of(tmp_path), "anything")
    assert done.returncode == 1
    assert "fill it with gguf-embed ingest" in done.stderr
    job("ingest", tmp_path / "docs", "--to", sink_of(tmp_path))
    other = job("search", f"sqlite:{tmp_path / 'rows.db'}", "anything")
    assert f"the table there is docs: write 'sqlite:{tmp_path / 'rows.db'}?table=docs'" in other.stderr
    assert "the query is empty" in job("search", sink_of(tmp_path), " ").stderr


def test_a_search_with_another_model_names_the_one_that_made_the_rows(job, tmp_path, models):
    job("ingest", tmp_path / "docs", "--to", sink_of(tmp_path))
    done = job("search", sink_of(tmp_path), "anything", model=models / "decoder.gguf")
    assert done.returncode == 1
    assert "were made with another model: they differ in the model file (encoder" in done.stderr
    assert done.stderr.rstrip().endswith("; search with encoder")


def test_a_missing_sink_has_an_example(job, tmp_path):
    done = job("ingest", tmp_path / "docs")
    assert done.returncode == 2
    assert "--to is missing, which says where the rows go: for example, --to 'lancedb:" in done.stderr


def test_the_end_says_how_to_search(job, tmp_path, models):
    done = job("ingest", tmp_path / "docs", "--to", sink_of(tmp_path))
    command = f"gguf-embed search '{sink_of(tmp_path)}' -m {models / 'encoder.gguf'} \"...\""
    assert done.stdout.splitlines()[-1] == f"search it: {command}"
    again = job("ingest", tmp_path / "docs", "--to", sink_of(tmp_path))
    assert "nothing had to be embedded" in again.stdout
    assert without_password("postgresql://me:secret@db/app") == "postgresql://me:PASSWORD@db/app"
    assert without_password("qdrant://:key@host") == "qdrant://:PASSWORD@host"


def test_other_chunks_are_named_in_words(job, tmp_path):
    job("ingest", tmp_path / "docs", "--to", sink_of(tmp_path))
    done = job("ingest", tmp_path / "docs", "--to", sink_of(tmp_path), "--chunk", "128,overlap=8")
    assert "the chunks (256 tokens; now 128 tokens, overlap 8): keep its chunks with --chunk 256, write" in done.stderr


def test_a_server_and_this_process_fill_one_table_with_the_same_model(job, tiny_server, models, tmp_path):
    write_rows(tmp_path / "rows.jsonl", 300)
    there = job("ingest", tmp_path / "rows.jsonl", "--to", sink_of(tmp_path), "--endpoint", tiny_server.url, model=None)
    assert there.returncode == 0, there.stderr
    assert "300 documents read: 300 stored in 300 rows" in there.stdout
    write_rows(tmp_path / "rows.jsonl", 310)
    here = job("ingest", tmp_path / "rows.jsonl", "--to", sink_of(tmp_path))
    assert "10 stored in 10 rows, 300 unchanged" in here.stdout, here.stderr
    other = job("ingest", tmp_path / "rows.jsonl", "--to", sink_of(tmp_path), model=models / "decoder.gguf")
    assert other.returncode == 1
    assert "has rows that differ in the model (encoder" in other.stderr
    found = job("search", sink_of(tmp_path), "hello world number 7", "-n", "1", "--json", "--endpoint", tiny_server.url)
    assert json.loads(found.stdout)["id"] == "r7"


def start(cache_dir, models, tmp_path, *arguments):
    environment = clean_environment(cache_dir, {"XDG_STATE_HOME": str(tmp_path / "state")})
    line = command("ingest", *arguments, "--to", sink_of(tmp_path), "-m", models / "encoder.gguf", "--json")
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_ctrl_c_stores_what_was_read_and_the_next_run_goes_on(job, cache_dir, models, tmp_path):
    write_rows(tmp_path / "rows.jsonl", ENDLESS)
    process = start(cache_dir, models, tmp_path, tmp_path / "rows.jsonl")
    for line in process.stdout:
        if json.loads(line).get("stored"):
            break
    process.send_signal(signal.SIGINT)
    printed, failed = process.communicate(timeout=60)
    assert (process.returncode, failed) == (130, "")
    end = json.loads(printed.splitlines()[-1])
    assert 0 < end["stored"] <= end["read"] < ENDLESS
    assert not end["complete"]
    done = job(
        "ingest", tmp_path / "rows.jsonl", "--to", sink_of(tmp_path), "--json", "--limit", str(end["stored"] + 5)
    )
    assert json.loads(done.stdout.splitlines()[-1])["stored"] == 5


def test_a_second_ctrl_c_stops_at_once(cache_dir, models, tmp_path):
    write_rows(tmp_path / "rows.jsonl", ENDLESS)
    process = start(cache_dir, models, tmp_path, tmp_path / "rows.jsonl")
    for line in process.stdout:
        if json.loads(line).get("stored"):
            break
    process.send_signal(signal.SIGINT)
    assert "Ctrl-C again" in next(line for line in process.stdout if "message" in line)
    started_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, failed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert failed == "stopped; the same command goes on where this one was stopped\n"
    assert time.monotonic() - started_s < 5


def test_every_kind_of_vector_is_stored(job, tmp_path):
    edge = pytest.importorskip("qdrant_edge")
    for name in ("bge_m3", "colbert_bert"):
        source = write_directory(name, tmp_path / name)
        convert_directory(source, tmp_path / f"{name}.gguf", "f32", report=lambda line: None)
    texts = {"fox": "The quick brown fox", "cat": "hello cat", "long": "many words " * 500}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()))
    sink, flags = f"qdrant:{tmp_path / 'q'}", ("--pooling", "cls", "--vectors", "dense,sparse,multivector")
    done = job("ingest", path, "--to", sink, *flags, model=tmp_path / "bge_m3.gguf")
    assert done.returncode == 0, done.stderr
    assert "3 documents read: 2 stored in 2 rows, 0 unchanged, 1 rejected" in done.stdout
    assert "2 unchanged" in job("ingest", path, "--to", sink, *flags, model=tmp_path / "bge_m3.gguf").stdout
    shard = edge.EdgeShard.load(str(tmp_path / "q"))
    points = shard.scroll(edge.ScrollRequest(limit=9, with_vector=True, with_payload=True))[0]
    stored = {point.payload["id"]: point.vector for point in points}
    shard.close()
    with Embedder(tmp_path / "bge_m3.gguf", pooling="cls", cache=tmp_path / "cache") as model:
        [tokens], [sparse] = model.embed_multivector([texts["fox"]]), model.embed_sparse([texts["fox"]])
        dense = model.embed(texts["fox"])
    np.testing.assert_allclose(stored["fox"]["dense"], dense, atol=1e-2)
    np.testing.assert_allclose(stored["fox"]["multivector"], tokens, atol=1e-2)
    assert stored["fox"]["sparse"].indices == sparse.indices.tolist()
    assert stored.keys() == {"fox", "cat"}

    found = job("search", sink, texts["cat"], "-n", "1", model=None)
    assert found.stdout.splitlines()[0].split()[1] == "cat", found.stderr
    changed = job("ingest", path, "--to", sink, "--pooling", "cls", "--force", model=tmp_path / "bge_m3.gguf")
    assert "the kinds of vectors" in changed.stderr
    assert "write into another one" in changed.stderr

    colbert = ("ingest", path, "--to", f"qdrant:{tmp_path / 'c'}", "--truncate")
    done = job(*colbert, "--vectors", "multivector", model=tmp_path / "colbert_bert.gguf")
    assert "3 stored in 3 rows" in done.stdout, done.stderr
    assert "search it: gguf-embed search" in done.stdout
    for name in texts.keys() - {"long"}:
        found = job("search", f"qdrant:{tmp_path / 'c'}", texts[name], "-n", "1", "--truncate", model=None)
        assert found.stdout.splitlines()[0].split()[1] == name, found.stderr
    refused = job(*colbert, "--vectors", "sparse,multivector", model=tmp_path / "colbert_bert.gguf")
    assert "has no head for sparse vectors" in refused.stderr
    refused = job("ingest", path, "--to", sink_of(tmp_path), "--vectors", "sparse", model="missing.gguf")
    assert "a sink of sqlite stores dense vectors, not sparse" in refused.stderr


def test_muvera_vectors_are_stored_as_dense_ones(job, tmp_path, cache_dir):
    colbert = tmp_path / "colbert_bert.gguf"
    convert_directory(write_directory("colbert_bert", tmp_path / "c"), colbert, "f32", report=lambda line: None)
    texts = {"fox": "The quick brown fox", "cat": "hello cat"}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()))
    sink, muvera = sink_of(tmp_path), ("--truncate", "--vectors", "muvera", "--muvera", "k_sim=3,r_reps=4")
    done = job("ingest", path, "--to", sink, *muvera, model=colbert)
    assert "2 stored in 2 rows" in done.stdout, done.stderr
    with Embedder(colbert, cache=cache_dir) as model:  # which remembers the engine that the job has chosen
        [cat] = model.embed_muvera([texts["cat"]], settings=Muvera(k_sim=3, r_reps=4), prompt="document")
        [query] = model.embed_muvera([texts["cat"]], settings=Muvera(k_sim=3, r_reps=4), prompt="query", truncate=True)
    with closing(sqlite3.connect(tmp_path / "rows.db")) as rows:
        [[stored]] = rows.execute("select embedding from docs where id = 'cat'").fetchall()
    np.testing.assert_allclose(np.frombuffer(stored, np.float32), cat, atol=1e-2)
    found = job("search", sink, texts["cat"], "-n", "2", "--truncate", "--json", model=colbert)
    scores = {hit["id"]: hit["score"] for hit in map(json.loads, found.stdout.splitlines())}
    assert scores["cat"] == pytest.approx(cat @ query / np.linalg.norm(cat) / np.linalg.norm(query), abs=1e-3)
    assert max(scores, key=scores.__getitem__) == "cat"

    again = job("ingest", path, "--to", sink, *muvera[:3], model=colbert)
    assert "dim_proj=16,r_reps=4,random_seed=42; now muvera k_sim=5" in again.stderr
    refused = job("search", sink, "cat", "--endpoint", "http://127.0.0.1:1", model=None)
    assert "leave out --endpoint" in refused.stderr
    refused = job("ingest", path, "--to", f"npy:{tmp_path / 'n'}", "--vectors", "muvera")
    assert "has no head for multivector" in refused.stderr
    refused = job("ingest", path, "--to", f"npy:{tmp_path / 'n'}", *muvera, "--dimensions", "8", model=colbert)
    assert "leave the number of dimensions out" in refused.stderr


def test_a_model_with_sparse_vectors_only_needs_the_flag(job, tmp_path):
    pytest.importorskip("py_rust_stemmers")
    done = job("ingest", tmp_path / "docs", "--to", "null:", model="bm25")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "gguf-embed: bm25 gives sparse vectors and no others: add --vectors sparse\n"
    done = job("ingest", tmp_path / "docs", "--to", "null:", "--vectors", "sparse", model="bm25")
    assert (done.returncode, done.stderr) == (0, "")
    assert "search it" not in done.stdout
    pytest.importorskip("qdrant_edge")
    sink = f"qdrant:{tmp_path / 'q'}"
    done = job("ingest", tmp_path / "docs", "--to", sink, "--vectors", "sparse", model="bm25")
    assert "search it: gguf-embed search" in done.stdout, done.stderr
    found = job("search", sink, "double-clicking", "--json", model=None)
    assert "Double-click" in json.loads(found.stdout.splitlines()[0])["text"], found.stderr
    assert job("search", sink, "zebras", model=None).stdout == "nothing was found\n"
    refused = job("search", sink, "zebras", "--endpoint", "http://localhost:9", model=None)
    assert "what is stored are sparse vectors, which a model in this process makes" in refused.stderr
