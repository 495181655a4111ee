"""`gguf-embed serve` as a process: what users type, send and read. No fakes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguf_embed.types import FloatMatrix
from tests.server_process import Reply, Server, decode, run_to_end
from tests.test_exactness import assert_close, row_cosines

pytestmark = pytest.mark.process

Launch = Callable[..., Server]

MIXED = ["hello world", "the cat sat on the red mat", "a", "hello world"]


def embedding(reply: Reply) -> list[FloatMatrix]:
    """A native reply's rows: per input float32[n_rows, n_dims]."""
    assert reply.status == 200, reply.body
    return [np.array(item["embedding"], np.float32) for item in reply.json()]


def error(reply: Reply, status: int) -> dict[str, object]:
    assert reply.status == status, reply.body
    assert reply.headers["Content-Type"] == "application/json"
    return reply.json()["error"]


# What is printed and asked for at the start


def test_the_banner_shows_what_was_chosen_and_its_curl_line_works(default_server):
    address = f"http://127.0.0.1:{default_server.port}"
    name, engine, *others = default_server.banner[-5:]
    assert name == "model    all-MiniLM-L6-v2: 384 dimensions, up to 512 tokens per text"
    assert re.fullmatch(r"engine   (OpenVINO|llama\.cpp), (BF16|F16|F32) \(\w+ kernels\), \d+ workers?", engine)
    assert tuple(others) == (
        f"serving  {address}",
        f"page     open {address}/ in a browser to try it",
        f"""curl -w '\\n' {address}/v1/embeddings -d '{{"input": "hello"}}'""",
    )
    assert all(len(line) <= 80 for line in default_server.banner[-5:])
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    line = default_server.banner[-1]
    printed = subprocess.run(shlex.split(line), capture_output=True, check=True, timeout=20).stdout
    assert len(json.loads(printed)["data"][0]["embedding"]) == 384


def test_with_verbose_the_start_says_how_a_model_is_computed_and_props_always(launch, models):
    server = launch("-m", models / "encoder.gguf", "-v")
    banner = "\n".join(server.banner)
    found = re.search(r"(\d+) workers? on (\d+) threads?, (\d+) threads? for a batch running alone", banner)
    assert found is not None
    assert re.search(r"engine   (openvino|llama), \w+ kernels, weights F.*, pooling mean", banner)
    assert re.search(r"batches  \d+ tokens.* \(measured at warm-up\)", banner)
    compute = server.get("/props").json()["compute"]
    assert (compute["workers"], compute["threads"], compute["threads_alone"]) == tuple(map(int, found.groups()))
    assert f"batches  {compute['batch_tokens']} tokens" in banner
    assert compute["measured"] is True


def test_a_start_without_any_model_says_how_to_get_one(launch, models, tmp_path):
    server = launch("--models-dir", tmp_path)
    assert server.banner[-1] == (
        f"ready    there is no model yet: put a GGUF into {tmp_path}, which is then served without a restart"
    )
    assert "curl" not in "".join(server.banner)


def test_an_address_that_others_reach_is_warned_of_without_a_key(launch, models):
    model = models / "encoder.gguf"
    server = launch("-m", model, "--host", "0.0.0.0")
    assert any(line.startswith("warning  without --api-key") for line in server.banner)
    assert server.banner[-1].startswith(f"curl -w '\\n' http://127.0.0.1:{server.port}/")
    with_key = launch("-m", model, "--host", "0.0.0.0", "--api-key", "k")
    assert not any(line.startswith("warning ") for line in (*with_key.banner, *launch("-m", model).banner))


def test_a_pooling_that_the_model_was_not_trained_with_is_warned_of(launch, models):
    server = launch("-m", models / "encoder.gguf", "--pooling", "last")
    assert any("encoder.gguf was trained with pooling mean" in line for line in server.banner)


def test_a_context_beyond_the_model_starts_and_every_route_shows_the_real_limit(default_server):
    assert any("-c 8192" in line and "512 tokens" in line for line in default_server.banner)
    props = default_server.get("/props").json()
    assert (props["n_ctx"], props["n_ctx_train"], props["max_input_tokens"]) == (8192, 512, 512)
    assert default_server.get("/v1/models").json()["data"][0]["meta"]["max_input_tokens"] == 512
    assert "at most 512 tokens per text" in default_server.get("/").body.decode()
    failure = error(default_server.post("/v1/embeddings", {"input": "word " * 600}), 400)
    assert "limit per text is 512" in failure["message"]


