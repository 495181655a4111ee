"""Half a minute of requests from people with no manners: never a 500, never more memory. Run with `-m slow`."""

from __future__ import annotations

import json
import random
import string
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.server_process import Server

DURATION_S = 30.0
N_CLIENTS = 8
PATHS = ("/v1/embeddings", "/embedding", "/embeddings", "/tokenize", "/detokenize")
FIELDS = (
    "input",
    "content",
    "model",
    "dimensions",
    "encoding_format",
    "embd_normalize",
    "pooling",
    "truncate",
    "tokens",
    "add_special",
    "with_pieces",
    "user",
)
MAY_GROW_BYTES = 40_000_000


def random_value(chance: random.Random, depth: int = 0) -> object:
    match chance.randrange(12 if depth < 3 else 9):
        case 0:
            return None
        case 1:
            return chance.random() < 0.5
        case 2:
            return chance.choice([-1, 0, 1, 2, 3, 5, 100, 2**31, 2**63, -(2**40)])
        case 3:
            return chance.choice([0.5, 1e308, -1.0, 1e-320])
        case 4:
            return "".join(chance.choices(string.printable, k=chance.randrange(40)))
        case 5:
            return chance.choice(
                ["base64", "float", "mean", "none", "cls", "last", "rank", "", "\x00", "\ud800", "🦊" * 9]
            )
        case 6:
            return "word " * chance.randrange(200)
        case 7:
            return chance.choices(range(-2, 200), k=chance.randrange(1, 100))
        case 8:
            return ["text"] * chance.randrange(60)
        case 9 | 10:
            return [random_value(chance, depth + 1) for _ in range(chance.randrange(4))]
        case _:
            return {chance.choice(FIELDS): random_value(chance, depth + 1) for _ in range(3)}


def random_body(chance: random.Random) -> bytes:
    body = {field: random_value(chance) for field in chance.sample(FIELDS, chance.randrange(4))}
    if chance.random() < 0.5:
        body[chance.choice(["input", "content"])] = [f"text {chance.random()}" for _ in range(chance.randrange(1, 30))]
    raw = json.dumps(body).encode()
    match chance.randrange(20):
        case 0:
            return raw[: len(raw) // 2]
        case 1:
            return chance.randbytes(chance.randrange(200))
        case 2:
            return b"[" * chance.randrange(5000)
        case 3:
            return raw.replace(b'"', b"\x00", 1)
        case _:
            return raw


def resident_bytes(process_id: int) -> int:
    pages = Path(f"/proc/{process_id}/statm").read_text().split()[1]
    return int(pages) * 4096


def bother(server: Server, seed: int, until_s: float) -> dict[int, int]:
    """How often each status came."""
    chance, statuses = random.Random(seed), dict[int, int]()
    while time.monotonic() < until_s:
        method = chance.choice(["POST"] * 9 + ["PUT"])
        try:
            status = server.request(method, chance.choice(PATHS), random_body(chance)).status
        except (HTTPException, ConnectionError):
            status = 0
        statuses[status] = statuses.get(status, 0) + 1
    return statuses


@pytest.mark.slow
@pytest.mark.parametrize("file", ["encoder.gguf", "decoder.gguf"])
def test_garbage_never_makes_a_500_and_memory_stays(launch, models, file):
    server = launch("-m", models / file)
    bother_all(server, 0, DURATION_S / 3)
    before_bytes = resident_bytes(server.process.pid)
    statuses = bother_all(server, N_CLIENTS, DURATION_S * 2 / 3)
    assert statuses <= {200, 400, 405, 413, 501}
    assert 200 in statuses
    assert server.embed("still here").shape == (1, 32)
    assert resident_bytes(server.process.pid) - before_bytes < MAY_GROW_BYTES


def bother_all(server: Server, first_seed: int, duration_s: float) -> set[int]:
    until_s = time.monotonic() + duration_s
    with ThreadPoolExecutor(N_CLIENTS) as clients:
        seeds = range(first_seed, first_seed + N_CLIENTS)
        return set().union(*clients.map(lambda seed: bother(server, seed, until_s), seeds))
