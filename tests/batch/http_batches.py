"""Files and batches over plain HTTP."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.server_process import Reply, Server, wait_until

ENDS = ("completed", "failed", "expired", "cancelled")
BOUNDARY = "b0undary"


def form(content: bytes, **fields: str) -> bytes:
    """A form with a file; names of fields as they are, purpose "batch" by default."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in {"purpose": "batch", **fields}.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'.encode()
    return b"".join([*parts, head, content, f"\r\n--{BOUNDARY}--\r\n".encode()])


def post_form(server: Server, body: bytes, **headers: str) -> Reply:
    content_type = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return server.request("POST", "/v1/files", body, {**content_type, **headers})


def jsonl(lines: Sequence[object]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def upload(server: Server, lines: Sequence[object], **headers: str) -> str:
    """The id of a file with these lines."""
    reply = post_form(server, form(jsonl(lines)), **headers)
    assert reply.status == 200, reply.body
    return str(reply.json()["id"])


def create_batch(server: Server, file_id: str, **fields: object) -> Any:
    body = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h", **fields}
    reply = server.post("/v1/batches", body)
    assert reply.status == 200, reply.body
    return reply.json()


def finished(server: Server, batch_id: str, **headers: str) -> Any:
    """The batch when it is over."""
    wait_until(lambda: server.get(f"/v1/batches/{batch_id}", **headers).json()["status"] in ENDS)
    return server.get(f"/v1/batches/{batch_id}", **headers).json()