def test_health_version_models_and_props(tiny_server):
    assert tiny_server.get("/health").json() == {"status": "ok"}
    assert tiny_server.get("/version").json()["name"] == "gguf-embed"
    assert [model["id"] for model in tiny_server.get("/models").json()["data"]] == ["encoder"]
    props = tiny_server.get("/props").json()
    known = {key: props[key] for key in ("pooling", "n_embd", "embd_normalize", "max_input_tokens", "tokenizer")}
    assert known == {
        "pooling": "mean",
        "n_embd": 32,
        "embd_normalize": 2,
        "max_input_tokens": 64,
        "tokenizer": "exact",
    }


# OpenAI's endpoint


@pytest.mark.parametrize(
    ("given", "n_texts"), [("hello", 1), (["hello", "world"], 2), ([2, 5, 3], 1), ([[2, 5, 3], [2, 6, 3]], 2), ("", 1)]
)
def test_every_kind_of_input_gives_unit_vectors(tiny_server, given, n_texts):
    reply = tiny_server.post("/v1/embeddings", {"input": given, "model": "anything", "user": "someone"})
    assert reply.json()["model"] == "encoder"
    assert [item["index"] for item in reply.json()["data"]] == list(range(n_texts))
    np.testing.assert_allclose(np.linalg.norm(reply.vectors(), axis=1), 1, atol=1e-6)


def test_ids_give_the_vector_of_their_text_and_usage_counts_tokens(tiny_server):
    tokens = tiny_server.post("/tokenize", {"content": MIXED[1], "add_special": True}).json()["tokens"]
    by_text = tiny_server.post("/v1/embeddings", {"input": MIXED[1]})
    assert_close(tiny_server.embed([tokens]), by_text.vectors(), 0.999999)
    assert by_text.json()["usage"] == {"prompt_tokens": len(tokens), "total_tokens": len(tokens)}


def test_base64_holds_the_same_floats(default_server):
    floats = default_server.embed(MIXED, encoding_format="float")
    reply = default_server.post("/v1/embeddings", {"input": MIXED, "encoding_format": "base64"})
    assert all(isinstance(item["embedding"], str) for item in reply.json()["data"])
    assert_close(reply.vectors(), floats, 0.999999)


def test_dimensions_cut_and_renormalize(default_server):
    cut = default_server.embed(MIXED, dimensions=64)
    whole = default_server.embed(MIXED)[:, :64]
    assert_close(cut, whole, 0.999999)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-6)
    failure = error(default_server.post("/v1/embeddings", {"input": "a", "dimensions": 385}), 400)
    assert failure["param"] == "dimensions"
    assert "384" in failure["message"]


def test_strict_names(launch, models):
    server = launch("-m", models / "encoder.gguf", "--strict-model", "-a", "mine,yours")
    assert server.post("/v1/embeddings", {"input": "a", "model": "yours"}).json()["model"] == "mine"
    assert error(server.post("/v1/embeddings", {"input": "a", "model": "text-embedding-3-small"}), 404)["code"] == (
        "model_not_found"
    )
    assert error(server.post("/embedding", {"input": "a", "model": "other"}), 404)["type"] == "not_found_error"


# llama.cpp's endpoint


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
@pytest.mark.parametrize("field", ["content", "input"])
def test_native_replies_are_nested(tiny_server, path, field):
    one = tiny_server.post(path, {field: "hello"}).json()
    assert [set(item) for item in one] == [{"index", "embedding"}]
    assert np.shape(one[0]["embedding"]) == (1, 32)
    several = tiny_server.post(path, {field: ["hello", [5, 6], "cat"]}).json()
    assert [item["index"] for item in several] == [0, 1, 2]


def test_a_mixed_array_is_one_sequence(tiny_server):
    tokens = tiny_server.post("/tokenize", {"content": "hello", "add_special": True}).json()["tokens"]
    (mixed,) = embedding(tiny_server.post("/embedding", {"content": ["hello", 5, 6]}))
    (joined,) = embedding(tiny_server.post("/embedding", {"content": [*tokens, 5, 6]}))
    assert_close(mixed, joined, 0.999999)


