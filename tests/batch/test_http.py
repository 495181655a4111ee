"""Files and batches over HTTP: forms, keys, paths, quotas, memory. One real server with keys."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.batch.http_batches import BOUNDARY, create_batch, finished, form, jsonl, post_form, upload
from tests.server_process import Server, start_server, stop, wait_until

MINE, THEIRS = {"X-Api-Key": "mine"}, {"X-Api-Key": "theirs"}
LINES = [{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"input": "a"}}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("http") / "batches"


@pytest.fixture(scope="module")
def server(folder: Path, cache_dir: Path, models: Path) -> Iterator[Server]:
    flags = ("--batch-dir", folder, "--batch-max-bytes", "300M", "--api-key", "mine,theirs")
    started = start_server(cache_dir, "-m", models / "encoder.gguf", *flags)
    yield started
    stop(started)


def error_of(reply, status: int) -> dict:
    assert reply.status == status, reply.body
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_a_key_sees_only_its_own(server):
    file_id = upload(server, LINES, **MINE)
    body = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    assert error_of(server.post("/v1/batches", body, **THEIRS), 400)["param"] == "input_file_id"
    batch = server.post("/v1/batches", body, **MINE).json()
    for method, path in [
        ("GET", f"/v1/files/{file_id}"),
        ("GET", f"/v1/files/{file_id}/content"),
        ("DELETE", f"/v1/files/{file_id}"),
        ("GET", f"/v1/batches/{batch['id']}"),
        ("POST", f"/v1/batches/{batch['id']}/cancel"),
    ]:
        assert error_of(server.request(method, path, headers=THEIRS), 404)["code"] == "not_found"
        assert server.request(method, path).status == 401
    assert server.get("/v1/files", **THEIRS).json()["data"] == server.get("/v1/batches", **THEIRS).json()["data"] == []
    bearer = {"Authorization": "Bearer mine"}
    assert server.get(f"/v1/batches/{batch['id']}", **bearer).status == 200
    assert [entry["id"] for entry in server.get("/v1/batches", **bearer).json()["data"]] == [batch["id"]]
    assert finished(server, batch["id"], **bearer)["status"] == "completed"


def test_metrics_count_what_is_stored(server):
    def measured(name: str) -> float:
        lines = server.get("/metrics", **MINE).body.decode().splitlines()
        return float(next((line.split()[-1] for line in lines if line.startswith(f"gguf_embed_{name} ")), 0))

    n_before, bytes_before = measured('stored_batches{status="completed"}'), measured("stored_batch_bytes")
    body = {"input_file_id": upload(server, LINES, **MINE), "endpoint": "/v1/embeddings", "completion_window": "24h"}
    finished(server, server.post("/v1/batches", body, **MINE).json()["id"], **MINE)
    assert measured('stored_batches{status="completed"}') == n_before + 1
    assert measured("stored_batch_bytes") > bytes_before + 2 * len(jsonl(LINES))
    assert measured("waiting_batch_requests") == 0


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2fkey",
        "..%2Flock",
        "%2e%2e",
        "..",
        "....//",
        "%2fetc%2fpasswd",
        "file-%00",
        "file-" + "0" * 32 + "%2f..%2f..%2fkey",
        "file-" + "0" * 32 + ".json",
        "x" * 5000,
        "%ff%fe",
    ],
)
def test_no_path_reaches_the_disk(server, name):
    for method, path in [
        ("GET", f"/v1/files/{name}"),
        ("GET", f"/v1/files/{name}/content"),
        ("DELETE", f"/v1/files/{name}"),
        ("GET", f"/v1/batches/{name}"),
        ("POST", f"/v1/batches/{name}/cancel"),
    ]:
        reply = server.request(method, path, headers=MINE)
        assert reply.status in (404, 405), (method, path, reply.body)
        assert "error" in reply.json()
    body = {"input_file_id": name, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    assert error_of(server.post("/v1/batches", body, **MINE), 400)["param"] == "input_file_id"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (form(b"x", purpose="assistants"), "purpose"),
        (form(b"x").replace(b'name="purpose"', b'name="other"'), "purpose"),
        (form(b"x").replace(b'name="file"', b'name="data"'), "file"),
        (form(b"x").replace(f"--{BOUNDARY}--".encode(), form(b"y")), "file"),
        (form(b"x", **{"expires_after[anchor]": "created_at"}), "expires_after"),
        (form(b"x", **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "9e9"}), "expires_after"),
        (form(b"x", **{"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}), "expires_after"),
        (form(b"x", purpose="batch" * 1000), "purpose"),
        (form(b"x", **{f"f{number}": "" for number in range(20)}), None),
        (b"", None),
        (b"no form", None),
        (form(b"x")[:-20], None),
        (form(b"x").replace(b"Content-D", b": x\r\nContent-D"), None),
        (form(b"x").replace(b"Content-D", b"\xff\r\nContent-D"), None),
        (form(b"x").replace(b"in.jsonl", b"\x00.jsonl"), None),
        (form(b"x").replace(b'"purpose"', b'"\xff"'), "purpose"),
        (form(b"x").replace(b'; name="purpose"', b""), "purpose"),
        (f"--{BOUNDARY}\r\nfoo".encode(), None),
    ],
)
def test_a_wrong_form_is_refused_and_leaves_nothing(server, folder, body, param):
    before = set((folder / "files").glob("*")) if folder.exists() else set()
    assert error_of(post_form(server, body, **MINE), 400)["param"] == param
    assert set((folder / "files").glob("*")) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Encoding": "gzip"},
        {"Content-Type": "multipart/mixed; boundary=x"},
    ],
)
def test_another_encoding_is_refused(server, headers):
    assert error_of(post_form(server, form(b"x"), **MINE, **headers), 400)["type"] == "invalid_request_error"


def test_the_file_may_come_before_its_purpose(server):
    body = form(b"content")
    purpose, file = body.split(b"--" + BOUNDARY.encode())[1:3]
    mark = b"--" + BOUNDARY.encode()
    reply = post_form(server, mark + file + mark + purpose + mark + b"--\r\n", **MINE)
    assert (reply.status, reply.json()["bytes"]) == (200, 7)


def test_names_are_kept_without_what_no_terminal_shows(server):
    body = form(b"x").replace(b'filename="in.jsonl"', 'filename="../../etc/übung\u202e.jsonl"'.encode())
    assert post_form(server, body, **MINE).json()["filename"] == "../../etc/übung.jsonl"


@pytest.mark.parametrize(
    ("query", "param"), [("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=file-1", "after")]
)
def test_wrong_queries(server, query, param):
    assert error_of(server.get(f"/v1/files?{query}", **MINE), 400)["param"] == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"completion_window": "1s"}, "completion_window"),
        ({"completion_window": 24}, "completion_window"),
        ({"completion_window": None}, "completion_window"),
        ({"endpoint": None}, "endpoint"),
        ({"input_file_id": None}, "input_file_id"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"metadata": {"a" * 65: ""}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": True}}, "output_expires_after"),
    ],
)
def test_wrong_fields_of_a_batch(server, fields, param):
    body = {"input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h", **fields}
    assert error_of(server.post("/v1/batches", body, **MINE), 400)["param"] == param


def test_a_client_that_vanishes_leaves_nothing(server, folder):
    upload(server, LINES, **MINE)
    before = set((folder / "files").glob("*"))
    form_type = f"multipart/form-data; boundary={BOUNDARY}"
    head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\nX-Api-Key: mine\r\nContent-Type: {form_type}"
    with socket.create_connection((server.host, server.port)) as connection:
        connection.sendall(f"{head}\r\nContent-Length: 100000000\r\n\r\n".encode() + form(b"x" * 10**7)[:-20])
    wait_until(lambda: set((folder / "files").glob("*")) == before)
    assert set((folder / "files").glob("*")) == before


def resident_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def test_large_files_take_no_memory_and_the_quota_holds(server):
    upload(server, LINES, **MINE)
    before = resident_bytes(server)
    line = json.dumps({**LINES[0], "pad": "x" * 10_000}).encode() + b"\n"
    content = line * (150 * 2**20 // len(line))
    first = post_form(server, form(content), **MINE)
    assert (first.status, first.json()["bytes"]) == (200, len(content))
    try:
        batch = server.post(
            "/v1/batches",
            {"input_file_id": first.json()["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"},
            **MINE,
        ).json()
        refused = post_form(server, form(content), **MINE)
        assert "--batch-max-bytes" in error_of(refused, 413)["message"]
        while (ended := server.get(f"/v1/batches/{batch['id']}", **MINE).json())["status"] != "failed":
            assert ended["status"] == "validating"
        assert {error["code"] for error in ended["errors"]["data"]} == {"duplicate_custom_id"}
        reply = server.get(f"/v1/files/{first.json()['id']}/content", **MINE)
        assert (len(reply.body), reply.headers["Content-Type"]) == (len(content), "application/octet-stream")
        assert resident_bytes(server) - before < 60 * 2**20
    finally:
        server.request("DELETE", f"/v1/files/{first.json()['id']}", headers=MINE)


def test_another_server_with_the_same_folder_says_so(server, folder, launch, models):
    upload(server, LINES, **MINE)
    other = launch("-m", models / "encoder.gguf", "--batch-dir", folder)
    assert "--batch-dir" in error_of(post_form(other, form(b"x")), 503)["message"]


def test_batches_can_be_switched_off_and_are_in_the_cache_without_a_flag(launch, models, tmp_path):
    off = launch("-m", models / "encoder.gguf", "--batch-dir", "off")
    assert error_of(post_form(off, form(jsonl(LINES))), 501)["code"] == "not_supported"
    assert error_of(off.get("/v1/batches"), 501)["code"] == "not_supported"
    default = launch("-m", models / "encoder.gguf", GGUF_EMBED_CACHE=str(tmp_path))
    batch = create_batch(default, upload(default, LINES))
    assert finished(default, batch["id"])["status"] == "completed"
    assert (tmp_path / "batches" / "batches" / f"{batch['id']}.json").exists()
