"""A soak: mixed requests for minutes or hours, with models that come and go, clients that vanish, and one restart.

    python -m benchmarks.soak --minutes 30 --report soak.json

Every accepted request must be answered, every vector must equal the one computed at the start, and memory, threads and
descriptors must stay where they were after the warm-up. Exits with 1 if not. Linux only, because it reads /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from http.client import HTTPException
from pathlib import Path

import numpy as np

from benchmarks.machine import read_machine_facts
from benchmarks.soak_report import MAX_GROWTH, Tally, problems_of, table
from benchmarks.soaked_server import HOST, TIMEOUT_S, Life, SoakedServer, ask
from gguf_embed.model_store.default_model import cache_dir, resolve_default
from gguf_embed.types import FloatMatrix

N_CLIENTS = 8
N_TEXTS = 200
TEXTS_PER_REQUEST = (1, 1, 1, 1, 4, 16, 64)
SECOND_MODEL_EVERY_S = 15.0
N_SAMPLES = 200


def make_texts(seed: int) -> list[str]:
    """From a word to some 300, mostly short."""
    chance = random.Random(seed)
    words = ["river", "stone", "Größe", "market", "window", "青い", "signal", "harvest", "letter", "engine"]
    return [
        " ".join([f"text {n}", *chance.choices(words, k=int(chance.paretovariate(0.7)) % 300)]) for n in range(N_TEXTS)
    ]


def vectors_of(reply: bytes) -> FloatMatrix:
    return np.array([item["embedding"] for item in json.loads(reply)["data"]], np.float32)


class Soak:
    """Clients, a sampler and a restart, for a time."""

    def __init__(self, server: SoakedServer, names: Sequence[str], duration_s: float) -> None:
        self.server, self.names = server, names
        self.tally = Tally()
        self.duration_s = duration_s
        self._texts = make_texts(0)
        self._end = threading.Event()

    def run(self) -> None:
        replies = [ask(self.server.port, "POST", "/v1/embeddings", self._body(0, [n])) for n in range(N_TEXTS)]
        self._expected = np.concatenate([vectors_of(reply) for _, reply in replies])
        threads = [threading.Thread(target=self._be_client, args=(seed,)) for seed in range(N_CLIENTS)]
        threads += [threading.Thread(target=self._ask_second_model), threading.Thread(target=self._sample)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(self.duration_s / 2)
            self.server.stop()
            self.server.start()
            time.sleep(self.duration_s / 2)
        finally:
            self._end.set()
            for thread in threads:
                thread.join()
        self.server.stop()

    def _body(self, model: int, indices: Sequence[int]) -> Mapping[str, object]:
        return {"model": self.names[model], "input": [self._texts[index] for index in indices]}

    def _be_client(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self._end.is_set():
            indices = chance.sample(range(N_TEXTS), chance.choice(TEXTS_PER_REQUEST))
            if chance.random() < 0.1:
                self._vanish(chance, indices)
            else:
                self._embed(0, indices)

    def _ask_second_model(self) -> None:
        while not self._end.wait(SECOND_MODEL_EVERY_S):
            self._embed(1, [0, 1, 2])

    def _sample(self) -> None:
        while not self._end.wait(self.duration_s / N_SAMPLES):
            self.server.sample()

    def _embed(self, model: int, indices: Sequence[int]) -> None:
        began_s = time.monotonic()
        try:
            status, reply = ask(self.server.port, "POST", "/v1/embeddings", self._body(model, indices))
        except (OSError, HTTPException) as error:
            self._note_failure(began_s, error)
            return
        self.tally.statuses[status] = self.tally.statuses.get(status, 0) + 1
        if status == 200:
            self._check(vectors_of(reply), indices)
            if len(indices) == 1:
                self.tally.query_s.append(time.monotonic() - began_s)
        elif status not in (429, 503):
            self.tally.lost.append(f"{status}: {reply[:200]!r}")
        elif status == 503 and time.monotonic() < self.server.stopping_s:
            self.tally.lost.append(f"503 without a stop: {reply[:200]!r}")

    def _note_failure(self, began_s: float, error: Exception) -> None:
        """Around a restart a connection may be refused or closed, but no request that the server had accepted."""
        if began_s > self.server.stopping_s - 0.5 or isinstance(error, ConnectionRefusedError):
            self.tally.n_turned_away += 1
            time.sleep(0.2)
        else:
            self.tally.lost.append(repr(error))

    def _check(self, vectors: FloatMatrix, indices: Sequence[int]) -> None:
        self.tally.n_texts += len(indices)
        cosines = np.sum(vectors * self._expected[list(indices)], axis=1)
        self.tally.worst_cosine = min(self.tally.worst_cosine, float(cosines.min()))

    def _vanish(self, chance: random.Random, indices: Sequence[int]) -> None:
        """Send a part of a request, or all of it, and leave."""
        raw = json.dumps(self._body(0, indices)).encode()
        whole = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(raw), raw)
        try:
            with socket.create_connection((HOST, self.server.port), timeout=TIMEOUT_S) as client:
                client.sendall(whole[: chance.choice([0, 10, len(whole) - len(raw) // 2, len(whole)])])
                if chance.random() < 0.3:
                    client.settimeout(0.05)
                    client.recv(100)
        except OSError:
            pass
        self.tally.n_vanished += 1


def soak(minutes: float, model: Path, folder: Path) -> tuple[Tally, Sequence[Life]]:
    """Run it with two copies of a model, of which the second is loaded and unloaded again and again."""
    models = folder / "models"
    models.mkdir()
    for name in ("first", "second"):
        shutil.copy(model, models / f"{name}.gguf")
    server = SoakedServer(models, folder / "server.log")
    server.start()
    run = Soak(server, ("first", "second"), 60 * minutes)
    try:
        run.run()
    finally:
        server.kill()
    return run.tally, server.lives


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--model", type=Path, help="a GGUF file; default: the default model")
    parser.add_argument("--max-growth", type=float, default=MAX_GROWTH, help="of memory, as a part")
    parser.add_argument("--report", type=Path, help="where to write the figures as JSON")
    options = parser.parse_args(arguments)
    model = options.model or resolve_default(cache_dir(os.environ), print)
    with tempfile.TemporaryDirectory() as folder:
        tally, lives = soak(options.minutes, model, Path(folder))
    problems = problems_of(tally, lives, options.max_growth)
    machine = read_machine_facts()
    print(f"{options.minutes:g} minutes on {machine.n_cores} cores of {machine.processor}, commit {machine.commit}")
    print(*table(tally, lives), *problems, sep="\n")
    if options.report is not None:
        figures = {"minutes": options.minutes, "machine": asdict(machine), "problems": problems}
        figures |= {"tally": asdict(tally), "lives": [asdict(life) for life in lives]}
        options.report.write_text(json.dumps(figures, indent=1))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