@pytest.mark.parametrize("kind", [-1, 0, 1, 2, 3])
def test_embd_normalize_is_llama_cpp_s(tiny_server, kind):
    (raw,) = embedding(tiny_server.post("/embedding", {"content": MIXED[1], "embd_normalize": -1}))
    (found,) = embedding(tiny_server.post("/embedding", {"content": MIXED[1], "embd_normalize": kind}))
    wide = raw.astype(np.float64)
    size = {-1: 1.0, 0: np.abs(wide).max() / 32760}.get(kind) or (np.abs(wide) ** max(kind, 1)).sum() ** (1 / kind)
    np.testing.assert_allclose(found, wide / size, rtol=1e-5)


def test_token_rows_for_one_request_are_those_of_a_server_without_pooling(launch, models, tiny_server):
    body = {"content": MIXED}
    asked = embedding(tiny_server.post("/embedding", {**body, "pooling": "none"}))
    bare = launch("-m", models / "encoder.gguf", "--pooling", "none")
    everywhere = embedding(bare.post("/embedding", body))
    pooled = embedding(tiny_server.post("/embedding", {**body, "embd_normalize": -1}))
    assert [len(rows) for rows in asked] == [len(rows) for rows in everywhere]
    for rows, same, mean in zip(asked, everywhere, pooled, strict=True):
        np.testing.assert_allclose(rows, same, atol=1e-4)
        np.testing.assert_allclose(rows.mean(0, keepdims=True), mean, atol=1e-4)
    failure = error(bare.post("/v1/embeddings", {"input": "a"}), 400)
    assert '"pooling": "mean"' in failure["message"]


def test_token_rows_of_the_default_model_pool_to_its_vector(default_server):
    texts = ["a cat sat on a mat", "Ein zweiter Satz, der etwas länger ist."]
    rows = embedding(default_server.post("/embedding", {"content": texts, "pooling": "none"}))
    means = np.stack([matrix.mean(0) for matrix in rows])
    assert_close(means / np.linalg.norm(means, axis=1, keepdims=True), default_server.embed(texts), 0.99999)


# Too long


LONG = "hello " * 100


def test_too_long_names_the_input_its_tokens_the_limit_and_the_way_out(tiny_server):
    failure = error(tiny_server.post("/v1/embeddings", {"input": ["a", LONG]}), 400)
    assert (failure["code"], failure["index"], failure["n_ctx"]) == ("context_length_exceeded", 1, 64)
    assert '"truncate": true' in failure["message"]
    native = error(tiny_server.post("/embedding", {"content": LONG}), 400)
    assert native["type"] == "exceed_context_size_error"


