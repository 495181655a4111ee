"""`serve --isolate` as a real process: engines that are killed while requests fly, and what is left of a server."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import pytest

from tests.server_process import Server, wait_until
from tests.test_images_serve import MARKED
from tests.vision_models import write_tiny_mmproj

pytestmark = pytest.mark.process

MODELS = ("encoder", "decoder", "reranker")
WORDS = "the cat sat and the dog saw the red house"


@pytest.fixture
def two(launch, models) -> Server:
    """The models enc and dec, both loaded."""
    server = launch("--isolate", "-m", f"enc={models / 'encoder.gguf'}", "-m", f"dec={models / 'decoder.gguf'}")
    assert server.post("/v1/embeddings", {"input": "a", "model": "dec"}).status == 200
    return server


def children(server: Server) -> list[int]:
    files = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    return [int(pid) for file in files for pid in file.read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def states(server: Server) -> dict[str, dict[str, object]]:
    return {model["id"]: model["status"] for model in server.get("/v1/models").json()["data"]}


def raw(server: Server, model: str, text: str = WORDS) -> str:
    reply = server.post("/v1/embeddings", {"input": text, "model": model, "encoding_format": "base64"})
    assert reply.status == 200, reply.body
    return reply.json()["data"][0]["embedding"]


def process_of(server: Server, model: str) -> int:
    """The process of `model`'s engine: the one that is new after the model was unloaded and loaded again."""
    before = set(children(server))
    assert server.post("/api/embed", {"model": model, "input": [], "keep_alive": 0}).status == 200
    wait_until(lambda: len(children(server)) < len(before))
    raw(server, model)
    (pid,) = set(children(server)) - before
    return pid


def test_one_engine_is_killed_and_the_other_model_goes_on(two):
    before = {name: raw(two, name) for name in ("enc", "dec")}
    victim = process_of(two, "enc")
    assert len(children(two)) == 2
    done, replies, others = threading.Event(), [], []

    def ask(model: str, found: list, number: int) -> None:
        while not done.is_set():
            found.append(two.post("/v1/embeddings", {"input": f"{WORDS} {number}", "model": model}))
            time.sleep(0.01)

    with ThreadPoolExecutor(8) as threads:
        for number in range(4):
            threads.submit(ask, "enc", replies, number)
            threads.submit(ask, "dec", others, number)
        wait_until(lambda: len(replies) > 20 and len(others) > 20)
        n_before = len(others)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: any(reply.status == 503 for reply in replies))
        wait_until(lambda: states(two)["enc"]["engine"] == "restarting" or states(two)["enc"]["restarts"] == 1)
        wait_until(lambda: len(others) > n_before + 10)
        wait_until(lambda: states(two)["enc"] == {**states(two)["enc"], "engine": "running", "restarts": 1})
        n_after = len(replies)
        wait_until(lambda: any(reply.status == 200 for reply in replies[n_after:]))
        done.set()
    assert {reply.status for reply in others} == {200}
    refused = [reply for reply in replies if reply.status != 200]
    assert {reply.status for reply in refused} == {503}, [reply.body for reply in refused if reply.status != 503]
    for reply in refused:
        assert int(reply.headers["Retry-After"]) >= 1
        assert "was ended by SIGKILL and is being restarted" in reply.json()["error"]["message"]
    assert {name: raw(two, name) for name in ("enc", "dec")} == before
    assert states(two)["enc"]["last_end"] == "ended by SIGKILL"
    assert states(two)["dec"] == {"value": "loaded", "engine": "running", "restarts": 0, "last_end": ""}
    assert two.get("/health").json()["engines"]["enc"]["restarts"] == 1
    assert two.get("/ready").json()["engines"]["dec"]["restarts"] == 0
    assert 'gguf_embed_engine_restarts_total{model="enc"} 1.0' in two.get("/metrics").body.decode()
    code, printed = two.end(signal.SIGTERM)
    assert code == 0
    assert printed.count("was ended by SIGKILL after") == 1
    assert printed.count("runs again") == 1


