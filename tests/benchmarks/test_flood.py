"""The benchmark of more requests at once than the queue holds."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from benchmarks.flood import Flood, flood, table


def test_the_table_says_how_often_clients_tried_and_how_long_they_waited():
    found = Flood(Counter({200: 3, 429: 2}), n_lost=1, tries=[1, 1, 3], seconds=[2.0, 0.5, 9.0])
    lines = table(found)
    assert "| replies | 3 × 200, 2 × 429 |" in lines
    assert "| requests lost | 1 |" in lines
    assert "| tries, mean / most | 1.67 / 3 |" in lines
    assert "| answered after, median / last | 2.0 / 9.0 s |" in lines


@pytest.mark.process
def test_every_request_of_a_flood_is_counted(launch, models):
    server = launch("-m", models / "encoder.gguf", "--max-queue-tokens", "1000")
    found = asyncio.run(flood(server.port, 8))
    assert len(found.tries) == len(found.seconds) == 8
    assert sum(found.statuses.values()) == sum(found.tries)
    assert found.n_lost == 0