def counter(server: Server, name: str) -> float:
    found = re.search(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", server.get("/metrics").body.decode(), re.MULTILINE)
    assert found, f"no {name} in /metrics"
    return float(found[1])


def test_truncation_is_reported_in_the_body_a_header_and_a_metric(tiny_server):
    before = counter(tiny_server, "gguf_embed_truncated_texts_total")
    reply = tiny_server.post("/v1/embeddings", {"input": ["a", LONG], "truncate": True})
    (cut,) = reply.json()["truncated"]
    assert (cut["index"], cut["n_kept"], cut["n_dropped"]) == (1, 64, cut["n_tokens"] - 64)
    assert reply.headers["X-Gguf-Embed-Truncated"] == "1"
    assert counter(tiny_server, "gguf_embed_truncated_texts_total") == before + 1
    tokens = tiny_server.post("/tokenize", {"content": LONG, "add_special": True}).json()["tokens"]
    assert_close(reply.vectors()[1:], tiny_server.embed([[*tokens[:63], tokens[-1]]]), 0.99999)


def test_a_server_may_truncate_by_default_and_a_request_may_refuse_it(launch, models):
    server = launch("-m", models / "encoder.gguf", "--truncate", "-c", "10")
    reply = server.post("/embedding", {"content": LONG})
    assert reply.json()[0]["truncated"]["n_kept"] == 10
    error(server.post("/embedding", {"content": LONG, "truncate": False}), 400)


# The rest of the routes


def test_tokenize_and_back(default_server):
    reply = default_server.post("/tokenize", {"content": "Hello world", "with_pieces": True}).json()["tokens"]
    ids = [token["id"] for token in reply]
    assert ids == [7592, 2088]
    assert default_server.post("/detokenize", {"tokens": ids}).json()["content"].strip() == "hello world"
    with_specials = default_server.post("/tokenize", {"content": "Hello world", "add_special": True}).json()
    assert with_specials["tokens"] == [101, 7592, 2088, 102]


def test_keys(launch, models, tmp_path):
    (tmp_path / "keys").write_text("third\n\nfourth\n")
    server = launch("-m", models / "encoder.gguf", "--api-key-file", tmp_path / "keys", LLAMA_API_KEY="first,second")
    body = {"input": "a"}
    assert server.get("/health").status == 200
    for key in ("first", "second", "third", "fourth"):
        assert server.post("/v1/embeddings", body, Authorization=f"Bearer {key}").status == 200
        assert server.post("/embedding", body, X_Api_Key=key).status == 200
    for headers in ({}, {"Authorization": "Bearer fifth"}, {"X_Api_Key": ""}, {"Authorization": "Basic first"}):
        assert error(server.post("/v1/embeddings", body, **headers), 401)["code"] == "invalid_api_key"
    assert server.get("/metrics").status == 401
    assert "first" not in "".join(server.banner)


def test_metrics_count_what_happened(tiny_server):
    names = ("gguf_embed_texts_total", "gguf_embed_tokens_total", "gguf_embed_batch_tokens_count")
    before = {name: counter(tiny_server, name) for name in names}
    tiny_server.embed(["one text", "and two"])
    error(tiny_server.post("/embedding", {}), 400)
    after = {name: counter(tiny_server, name) for name in names}
    assert after["gguf_embed_texts_total"] == before["gguf_embed_texts_total"] + 2
    assert after["gguf_embed_batch_tokens_count"] > before["gguf_embed_batch_tokens_count"]
    page = tiny_server.get("/metrics").body.decode()
    for name in ("queue_seconds", "tokenize_seconds", "compute_seconds", "batch_fill_ratio"):
        assert f"gguf_embed_{name}_bucket" in page
    assert 'gguf_embed_errors_total{kind="invalid_request"}' in page


# Many at once, and clients that leave


def test_64_clients_with_every_kind_of_request_are_all_answered(default_server):
    def ask(number: int) -> FloatMatrix:
        text = f"client {number} asks about number {number}"
        match number % 4:
            case 0:
                return default_server.embed([text, "filler " * (number % 50)])[:1]
            case 1:
                return default_server.embed(text, encoding_format="base64")
            case 2:
                rows = embedding(default_server.post("/embedding", {"content": text, "pooling": "none"}))[0]
                return rows.mean(0, keepdims=True)
            case _:
                tokens = default_server.post("/tokenize", {"content": text, "add_special": True}).json()["tokens"]
                return default_server.embed([tokens])

    with ThreadPoolExecutor(64) as clients:
        vectors = np.concatenate(list(clients.map(ask, range(128))))
    texts = [f"client {number} asks about number {number}" for number in range(128)]
    assert row_cosines(vectors, default_server.embed(texts)).min() > 0.9999


def send_request(server: Server, body: bytes, promised: int | None = None) -> socket.socket:
    """A raw request whose body may be shorter than promised; the answer is not read."""
    client = socket.create_connection((server.host, server.port), timeout=30)
    client.sendall(
        b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (promised or len(body))
    )
    client.sendall(body)
    return client


def test_clients_that_disconnect_do_not_affect_others(default_server):
    body = json.dumps({"input": [f"text number {number} of a client that leaves" for number in range(500)]}).encode()
    for _ in range(5):
        send_request(default_server, body).close()
        send_request(default_server, body[:100], len(body)).close()
    assert default_server.embed("still here").shape == (1, 384)
    assert default_server.get("/health").status == 200


def test_a_full_queue_answers_429_with_retry_after(launch, models):
    server = launch("-m", models / "encoder.gguf", "--max-queue-tokens", "40", "--max-wait", "0")
    bulk = {"input": [f"{first} {second}" for first in "abcdefghijklmnop" for second in "qrstuvwxyz"] * 6}
    bulk["input"] = [f"{text} {number}" for number, text in enumerate(bulk["input"])]
    with ThreadPoolExecutor(16) as clients:
        replies = list(clients.map(lambda _: server.post("/v1/embeddings", bulk), range(16)))
    assert {reply.status for reply in replies} == {200, 429}
    refused = next(reply for reply in replies if reply.status == 429)
    assert int(refused.headers["Retry-After"]) >= 1
    assert "--max-queue-tokens" in refused.json()["error"]["message"]
    assert server.embed("room again").shape == (1, 32)


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_accepted_requests_finish(launch, default_model, number):
    server = launch("-m", default_model, "--no-warmup")
    body = json.dumps({"input": [f"text {n} that was accepted before the stop" for n in range(400)]}).encode()
    with send_request(server, body) as client:
        while b'"running_texts":0' in (state := server.get("/ready").body):
            assert b"ready" in state
        code, printed = server.end(number)
        answer = client.makefile("rb").read()
    assert code == 0, printed
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["data"]) == 400
    assert "Traceback" not in printed
    assert printed.startswith("stopping: waiting for 1 request to complete")