def test_a_server_without_any_engine_says_so(launch, models):
    server = launch("--isolate", "-m", models / "encoder.gguf")
    (pid,) = children(server)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server.get("/health").status == 503)
    assert "is being restarted" in server.get("/ready").json()["error"]["message"]
    assert server.post("/v1/embeddings", {"input": "a"}).headers["Retry-After"]
    wait_until(lambda: server.get("/health").status == 200)
    assert server.embed("a").shape == (1, 32)


def test_vectors_scores_and_tokens_are_those_of_the_server_itself(launch, models):
    found = []
    for flags in ((), ("--isolate",)):
        flags = (*flags, "--precision", "f32", "--no-warmup")
        server = launch(*flags, *chain.from_iterable(("-m", f"{name}={models / name}.gguf") for name in MODELS))
        documents = {"query": "the cat", "documents": ["a dog", WORDS], "model": "reranker"}
        found.append(
            [
                *(raw(server, name) for name in ("encoder", "decoder")),
                server.post("/rerank", documents).json()["results"],
                server.post("/embedding", {"content": WORDS, "model": "encoder", "pooling": "none"}).body,
                server.post("/tokenize", {"content": WORDS, "model": "decoder", "with_pieces": True}).body,
                server.post("/detokenize", {"tokens": [5, 6, 7], "model": "decoder"}).body,
                server.post("/v1/embeddings", {"input": "word " * 999, "model": "encoder"}).body,
            ]
        )
    assert found[0] == found[1]


def test_images_are_read_in_the_engines_process(launch, models, tmp_path):
    tower = write_tiny_mmproj(tmp_path / "tower.gguf")
    flags = ("-m", models / "decoder.gguf", "-mm", tower, "--no-warmup")
    found = [launch(*flags, *more).post("/embedding", {"content": MARKED}).body for more in ((), ("--isolate",))]
    assert b"embedding" in found[0]
    assert found[0] == found[1]


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "hanging"])
def test_nothing_is_left_of_a_server_that_is_killed(launch, models, stopped):
    before = shared_memory()
    server = launch("--isolate", "-m", models / "encoder.gguf")
    raw(server, "encoder")
    (pid,) = children(server)
    if stopped:
        os.kill(pid, signal.SIGSTOP)
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not is_running(pid))
    assert shared_memory() <= before


def stop_all(server: Server) -> None:
    """As systemd does it: every process of the service gets the signal."""
    for pid in (*children(server), server.process.pid):
        os.kill(pid, signal.SIGTERM)


def listens(server: Server) -> bool:
    try:
        socket.create_connection((server.host, server.port)).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize(
    "end", [stop_all, lambda server: server.process.send_signal(signal.SIGINT)], ids=["TERM", "INT"]
)
def test_requests_in_flight_are_finished_when_the_server_ends(launch, models, end: Callable[[Server], None]):
    server = launch("--isolate", "-m", models / "encoder.gguf")
    (pid,) = children(server)
    texts = [f"{WORDS} {number}" for number in range(2000)]
    os.kill(pid, signal.SIGSTOP)  # so that the request is in flight until the server has begun to end
    with ThreadPoolExecutor(2) as threads:
        sent = threads.submit(server.post, "/v1/embeddings", {"input": texts})
        wait_until(lambda: server.get("/ready").json()["running_texts"] > 0)
        begun_s = time.monotonic()
        end(server)
        wait_until(lambda: not listens(server))
        os.kill(pid, signal.SIGCONT)
        reply = sent.result()
    assert reply.status == 200
    assert len(reply.vectors()) == 2000
    assert server.process.wait(30) == 0
    assert "all in-flight requests completed" in server.output.text()
    assert time.monotonic() - begun_s < 20
    assert not is_running(pid)
