"""The official openai client drives files and batches of a real server, unchanged."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from tests.server_process import Reply, Server, decode, start_server, stop

ENDS = ("completed", "failed", "expired", "cancelled")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path, models: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("jobs")
    started = start_server(
        cache_dir, "-m", models / "encoder.gguf", "-m", models / "reranker.gguf", "--batch-dir", folder
    )
    yield started
    stop(started)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0) as opened:
        yield opened


def line(custom_id: str, url: str = "/v1/embeddings", **body: object) -> dict[str, object]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def upload(client: openai.OpenAI, lines: list[Any]) -> str:
    content = "".join(entry if isinstance(entry, str) else json.dumps(entry) + "\n" for entry in lines)
    return client.files.create(file=("in.jsonl", content.encode()), purpose="batch").id


def finished(client: openai.OpenAI, batch_id: str) -> Any:
    deadline_s = time.monotonic() + 60
    while (batch := client.batches.retrieve(batch_id)).status not in ENDS:
        assert time.monotonic() < deadline_s, batch
        time.sleep(0.05)
    return batch


def lines_of(client: openai.OpenAI, file_id: str) -> list[Any]:
    return [json.loads(text) for text in client.files.content(file_id).text.splitlines()]


def run(client: openai.OpenAI, lines: list[Any], endpoint: Any = "/v1/embeddings", **fields: Any) -> Any:
    file_id = upload(client, lines)
    batch = client.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window="24h", **fields)
    assert batch.status in ("validating", "in_progress")
    return finished(client, batch.id)


def assert_same_reply(found: Any, direct: Reply) -> None:
    """All but the last digits of vectors, which depend on what else is in the engine's batch."""
    vectors = [decode(item.pop("embedding")) for item in found["data"]]
    np.testing.assert_allclose(vectors, direct.vectors(), atol=1e-5)
    expected = direct.json()
    for item in expected["data"]:
        del item["embedding"]
    assert found == expected


def test_a_batch_gives_what_direct_calls_give(client, server):
    texts = [f"text number {number}" for number in range(200)]
    lines = [line(f"id-{number}", model="encoder", input=text) for number, text in enumerate(texts)]
    lines += [
        line("two", model="encoder", input=["a", "b"], dimensions=8),
        line("base64", model="encoder", input="a", encoding_format="base64"),
    ]
    batch = run(client, lines, metadata={"job": "nightly"})
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (202, 202, 0)
    assert (batch.errors, batch.error_file_id, batch.metadata, batch.model) == (
        None,
        None,
        {"job": "nightly"},
        "encoder",
    )
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at < batch.expires_at
    output = lines_of(client, batch.output_file_id)
    assert [entry["custom_id"] for entry in output] == [entry["custom_id"] for entry in lines]
    assert len({entry["id"] for entry in output}) == 202
    n_tokens = 0
    for entry, sent in zip(output, lines, strict=True):
        assert (entry["error"], entry["response"]["status_code"]) == (None, 200)
        n_tokens += entry["response"]["body"]["usage"]["total_tokens"]
        if sent["custom_id"] in ("id-0", "id-77", "two", "base64"):
            assert_same_reply(entry["response"]["body"], server.post("/v1/embeddings", sent["body"]))
    assert batch.usage.input_tokens == batch.usage.total_tokens == n_tokens > 202
    kept = [entry for entry in output if "embedding" in entry["response"]["body"]["data"][0]]
    found = np.array([entry["response"]["body"]["data"][0]["embedding"] for entry in kept], np.float32)
    numbers = [int(entry["custom_id"].removeprefix("id-")) for entry in kept]
    assert len(numbers) == 198
    np.testing.assert_allclose(found, server.embed(texts, model="encoder")[numbers], atol=1e-5)


def test_a_batch_of_rerank_requests(client, server):
    body = {"model": "reranker", "query": "cat", "documents": ["a cat", "a dog"], "top_n": 1}
    batch = run(client, [line("a", "/v1/rerank", **body)], "/v1/rerank")
    (entry,) = lines_of(client, batch.output_file_id)
    direct = server.post("/v1/rerank", body).json()
    score, expected = (reply["results"][0].pop("relevance_score") for reply in (entry["response"]["body"], direct))
    assert score == pytest.approx(expected, abs=1e-4)
    assert entry["response"]["body"] == direct
    assert batch.usage.input_tokens == entry["response"]["body"]["usage"]["total_tokens"]


