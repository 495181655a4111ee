"""A job that is killed at any moment loses nothing, doubles nothing and leaves nothing stale, once it has run again."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ingest.job.jobs import CHUNKS, Place, write_source

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
    "rho",
    "sigma",
    "tau",
]
ROOT = Path(__file__).parents[3]


def random_documents(chance: random.Random, before: dict[str, str]) -> dict[str, str]:
    """Some documents changed, shortened, lengthened, removed or added."""
    documents = dict(before)
    for _ in range(40):
        doc_id = f"doc{chance.randrange(250)}"
        if chance.random() < 0.25:
            documents.pop(doc_id, None)
        else:
            documents[doc_id] = " ".join(
                f"{chance.choice(WORDS)}{chance.randrange(999)}" for _ in range(chance.randint(1, 40))
            )
    return documents


def run_and_kill(place: Place, how: str, after_windows: int, after_s: float) -> bool:
    """Whether it was killed before it was done."""
    command = [sys.executable, "-m", "tests.ingest.job.killed_job", str(place.folder), place.sink, how]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(after_windows)]
    time.sleep(after_s)
    process.kill()
    printed, failed = process.communicate()
    assert "Traceback" not in failed, failed
    return "done" not in "".join([*lines, printed])


@pytest.mark.parametrize(
    ("scheme", "how", "n_kills"),
    [("sqlite", "chunks", 5), ("sqlite", "whole", 3), ("parquet", "chunks", 4), ("jsonl", "chunks", 2)],
)
def test_killed_jobs_lose_nothing(tmp_path, scheme, how, n_kills):
    chance = random.Random(f"{scheme} {how}")
    place = Place(tmp_path, f"{scheme}:{tmp_path / 'sink.db'}?table=docs", CHUNKS if how == "chunks" else None)
    documents = {f"doc{number}": " ".join(f"{word}-{number}" for word in WORDS) for number in range(200)}
    write_source(place.source, documents)
    n_killed = 0
    for _ in range(n_kills):
        n_killed += run_and_kill(place, how, chance.randint(1, 4), chance.uniform(0, 0.03))
        documents = random_documents(chance, documents)
        write_source(place.source, documents)
    assert n_killed >= 1
    place.run(prune=True)
    assert place.stored() == place.expected(documents)
    assert place.run(prune=True).counters.n_stored == 0
