"""Token ids on /v1/embeddings: this model's own, OpenAI's, or refused. The fake's own ids stand between 101 and 102."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re

import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.preprocessing.tokenizers import SpecialTokens, special_tokens_around
from gguf_embed.server.dialects.openai.token_ids import (
    MAX_INLINE_TOKENS,
    N_CL100K,
    TextLimits,
    decode_all,
    identify_model,
    is_openai_client,
)
from gguf_embed.tokenization import openai_encodings
from gguf_embed.tokenization.openai_encodings import OpenAIEncoding, RankFile, TokenIdRule
from tests.server.fake_service import FakeService, Reply, serving

BYTES = OpenAIEncoding("cl100k_base", {token: bytes([token]) for token in range(256)})
OWN, BARE = [101, 7, 102], [104, 105]


def ask(
    rule: TokenIdRule, given: object, path: str = "/v1/embeddings", agent: str = "curl/8", **fields: object
) -> tuple[FakeService, Reply]:
    async def scenario() -> tuple[FakeService, Reply]:
        async with serving(token_ids=rule) as running:
            headers = {"User-Agent": agent}
            return running.service, await running.post(path, {"input": given, **fields}, headers=headers)

    return asyncio.run(scenario())


OPENAI = "OpenAI/Python 3.52.0"


@pytest.mark.parametrize(
    ("framed", "bare", "frame"),
    [
        ([101, 1037, 102], [1037], SpecialTokens((101,), (102,))),
        ([64, 151643], [64], SpecialTokens((), (151643,))),
        ([1, 263], [263], SpecialTokens((1,), ())),
        ([263], [263], SpecialTokens((), ())),
        ([], [], SpecialTokens((), ())),
        ([101, 102], [], SpecialTokens((), (101, 102))),
        ([5, 6], [7], None),
    ],
)
def test_special_tokens_are_what_stands_around_a_text(framed, bare, frame):
    assert special_tokens_around(framed, bare) == frame


@pytest.mark.parametrize(
    ("frame", "telling"),
    [
        (SpecialTokens((101,), (102,)), True),
        (SpecialTokens((), (N_CL100K,)), True),
        (SpecialTokens((N_CL100K,), ()), True),
        (SpecialTokens((), (N_CL100K - 1,)), False),
        (SpecialTokens((101,), ()), True),
        (SpecialTokens((), (102,)), False),
        (SpecialTokens((1,), ()), False),
        (SpecialTokens((0,), (2,)), False),  # XLM-RoBERTa: "!" and "#"
        (SpecialTokens((2,), (1,)), False),  # Gemma: "#" and a quotation mark
        (SpecialTokens((50281,), (50282,)), False),  # ModernBERT: words
        (SpecialTokens((), ()), False),
    ],
)
def test_special_tokens_identify_a_model_where_no_text_of_openais_begins_so_or_has_such_an_id(frame, telling):
    assert identify_model(frame) is telling


@pytest.mark.parametrize(
    ("tokens", "held"), [([1, 2], True), ([1, 9, 2], True), ([1, 9], False), ([9, 2], False), ([1], False), ([], False)]
)
def test_special_tokens_surround_what_begins_and_ends_so(tokens, held):
    assert SpecialTokens((1,), (2,)).surround(tokens) is held


@pytest.mark.parametrize(
    ("agent", "is_openais"),
    [
        ("OpenAI/Python 3.52.0", True),
        ("AsyncOpenAI/Python 1.0.0", True),
        ("AzureOpenAI/Python 1.0.0", True),
        ("AsyncAzureOpenAI/Python 1.0.0", True),
        ("OpenAI/JS 4.1.0", True),
        ("OpenAI/Go 1.2", True),
        ("OpenAI/2.1.0 (.NET 8.0)", True),
        ("OpenAIClientImpl/Java 1.0", True),
        ("openai-php/client", True),
        ("curl/8.5.0", False),
        ("python-requests/2.31 OpenAI", False),
        ("", False),
    ],
)
def test_openais_clients_say_who_they_are(agent, is_openais):
    assert is_openai_client(agent) is is_openais


@pytest.mark.parametrize("agent", ["curl/8.5.0", "python-httpx/0.27", "Go-http-client/1.1", ""])
@pytest.mark.parametrize("given", [BARE, [BARE, OWN], ["text", BARE], [101], [[12, 34], [56, 78]]])
def test_ids_from_anyone_else_are_the_models_own(agent, given):
    service, reply = ask(TokenIdRule(), given, agent=agent)
    assert reply.status == 200
    assert any(isinstance(item, tuple) for item in service.requests[0].inputs)


def test_ids_from_openais_clients_become_text_where_the_encoding_is_at_hand(tmp_path, monkeypatch):
    ranks = b"".join(base64.b64encode(bytes([n])) + b" %d\n" % n for n in range(256))
    known = RankFile("ranks", hashlib.sha256(ranks).hexdigest(), {})
    monkeypatch.setitem(openai_encodings.RANK_FILES, "cl100k_base", known)
    rule = TokenIdRule(folders=(tmp_path,))
    service, reply = ask(rule, [BARE, OWN, "text"], agent=OPENAI)
    assert (reply.status, reply.json["error"]["index"], service.requests) == (400, 0, [])
    (tmp_path / "ranks").write_bytes(ranks)  # a file that is added while the server runs is found
    service, reply = ask(rule, [BARE, [101, 102], "text"], agent=OPENAI)
    assert (reply.status, service.requests[0].inputs) == (200, ("hi", "ef", "text"))
    service, reply = ask(rule, [OWN, "text"], agent=OPENAI)
    assert (reply.status, service.requests[0].inputs) == (200, (tuple(OWN), "text"))
    openai_encodings.loaded_cl100k.cache_clear()


@pytest.mark.parametrize("given", [OWN, [OWN, [101, 102]], ["text", OWN], ["a", 5, 6], [["a", 5], "b"]])
def test_from_openais_clients_ids_with_special_tokens_are_the_models_own(given):
    service, reply = ask(TokenIdRule(), given, agent=OPENAI)
    assert reply.status == 200
    assert any(isinstance(item, tuple) for item in service.requests[0].inputs)


@pytest.mark.parametrize(("given", "index"), [(BARE, 0), ([OWN, BARE], 1), (["text", BARE], 1), ([101], 0)])
def test_without_the_encoding_other_ids_of_openais_clients_are_refused_with_every_way_out(given, index):
    service, reply = ask(TokenIdRule(), given, agent=OPENAI)
    assert reply.status == 400
    assert service.requests == []
    error = reply.json["error"]
    assert (error["param"], error["index"]) == ("input", index)
    assert error["message"].startswith(f"input {index} contains token ids")
    assert "(101 … 102)" in error["message"]
    for way in ("check_embedding_ctx_length=False", "pip install tiktoken", "POST /embedding", "ids model"):
        assert way in error["message"]


@pytest.mark.parametrize("given", [BARE, [OWN, BARE]])
def test_ids_are_the_models_own_if_the_server_is_configured_so(given):
    service, reply = ask(TokenIdRule("model"), given)
    assert reply.status == 200
    assert tuple(BARE) in service.requests[0].inputs


@pytest.mark.parametrize("rule", [TokenIdRule(), TokenIdRule("cl100k_base", BYTES), TokenIdRule("reject")])
@pytest.mark.parametrize(("path", "field"), [("/embedding", "input"), ("/v1/embeddings", "content")])
def test_in_llama_cpps_shape_ids_are_always_the_models_own(rule, path, field):
    given = None if field == "content" else BARE
    service, reply = ask(rule, given, path, content=BARE)
    assert reply.status == 200
    assert service.requests[0].inputs == (tuple(BARE),)


@pytest.mark.parametrize("given", [OWN, BARE, ["text", BARE], ["a", 5]])
def test_all_ids_can_be_refused(given):
    service, reply = ask(TokenIdRule("reject"), given)
    assert (reply.status, service.requests) == (400, [])
    assert "--openai-token-ids reject" in reply.json["error"]["message"]
    assert reply.json["error"]["index"] == (1 if given == ["text", BARE] else 0)


def test_openais_ids_become_text():
    service, reply = ask(TokenIdRule("cl100k_base", BYTES), [BARE, "text", ["a", 5], [240, 159, 166, 138]])
    assert reply.status == 200
    assert service.requests[0].inputs == ("hi", "text", ("a", 5), "🦊")


def test_a_large_request_of_openais_ids_becomes_text_too():
    long = [97] * 8191
    service, reply = ask(TokenIdRule("cl100k_base", BYTES), [long, long, BARE], truncate=True)
    assert 2 * len(long) > MAX_INLINE_TOKENS
    assert reply.status == 200
    assert service.requests[0].inputs == ("a" * 8191, "a" * 8191, "hi")


SPACES = OpenAIEncoding("cl100k_base", {0: b" " * 100, 97: b"a", 98: b"b"})


class Untouchable(OpenAIEncoding):
    def decode(self, tokens, index):
        raise AssertionError("nothing is decoded before all is measured")


def test_ids_that_would_be_a_huge_text_are_refused_before_they_are_one():
    encoding = Untouchable("cl100k_base", {0: b" " * 100, 97: b"a"})
    service, reply = ask(TokenIdRule("cl100k_base", encoding), [[97], [0] * 40_001])
    assert (reply.status, service.requests) == (400, [])
    assert reply.json["error"]["index"] == 1
    assert re.search(r"over 4,000,000 bytes.* 1,000,000 characters", reply.json["error"]["message"])


def test_all_ids_of_a_request_may_become_as_much_text_as_a_body_may_have():
    assert decode_all(SPACES, [(0,), (97, 98)], TextLimits(1000, 102)) == (" " * 100, "ab")
    with pytest.raises(InvalidRequest, match=r"over 101 bytes.*limit per request"):
        decode_all(Untouchable("cl100k_base", SPACES._pieces), [(0,), "text", (97, 98)], TextLimits(1000, 101))


@pytest.mark.parametrize(
    ("given", "words"), [([104, 300], "token id 300 is not in"), ([104, 128, 104], "not valid text in cl100k_base")]
)
def test_ids_that_cannot_be_openais_are_refused(given, words):
    service, reply = ask(TokenIdRule("cl100k_base", BYTES), ["text", given])
    assert (reply.status, service.requests) == (400, [])
    assert "input 1: " in reply.json["error"]["message"]
    assert words in reply.json["error"]["message"]


def test_without_the_encodings_file_ids_are_refused_and_texts_answered():
    rule = TokenIdRule("cl100k_base", problem="the file is not on this machine")
    _, reply = ask(rule, BARE)
    assert reply.status == 400
    assert "the file is not on this machine" in reply.json["error"]["message"]
    assert "check_embedding_ctx_length=False" in reply.json["error"]["message"]
    assert "tiktoken.get_encoding('cl100k_base')" in reply.json["error"]["message"]
    assert ask(rule, ["text", ["a", 5]])[1].status == 200


@pytest.mark.parametrize("meaning", ["auto", "model", "reject", "cl100k_base"])
def test_texts_are_accepted_under_every_rule(meaning):
    service, reply = ask(TokenIdRule(meaning), ["one", "two"])
    assert reply.status == 200
    assert service.requests[0].inputs == ("one", "two")