def test_an_idle_server_ends_with_zero(launch, models):
    code, printed = launch("-m", models / "encoder.gguf").end(signal.SIGTERM)
    assert (code, printed) == (0, "stopped\n")


# Starts that cannot succeed


def write_architecture(path: Path, architecture: str) -> Path:
    """A GGUF that is whole, but holds something else than a text embedding model."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("model")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def broken(tmp_path, models) -> Path:
    whole = (models / "encoder.gguf").read_bytes()
    (tmp_path / "text.gguf").write_text("this is no model" * 100)
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "half.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "header.gguf").write_bytes(whole[:300])
    (tmp_path / "folder.gguf").mkdir()
    write_architecture(tmp_path / "clip.gguf", "clip")
    write_architecture(tmp_path / "unheard.gguf", "unheard-of")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("missing.gguf", "missing.gguf"),
        ("text.gguf", "text.gguf"),
        ("empty.gguf", "empty.gguf"),
        ("half.gguf", "half.gguf"),
        ("header.gguf", "header.gguf"),
        ("folder.gguf", "folder.gguf"),
        ("clip.gguf", "clip"),
        ("unheard.gguf", "unheard"),
    ],
)
def test_a_bad_model_file_is_one_clear_line(cache_dir, broken, file, message):
    assert_one_line(run_to_end(cache_dir, "serve", "--port", "0", "-m", broken / file), message)


def assert_one_line(ended: subprocess.CompletedProcess[str], message: str) -> None:
    assert ended.returncode not in (0, None)
    assert ended.returncode > 0, "killed by a signal"
    (line,) = ended.stderr.splitlines()
    assert line.startswith("gguf-embed: ")
    assert message in line
    assert "Traceback" not in ended.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pooling", "rank"], "rank head"),
        (["-c", "2"], "context of 2 tokens"),
        (["-m", "other.gguf", "-a", "x"], "--alias"),
        (["--api-key", " , "], "--api-key"),
        (["--api-key-file", "/nowhere/keys"], "/nowhere/keys"),
        (["--tensor-split", "a,b"], "--tensor-split"),
        (["--device", "CUDA7"], "CUDA7"),
        (["--host", "192.0.2.1", "--port", "8080"], "192.0.2.1"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["--host", "999"], "999"),
    ],
)
def test_flags_that_cannot_work_are_one_clear_line(cache_dir, models, flags, message):
    port = [] if "--port" in flags else ["--port", "0"]
    assert_one_line(run_to_end(cache_dir, "serve", *port, "-m", models / "encoder.gguf", *flags), message)


@pytest.mark.parametrize(
    "flags", [["--port", "x"], ["--port", "65536"], ["-t", "0"], ["-ub", "-1"], ["--pooling", "max"], ["--nonsense"]]
)
def test_flags_of_the_wrong_type_are_named(cache_dir, flags):
    ended = run_to_end(cache_dir, "serve", *flags)
    assert ended.returncode == 2
    assert flags[0] in ended.stderr.splitlines()[-2]
    assert "serve --help" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_a_port_in_use_is_one_clear_line(cache_dir, models):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_to_end(cache_dir, "serve", "-m", models / "encoder.gguf", "--port", str(port))
    assert_one_line(ended, f"port {port} on 127.0.0.1 is in use")


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path, default_model):
    (tmp_path / "file").touch()
    ended = run_to_end(tmp_path / "file" / "cache", "serve", "--port", "0", "-m", default_model, "--weights", "bf16")
    assert_one_line(ended, "--weights file")


# Flags that change how it runs


@pytest.mark.parametrize(
    "flags",
    [
        ["-c", "30"],
        ["-c", "4"],
        ["-ub", "1"],
        ["-ub", "300"],
        ["-ub", "16384"],
        ["-t", "1"],
        ["-t", "33"],
        ["--workers", "8"],
        ["-fa", "off"],
        ["-fa", "on"],
        ["--no-warmup"],
        ["--precision", "bf16"],
        ["--weights", "bf16"],
        ["--weights", "bf16", "--no-amx"],
        ["--tokenizer", "llama"],
        ["-b", "64", "-np", "4", "--embedding", "-cb"],
    ],
    ids=" ".join,
)
def test_every_way_to_run_gives_the_same_vectors(launch, models, tiny_server, flags):
    texts = ["a", "[MASK]"] if "4" in flags[1:2] else [f"{text} {number}" for text in MIXED for number in range(20)]
    precision = [] if "--precision" in flags else ["--precision", "f32"]
    server = launch("-m", models / "encoder.gguf", *precision, *flags)
    min_cosine = 0.999 if "bf16" in flags else 0.9999  # each server chooses its engine by itself
    assert_close(server.embed(texts), tiny_server.embed(texts), min_cosine)


def test_gpu_layers_without_a_gpu_are_reported_and_the_server_starts(launch, models):
    server = launch("-m", models / "encoder.gguf", "-ngl", "99")
    if any("no GPU to use" in line for line in server.banner):
        assert server.embed("hello").shape == (1, 32)
    else:
        pytest.skip("this llama.cpp has a GPU")


def test_environment_names_are_llama_server_s_and_flags_beat_them(launch, models):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = launch(
        "--embd-normalize",
        "-1",
        LLAMA_ARG_MODEL=str(models / "encoder.gguf"),
        LLAMA_ARG_PORT=str(port),
        LLAMA_ARG_ALIAS="from-environment",
        LLAMA_ARG_POOLING="cls",
        LLAMA_ARG_CTX_SIZE="32",
        LLAMA_ARG_ENDPOINT_METRICS="0",
    )
    assert server.port == port
    props = server.get("/props").json()
    assert (props["model_alias"], props["pooling"], props["max_input_tokens"]) == ("from-environment", "cls", 32)
    assert props["embd_normalize"] == -1
    assert server.get("/metrics").status == 501


def test_a_decoder_pools_its_last_token(launch, models):
    server = launch("-m", models / "decoder.gguf")
    texts = ["hello world", "the world", "hello " * 20]
    together = server.embed(texts)
    assert_close(together, np.concatenate([server.embed(text) for text in texts]), 0.9999)
    for text, vector in zip(texts, together, strict=True):
        (rows,) = embedding(server.post("/embedding", {"content": text, "pooling": "none"}))
        assert row_cosines(rows[-1:], vector[None])[0] > 0.9999


def test_a_reranker_returns_scores_on_llama_cpps_route(launch, models):
    server = launch("-m", models / "reranker.gguf")
    assert server.get("/props").json()["pooling"] == "rank"
    assert embedding(server.post("/embedding", {"content": ["a", "b"]}))[0].shape == (1, 1)


def test_a_file_without_pooling_serves_token_vectors_and_reports_it(launch, models):
    server = launch("-m", models / "bare.gguf")
    assert any("declares no pooling" in line for line in server.banner)
    assert len(embedding(server.post("/embedding", {"content": "hello"}))[0]) == 3


def test_ipv6(launch, models):
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 address here")
    server = launch("-m", models / "encoder.gguf", "--host", "::1")
    assert server.embed("hello").shape == (1, 32)


# What the README shows


def test_the_native_per_token_example(default_server):
    reply = default_server.post("/embedding", {"content": "hello", "pooling": "none"})
    (rows,) = embedding(reply)
    assert rows.shape == (3, 384)


def test_a_vector_found_by_meaning(default_server):
    question, answer, other = default_server.embed(
        ["How do I boil an egg?", "Put it into hot water for six minutes.", "The train leaves at noon."]
    )
    assert question @ answer > question @ other
    assert decode(question.tolist()).dtype == np.float32
