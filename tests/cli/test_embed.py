"""`gguf-embed embed`: where texts come from, the formats, and what ends it."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gguf_embed.cli.one_shot import about
from gguf_embed.cli.terminal import n_columns_of, shortened
from gguf_embed.errors import AuthenticationFailed
from tests.cli.one_shot import Done, call, start
from tests.embedder.misbehaving import Misbehaving, status

LONG = "cat " * 70  # the tiny model takes 64 tokens


@pytest.fixture
def run(models, cache_dir):
    """Runs `embed` with a tiny model of 32 dimensions."""

    def run_(*words, model="encoder.gguf", **streams) -> Done:
        named = ("-m", models / model) if model else ()
        return call("embed", *words, *named, environment={"GGUF_EMBED_CACHE": str(cache_dir)}, **streams)

    return run_


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and found.dtype == np.float32 and bool(np.allclose(found, expected, atol=1e-4))


def vectors_of(done: Done) -> np.ndarray:
    return np.array([json.loads(line)["embedding"] for line in done.lines], np.float32)


def test_a_pipe_gets_json_lines(run):
    done = run("the cat", "hello 資料")
    rows = [json.loads(line) for line in done.lines]
    assert (done.code, done.err) == (0, "")
    assert [row["text"] for row in rows] == ["the cat", "hello 資料"]
    assert np.linalg.norm(vectors_of(done), axis=1) == pytest.approx(1.0, abs=1e-5)
    assert vectors_of(done).shape == (2, 32)


def test_a_terminal_gets_a_table(run):
    done = run("the cat", "資料" * 25, terminal=True)
    head, first, second = done.lines
    assert head.split() == ["TEXT", "DIMS", "VECTOR"]
    assert first.startswith("the cat  ")
    assert first.split()[2] == "32"
    assert len(first.split()) == 2 + 1 + 4 + 1
    assert "…" in second.split("  ")[0]
    assert n_columns_of(first) <= 80
    assert n_columns_of(second) <= 80
    assert first.index(" 32 ") == head.index("DIMS") - 1


def test_texts_come_from_arguments_files_and_stdin_in_order(run, tmp_path):
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_bytes("\ufefffirst\r\n\r\n  second  \n \nthird".encode())
    lines.write_text('{"id": 1, "text": "fourth"}\n\n{"text": "fifth\\nline"}\n')
    done = run("zero", "-f", plain, "-f", lines, "-f", "-", stdin=b"sixth\n")
    texts = [json.loads(line)["text"] for line in done.lines]
    assert texts == ["zero", "first", "  second  ", "third", "fourth", "fifth\nline", "sixth"]
    assert done.err == f"{plain}: skipped 2 empty lines\n"


@pytest.mark.parametrize("content", [b"one\ntwo\n", b'\n{"text": "one"}\n{"text":"two"}\n'])
def test_stdin_is_lines_or_json_lines(run, content):
    assert [json.loads(line)["text"] for line in run(stdin=content).lines] == ["one", "two"]


def test_arguments_leave_stdin_alone(run):
    assert len(run("one", stdin=b"two\n").lines) == 1


def test_formats_have_the_same_vectors(run, tmp_path):
    texts = [f"the cat {n}" for n in range(1100)]
    content = "\n".join(texts).encode()
    expected = vectors_of(run(stdin=content))
    npy, parquet, arrow = (tmp_path / name for name in ("v.npy", "v.parquet", "v.arrow"))
    for path in (npy, parquet, arrow):
        assert run("-o", path, stdin=content) == Done(0, b"", "")
    assert near(np.load(npy), expected)
    tables = [pq.read_table(parquet), pa.ipc.open_file(arrow.read_bytes()).read_all()]
    tables.append(pq.read_table(io.BytesIO(run("--format", "parquet", stdin=content).out)))
    tables.append(pa.ipc.open_stream(run("--format", "arrow", stdin=content).out).read_all())
    for table in tables:
        assert table["text"].to_pylist() == texts
        assert near(np.array(table["embedding"].to_pylist(), np.float32), expected)
    assert near(np.load(io.BytesIO(run("--format", "npy", stdin=content).out)), expected)


def test_flags_reach_the_model(run):
    whole, cut = vectors_of(run("the cat")), vectors_of(run("the cat", "--dimensions", 8))
    assert cut.shape == (1, 8)
    assert near(cut, whole[:, :8] / np.linalg.norm(whole[:, :8]))
    assert near(vectors_of(run("the cat", "--input-type", "query: ")), vectors_of(run("query: the cat")))
    assert run(LONG, "--truncate").code == 0


def test_an_endpoint_gives_the_same_vectors(run, tiny_server):
    texts = ["the cat", "sat on a mat"]
    there = run(*texts, "--endpoint", tiny_server.url, model=None)
    assert near(vectors_of(there), vectors_of(run(*texts)))


@pytest.mark.parametrize(
    ("words", "stdin", "message"),
    [
        (["cat", ""], None, "text 2 is empty: leave it out"),
        ([], b"", "there is no text to embed: all input is empty; add it as an argument, name a file with --file, or"),
        ([], b" \n\n", "there is no text to embed"),
        ([], b"cat\n\xff\n", "stdin:2 is not UTF-8: convert the file"),
        ([], b'{"text": 1}\n', "stdin:1 has no field 'text' with a string"),
        ([], b'{"text": "cat"}\n{"te', "stdin:2 is not JSON (unexpected end of data): correct the line, or leave"),
        ([], b'{"text": "cat"}\n{"text": " "}\n', "stdin:2 has an empty text"),
        (
            [],
            f"cat\n\n{LONG}\n".encode(),
            "stdin:3 has 72 tokens, the limit per text is 64: shorten or split it, or use",
        ),
        (["cat", "--input-type", "foo"], None, '"foo": leave --input-type out, or put the prompt before the texts'),
        (["cat", "--dimensions", "33"], None, "33 dimensions, this model has 32"),
        (["cat", "-o", "/nonexistent/v.npy"], None, "/nonexistent/v.npy cannot be written"),
        (["cat", "-o", "v.foo"], None, "v.foo has an unknown ending: use .jsonl, .npy, .parquet or .arrow, or name"),
        (
            [],
            f"cat\n{LONG}\n{LONG}\n".encode(),
            "and 1 more is too long",
        ),
        (["cat", "--api-key", "k"], None, "--api-key is for an --endpoint"),
        (["cat", "--endpoint", "nowhere"], None, "'nowhere' is not the address of a server"),
    ],
)
def test_errors_are_one_line_and_name_the_place(run, words, stdin, message):
    done = run(*words, stdin=stdin)
    lines = [line for line in done.err.splitlines() if "skipped" not in line]
    assert (done.code, len(lines)) == (1, 1)
    assert message in lines[0]
    assert lines[0].startswith("gguf-embed: ")


def test_a_key_in_the_environment_is_for_endpoints_only(models, cache_dir):
    environment = {"GGUF_EMBED_CACHE": str(cache_dir), "GGUF_EMBED_API_KEY": "k"}
    done = call("embed", "cat", "-m", models / "encoder.gguf", environment=environment)
    assert (done.code, len(done.lines)) == (0, 1)


def test_a_model_without_dense_vectors_names_other_commands(run, tmp_path, cache_dir):
    pytest.importorskip("py_rust_stemmers")
    assert call("pull", "bm25", environment={"GGUF_EMBED_CACHE": str(cache_dir)}).code == 0
    done = run("cat", "-m", "bm25", model=None)
    assert done.code == 1
    assert "gives sparse vectors and no others: use another model, `gguf-embed ingest` to store them" in done.err


def test_a_key_that_a_server_refuses_names_the_flag():
    said = AuthenticationFailed('http://h: Invalid API Key: send "Authorization: Bearer KEY" or so (HTTP 401)')
    error = about(said, [], "shorten it")
    assert isinstance(error, AuthenticationFailed)
    assert error.message == "http://h: Invalid API Key: set --api-key or GGUF_EMBED_API_KEY"


def test_a_reranker_has_no_vectors(run):
    done = run("cat", model="reranker.gguf")
    assert (done.code, done.out) == (1, b"")
    assert done.err.endswith("which gives scores and no vectors: use gguf-embed rerank, or another model\n")


def test_a_name_with_a_colon_is_shown_whole(run, models, tmp_path):
    model = shutil.copy(models / "reranker.gguf", tmp_path / "is: a reranker.gguf")
    assert "model 'is: a reranker' is a reranker, which gives scores" in run("cat", model=model).err


def test_what_a_server_says_is_shown_whole():
    server = Misbehaving([status(501, "model 'm' is a reranker: use POST /v1/rerank for scores")]).start()
    try:
        done = call("embed", "cat", "--endpoint", server.url, environment={})
    finally:
        server.stop()
    assert done.err.endswith(": model 'm' is a reranker: use POST /v1/rerank for scores (HTTP 501)\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no text given: add it as an argument, name a file with --file, or pipe"),
        (["x", "--format", "npy"], "-o FILE"),
        (["-f", "/no/such"], "there is no file '/no/such'; check the path"),
        (["-f", "/"], "'/' is a folder; give the name of a file"),
        (["x", "-o", "/"], "'/' is a folder; give the name of a file"),
    ],
)
def test_what_a_terminal_cannot_do_is_wrong_usage(run, words, message):
    done = run(*words, terminal=True)
    assert done.code == 2
    assert done.err.endswith("`gguf-embed embed --help` describes all flags\n")
    assert message in done.err


@pytest.mark.parametrize("format_", ["npy", "parquet", "arrow"])
def test_a_failure_leaves_nothing_in_a_pipe_that_looks_complete(run, format_):
    done = run("--format", format_, stdin=b"cat\n" * 9000 + LONG.encode())
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert not done.out.endswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff\0\0\0\0"))
    assert format_ != "npy" or done.out == b""


@pytest.mark.process
def test_ctrl_c_stops_it_with_130(models, cache_dir):
    with start(models, cache_dir, stderr=subprocess.PIPE) as process:
        process.stdin.write(b"cat\n" * 600)
        process.stdin.flush()
        assert process.stdout.readline()
        time.sleep(0.2)  # it waits for the rest of the texts
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.decode().split() == ["stopped"]


@pytest.mark.process
def test_a_reader_that_leaves_ends_it_without_a_message(models, cache_dir):
    with start(models, cache_dir, stderr=subprocess.PIPE) as process:
        process.stdin.write(b"cat\n" * 600)
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"cat\n" * 600)
        process.stdin.close()
        assert process.wait(timeout=20) == 141
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("text", "n_columns", "shown"),
    [
        ("short", 5, "short"),
        ("a longer text", 8, "a longe…"),
        ("two\n lines\tand", 20, "two lines and"),
        ("資料庫儲存", 7, "資料庫…"),
        ("e\u0301" * 4, 4, "e\u0301" * 4),
        ("\x1b[31mred", 20, "[31mred"),
    ],
)
def test_texts_are_cut_by_columns(text, n_columns, shown):
    assert shortened(text, n_columns) == shown
