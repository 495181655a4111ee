"""More requests at once than the queue holds, from the official OpenAI client with its defaults: who is answered, when.

    python -m benchmarks.flood --requests 200 --queue-tokens 2000

A client that is refused waits as long as `Retry-After` says and tries again, twice at most. Exits with 1 if a request
was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai

from benchmarks.load import HOST
from benchmarks.machine import read_machine_facts
from benchmarks.servers import OURS, ServerSetup, running
from benchmarks.soak_report import pick
from gguf_embed.model_store.default_model import cache_dir, resolve_default

TEXTS_PER_REQUEST = 7
WORDS_PER_TEXT = 57  # each is one token; with two special ones, some 410 tokens in a request


@dataclass(slots=True)
class Flood:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    n_lost: int = 0
    tries: list[int] = field(default_factory=list)  # of each request
    seconds: list[float] = field(default_factory=list)  # until each was answered or lost


async def flood(port: int, n_requests: int) -> Flood:
    """Send all requests at once."""
    found = Flood()
    chance = random.Random(n_requests)

    async def ask(texts: list[str]) -> None:
        n_tries = 0

        async def note(reply: httpx.Response) -> None:
            nonlocal n_tries
            n_tries += 1
            found.statuses[reply.status_code] += 1

        began_s = time.monotonic()
        http = openai.DefaultAsyncHttpxClient(event_hooks={"response": [note]})
        async with openai.AsyncOpenAI(
            base_url=f"http://{HOST}:{port}/v1", api_key="unused", http_client=http
        ) as client:
            try:
                await client.embeddings.create(model="any", input=texts)
            except openai.OpenAIError:
                found.n_lost += 1
        found.tries.append(n_tries)
        found.seconds.append(time.monotonic() - began_s)

    await asyncio.gather(*(ask(_texts(chance)) for _ in range(n_requests)))
    return found


def _texts(chance: random.Random) -> list[str]:
    return [" ".join(chance.choices("abcdefghij", k=WORDS_PER_TEXT)) for _ in range(TEXTS_PER_REQUEST)]


def table(found: Flood) -> list[str]:
    """For docs/reliability.md."""
    shown = ", ".join(f"{n} × {status}" for status, n in sorted(found.statuses.items()))
    mean, ordered = sum(found.tries) / max(1, len(found.tries)), sorted(found.seconds)
    rows = [
        ("replies", shown),
        ("requests lost", str(found.n_lost)),
        ("tries, mean / most", f"{mean:.2f} / {max(found.tries, default=0)}"),
        (
            "answered after, median / last",
            f"{pick(ordered, 0.5):.1f} / {ordered[-1]:.1f} s",
        ),
    ]
    return ["| Measure | Value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=200, help="at once, of some 410 tokens each (200)")
    parser.add_argument("--queue-tokens", type=int, default=2000, help="how many tokens may wait (2000)")
    parser.add_argument("--model", type=Path, help="a GGUF file; default: the default model")
    options = parser.parse_args(arguments)
    model = options.model or resolve_default(cache_dir(os.environ), print)
    setup = ServerSetup(model, our_flags=("--max-queue-tokens", str(options.queue_tokens)))
    with tempfile.TemporaryDirectory() as folder, running(setup.contestant(OURS), Path(folder)) as server:
        asyncio.run(flood(server.port, 4))
        found = asyncio.run(flood(server.port, options.requests))
    machine = read_machine_facts()
    print(f"{options.requests} requests at once, {options.queue_tokens} tokens may wait")
    print(f"{machine.n_cores} cores of {machine.processor}, commit {machine.commit}")
    print(*table(found), sep="\n")
    return 1 if found.n_lost else 0


if __name__ == "__main__":
    sys.exit(main())
