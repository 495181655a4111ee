"""A server that is killed again and again finishes its batches: no line is lost, computed twice or written twice."""

from __future__ import annotations

import json
import random
import time
from functools import partial
from pathlib import Path

import pytest

from tests.batch.http_batches import ENDS, create_batch, finished, upload
from tests.server_process import Server, wait_until

N_LINES = 1500


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_batch_survives_kills(launch, models, tmp_path: Path, seed: int):
    rng = random.Random(seed)
    flags = ("-m", models / "encoder.gguf", "--batch-dir", tmp_path)
    lines = [
        {"custom_id": f"{number}", "method": "POST", "url": "/v1/embeddings", "body": body_of(number)}
        for number in range(N_LINES)
    ]
    server = launch(*flags)
    batch_id = create_batch(server, upload(server, lines))["id"]
    written = b""
    for _ in range(2):
        log = tmp_path / "batches" / f"{batch_id}.output"
        wait_until(partial(has_begun, server, batch_id, log))
        time.sleep(rng.uniform(0.05, 0.6))
        server.process.kill()
        server.process.wait()
        if log.exists():  # else it was faster
            content = log.read_bytes()
            complete = content[: content.rfind(b"\n") + 1]
            assert complete.startswith(written)
            written = complete
        server = launch(*flags)
        if server.get(f"/v1/batches/{batch_id}").json()["status"] == "completed":
            break
    batch = finished(server, batch_id)
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": N_LINES, "completed": N_LINES - 15, "failed": 15}
    output = server.get(f"/v1/files/{batch['output_file_id']}/content").body
    assert output.startswith(written)
    errors = server.get(f"/v1/files/{batch['error_file_id']}/content").body
    entries = [json.loads(line) for line in output.splitlines() + errors.splitlines()]
    assert sorted(int(entry["custom_id"]) for entry in entries) == list(range(N_LINES))
    n_tokens = sum(entry["response"]["body"].get("usage", {"total_tokens": 0})["total_tokens"] for entry in entries)
    assert batch["usage"]["total_tokens"] == n_tokens
    assert [path.name for path in (tmp_path / "batches").iterdir()] == [f"{batch_id}.json"]
    assert len(list((tmp_path / "files").iterdir())) == 6  # three files, each with its record


def has_begun(server: Server, batch_id: str, log: Path) -> bool:
    return log.exists() or server.get(f"/v1/batches/{batch_id}").json()["status"] in ENDS


def body_of(number: int) -> dict[str, object]:
    """Every hundredth line fails."""
    return {"input": f"text {number} " * 30, "truncate": True, "dimensions": 9999 if number % 100 == 50 else 16}