def test_lines_that_fail_are_in_the_error_file_with_the_error_of_the_route(client, server):
    wrong = {"model": "encoder", "input": "a", "dimensions": 4096}
    batch = run(
        client, [line("good", model="encoder", input="a"), line("wrong", **wrong), line("none", model="x", input="a")]
    )
    assert batch.status == "completed"
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (3, 1, 2)
    assert [entry["custom_id"] for entry in lines_of(client, batch.output_file_id)] == ["good"]
    errors = {entry["custom_id"]: entry for entry in lines_of(client, batch.error_file_id)}
    assert [errors[name]["response"]["status_code"] for name in ("wrong", "none")] == [400, 404]
    assert errors["wrong"]["response"]["body"] == server.post("/v1/embeddings", wrong).json()


def test_a_file_with_bad_lines_fails_before_anything_is_computed(client):
    batch = run(
        client, [line("a", input="x"), "{\n", line("a", input="y"), line("b", "/v1/rerank"), "\n", {"custom_id": "c"}]
    )
    assert (batch.status, batch.output_file_id, batch.request_counts.total) == ("failed", None, 5)
    assert batch.errors.object == "list"
    assert [(error.code, error.line, error.param) for error in batch.errors.data] == [
        ("invalid_json_line", 2, None),
        ("duplicate_custom_id", 3, "custom_id"),
        ("invalid_url", 4, "url"),
        ("invalid_method", 6, "method"),
    ]
    assert all(error.message for error in batch.errors.data)
    empty = run(client, ["\n"])
    assert [error.code for error in empty.errors.data] == ["empty_file"]


def test_files_are_listed_in_pages_read_and_deleted(client):
    ids = [upload(client, [line(str(number), input="a")]) for number in range(5)]
    newest = client.files.list(limit=2, purpose="batch")
    assert [file.id for file in newest.data] == [ids[4], ids[3]]
    assert [file.id for file in newest][:5] == ids[::-1]  # all pages
    assert [file.id for file in client.files.list(order="asc", after=ids[3])] == ids[4:]
    file = client.files.retrieve(ids[0])
    assert (file.object, file.purpose, file.filename, file.status) == ("file", "batch", "in.jsonl", "processed")
    content = client.files.content(ids[0]).content
    assert (len(content), json.loads(content)["custom_id"]) == (file.bytes, "0")
    deleted = client.files.delete(ids[0])
    assert (deleted.id, deleted.deleted) == (ids[0], True)
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(ids[0])


def test_expiry_of_files(client):
    file = client.files.create(
        file=("in.jsonl", b"{}"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == file.created_at + 3600
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=b"x", purpose="batch", expires_after={"anchor": "created_at", "seconds": 60})
    assert caught.value.param == "expires_after"
    batch = run(
        client, [line("a", model="encoder", input="a")], output_expires_after={"anchor": "created_at", "seconds": 7200}
    )
    output = client.files.retrieve(batch.output_file_id)
    assert (output.expires_at, output.purpose) == (output.created_at + 7200, "batch_output")


def test_batches_are_listed_newest_first_in_pages(client):
    file_id = upload(client, [line("a", model="encoder", input="a")])
    create = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    ids = [client.batches.create(**create).id for _ in range(3)]
    assert [batch.id for batch in client.batches.list(limit=2).data] == [ids[2], ids[1]]
    assert [batch.id for batch in client.batches.list(limit=1)][:3] == ids[::-1]
    for batch_id in ids:
        assert finished(client, batch_id).status == "completed"


def test_a_batch_is_cancelled_and_what_is_done_is_kept(client):
    file_id = upload(
        client,
        [line(str(number), model="encoder", input=f"text {number} " * 30, truncate=True) for number in range(30_000)],
    )
    batch = client.batches.create(input_file_id=file_id, endpoint="/v1/embeddings", completion_window="24h")
    deadline_s = time.monotonic() + 60
    while client.batches.retrieve(batch.id).request_counts.completed < 100:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    with pytest.raises(openai.BadRequestError, match=batch.id):
        client.files.delete(file_id)
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    ended = finished(client, batch.id)
    assert (ended.status, ended.cancelled_at >= ended.cancelling_at) == ("cancelled", True)
    done = lines_of(client, ended.output_file_id)
    left = lines_of(client, ended.error_file_id)
    assert len(done) == ended.request_counts.completed >= 100
    assert {entry["error"]["code"] for entry in left} == {"batch_cancelled"}
    assert sorted(int(entry["custom_id"]) for entry in done + left) == list(range(30_000))
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        client.batches.cancel(batch.id)
    client.files.delete(file_id)


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses", "/etc/passwd"])
def test_other_endpoints_are_not_supported(client, endpoint):
    with pytest.raises(openai.APIStatusError) as caught:
        client.batches.create(input_file_id="file-1", endpoint=endpoint, completion_window="24h")
    assert caught.value.status_code == 501


def test_a_batch_needs_an_input_file(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.batches.create(input_file_id="file-1", endpoint="/v1/embeddings", completion_window="24h")
    assert caught.value.param == "input_file_id"
