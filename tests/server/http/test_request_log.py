"""The log of requests: what has a line at which level, what is in it, and that nobody can fill the disk with it."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from gguf_embed.cli.log import JsonFormatter
from gguf_embed.errors import InvalidRequest
from gguf_embed.server.app import DIALECTS
from gguf_embed.server.http.request_log import (
    LINES_PER_WINDOW,
    MAX_PATH,
    MAX_REASON,
    SAME_PER_WINDOW,
    WINDOW_S,
    WORK,
    Answered,
    Refusals,
    RequestLog,
    reason_of,
)
from tests.server.fake_service import failing, serving
from tests.server.routes import with_model

SECRET = 's3cret "quoted" text'
EMBED = Answered("POST", "/v1/embeddings", 400)


def logged(caplog, level, *requests, service=None, **options):
    """The records of these requests: (method, path, body)."""

    async def scenario():
        async with serving(service, **options) as running:
            for method, path, body in requests:
                await running.request(method, path, json=body)

    caplog.clear()
    with caplog.at_level(level, "gguf_embed"):
        asyncio.run(scenario())
    return [record for record in caplog.records if record.name == "gguf_embed.requests"]


def test_with_verbose_each_request_has_a_line_with_what_it_took(caplog):
    (record,) = logged(caplog, logging.INFO, ("POST", "/v1/embeddings", {"input": ["a", "bcd"]}))
    text = record.getMessage()
    assert text.startswith("POST /v1/embeddings 200 ")
    assert text.endswith(" ms: tiny, 2 texts, 8 tokens")
    fields = json.loads(JsonFormatter().format(record))
    ms = fields.pop("ms")
    assert ms > 0
    assert {name: fields[name] for name in fields if name not in ("time", "request_id")} == {
        "level": "info", "logger": "gguf_embed.requests", "message": text, "method": "POST", "route": "/v1/embeddings",
        "status": 200, "model": "tiny", "texts": 2, "tokens": 8,
    }  # fmt: skip
    assert len(fields["request_id"]) == 24


def test_a_line_of_a_rerank_request_counts_its_documents(caplog):
    (record,) = logged(caplog, logging.INFO, ("POST", "/rerank", {"query": "a", "documents": ["b", "c", "d"]}))
    assert ", 3 texts, " in record.getMessage()


def test_by_default_only_refused_requests_have_a_line(caplog):
    records = logged(
        caplog,
        logging.WARNING,
        ("POST", "/v1/embeddings", {"input": "a"}),
        ("GET", "/health", None),
        ("POST", "/v1/embeddings", {}),
        ("GET", "/nothing?key=s3cret", None),
    )
    assert [record.getMessage().split(":")[0] for record in records] == [
        "POST /v1/embeddings 400",
        "GET /nothing 404",
    ]
    assert (records[1].fields["route"], records[1].fields["path"]) == ("unknown", "/nothing")
    assert "s3cret" not in records[1].getMessage()
    assert '"input" or "content" must be provided' in records[0].getMessage()
    assert records[0].fields["status"] == 400


def test_with_verbose_a_refused_request_has_one_line_with_its_reason(caplog):
    (record,) = logged(caplog, logging.INFO, ("POST", "/v1/embeddings", {"input": "a", "dimensions": 0}))
    assert record.levelno == logging.INFO
    assert '"dimensions" must be' in record.getMessage()
    assert record.fields["reason"] in record.getMessage()


@pytest.mark.parametrize("path", ["/health", "/v1/health", "/ready", "/metrics"])
def test_probes_have_a_line_with_more_verbosity_only(caplog, path):
    assert logged(caplog, logging.INFO, ("GET", path, None)) == []
    (record,) = logged(caplog, logging.DEBUG, ("GET", path, None))
    assert record.getMessage().startswith(f"GET {path} 200 ")


def test_nothing_is_noted_when_nobody_reads_it(caplog):
    seen = []

    class Looking(type(failing(InvalidRequest("x")))):
        async def embed(self, request, check=None):
            seen.append(WORK.get())
            return await super().embed(request, check)

    logged(caplog, logging.WARNING, ("POST", "/v1/embeddings", {"input": "a"}), service=Looking())
    assert seen == [None]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_no_line_has_a_text_or_a_key(caplog, dialect):
    bodies = [body for one in dialect.bodies for body in (one, *one.groups)]
    names = {name for body in bodies for field in body.fields for name in field.names} - {"model", "name"}
    values = (SECRET, [{"text": SECRET}], [["a", SECRET, 1.5]])
    rest = {"input": "a", "inputs": ["a"], "query": "q", "documents": ["d"], "texts": ["t"], "content": "x"}
    posts = [route for route in dialect.routes if route.method == "POST" and "pull" not in route.path]
    requests = [
        ("POST", with_model(route.path), rest | {name: value})
        for route in posts
        for name in sorted(names)
        for value in values
    ]
    records = logged(caplog, logging.INFO, *requests)
    assert len(records) == len(requests)
    assert not [line for record in records if "s3cret" in (line := JsonFormatter().format(record))]


def test_a_wrong_key_is_not_in_the_log(caplog):
    async def scenario():
        async with serving(api_keys=("right",)) as running:
            await running.post("/v1/embeddings", {"input": "a"}, headers={"Authorization": "Bearer s3cret"})

    asyncio.run(scenario())
    assert "401" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_reason_is_one_short_line():
    assert reason_of("a\nb\x1b[31m \u2028c\udcff") == "a?b?[31m ?c?"
    assert reason_of('"x" must be a number, found the string "a "b" c"') == '"x" must be a number, found a string'
    assert len(reason_of("x" * 10_000)) == MAX_REASON + 1


def test_a_method_of_the_clients_own_is_not_in_the_log():
    assert str(Answered.of("EVIL" * 1000, None, 404, "")) == "? unknown 404"


def test_a_path_of_the_clients_own_is_short_and_on_one_line():
    assert str(Answered.of("GET", None, 404, "/a\nb\x1b")) == "GET /a?b? 404"
    assert str(Answered.of("GET", None, 404, "/" + "x" * 1000)) == f"GET /{'x' * (MAX_PATH - 1)}… 404"
    assert str(Answered.of("GET", "/v1/models/{model}", 404, "/v1/models/mine")) == "GET /v1/models/{model} 404"


def test_unknown_paths_are_of_one_kind():
    refusals = Refusals()
    shown = [refusals.has_line(Answered.of("GET", None, 404, f"/{number}"), 0.0) for number in range(5)]
    assert shown == [True] * SAME_PER_WINDOW + [False] * 2
    assert refusals.summary() == "refused, and not shown one by one: 2 times GET unknown paths 404"


def test_the_same_refusal_has_a_few_lines_per_minute_and_then_a_number():
    refusals = Refusals()
    assert [refusals.has_line(EMBED, float(second)) for second in range(6)] == [True] * 3 + [False] * 3
    assert SAME_PER_WINDOW == 3
    other = Answered("GET", "unknown", 404)
    assert refusals.has_line(other, 6.0)
    assert refusals.summary() == "refused, and not shown one by one: 3 times POST /v1/embeddings 400"
    assert not refusals.has_line(EMBED, WINDOW_S - 1)
    assert refusals.has_line(EMBED, WINDOW_S + 1)


def test_all_refusals_together_have_a_limit():
    refusals = Refusals()
    kinds = [Answered("POST", f"/{number}", 400) for number in range(100)]
    assert sum(refusals.has_line(kind, 0.0) for kind in kinds * 50) == LINES_PER_WINDOW
    assert len(refusals.summary()) < 300


def test_a_flood_is_summed_up_at_the_end_of_its_minute(caplog, monkeypatch):
    async def scenario():
        log, later = RequestLog(), []
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "call_at", lambda when_s, act: later.append(act) or object(), raising=False)
        for _ in range(1000):
            log.refused(EMBED, "wrong")
        monkeypatch.undo()
        [sum_up] = later
        sum_up()

    asyncio.run(scenario())
    assert len(caplog.messages) == SAME_PER_WINDOW + 2
    assert caplog.messages[SAME_PER_WINDOW] == (
        "POST /v1/embeddings 400 again: until the minute is over, more of these are only counted; -v shows each"
    )
    assert caplog.messages[-1].endswith(": 997 times POST /v1/embeddings 400")
