"""Slips in the names of fields are errors; fields of other APIs that nobody here knows are ignored."""

from __future__ import annotations

import asyncio

import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.app import DIALECTS
from gguf_embed.server.fields.misspelled import is_one_edit, names_of, refuse_misspelled
from tests.server.fake_service import serving

KNOWN = names_of(body for dialect in DIALECTS for body in dialect.bodies)

SENT_BY_CLIENTS = (
    *("user", "metadata", "stream", "store", "seed", "temperature", "extra_body", "safety_identifier"),
    *("parameters", "options", "format", "raw", "template", "system", "context", "litellm_params", "timeout"),
    *("max_completion_tokens", "provider"),
    *("cache_salt", "request_id", "mm_processor_kwargs", "return_token_ids", "use_activation", "additional_data"),
    *("late_chunking", "modality", "task_type", "wait_for_model", "use_cache", "guardrails", "usage"),
    *("route", "transforms", "models", "contents"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "meant"),
    [("truncat", "truncate"), ("dimension", "dimensions"), ("inptu", "input"), ("documants", "documents"),
     ("encoding_fromat", "encoding_format"), ("keep_alives", "keep_alive"), ("nput", None), ("truncation_x", None)],
)  # fmt: skip
def test_one_slip_is_named_with_what_was_meant(name, meant):
    if meant is None:
        refuse_misspelled({name: 1}, KNOWN)
    else:
        with pytest.raises(InvalidRequest, match=f'there is no field "{name}"; did you mean "{meant}"') as caught:
            refuse_misspelled({name: 1}, KNOWN)
        assert caught.value.param == name


def test_what_clients_send_to_every_server_is_ignored():
    refuse_misspelled(dict.fromkeys(SENT_BY_CLIENTS, 1), KNOWN)
    refuse_misspelled({"truncat": None}, KNOWN)


@pytest.mark.parametrize(
    ("name", "other", "is_one"),
    [("abc", "abc", False), ("abc", "ab", True), ("abc", "abcd", True), ("abc", "xbc", True), ("abc", "acb", True),
     ("abc", "bca", False), ("", "a", True), ("abc", "xyc", False), ("abcd", "abdc", True), ("abc", "cab", False)],
)  # fmt: skip
def test_one_edit(name, other, is_one):
    assert is_one_edit(name, other) is is_one
    assert is_one_edit(other, name) is is_one


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embedding", "/api/embed", "/rerank", "/v2/embed", "/embed"])
def test_every_route_refuses_it(path):
    async def scenario():
        body = {"model": "tiny", "input": "a", "inputs": "a", "query": "q", "documents": ["d"], "texts": ["t"]}
        async with serving() as running:
            reply = await running.post(path, body | {"truncat": True})
            assert reply.status in (400, 422)
            assert 'did you mean \\"truncate\\"' in reply.raw.decode()

    asyncio.run(scenario())


def test_a_million_unknown_fields_are_not_all_looked_at():
    many = {f"unknown-{number}": 1 for number in range(1_000_000)}
    with pytest.raises(InvalidRequest, match='did you mean "truncate"'):
        refuse_misspelled({"truncat": 1} | many, KNOWN)
    refuse_misspelled(many | {"truncat": 1}, KNOWN)  # so far behind, it is not seen
