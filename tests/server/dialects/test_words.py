"""Each dialect words the ways out of errors for its own clients."""

import re

import pytest

from gguf_embed.errors import WayOut
from gguf_embed.server.app import DIALECTS

OPENAI_ROUTES = (WayOut.OWN_IDS, WayOut.RERANK, WayOut.TOKEN_VECTORS)
ELSEWHERE = {
    ("OpenAI", WayOut.EMBED_OPTIONS): "the fields are those of both embedding routes",
    ("llama.cpp", WayOut.EMBED_OPTIONS): "the same",
    **{
        (name, WayOut.HEAD_VECTORS): "only OpenAI's shape is an object per input, which has room for them"
        for name in ("llama.cpp", "Ollama", "Cohere", "TEI")
    },
    **{
        (name, WayOut.SPARSE_VECTORS): "OpenAI's and TEI's routes are those that can return them"
        for name in ("OpenAI", "llama.cpp", "Ollama", "Cohere", "TEI", "vLLM")
    },
    **{("vLLM", way): "its errors are OpenAI's" for way in (*OPENAI_ROUTES, WayOut.HEAD_VECTORS, WayOut.EMBED_OPTIONS)},
    ("TEI", WayOut.EMBED_OPTIONS): "TEI's replies have no place for what the fields ask for",
    ("TEI", WayOut.RERANK): "its own /rerank, which is the same route as Jina's",
    ("OpenAI", WayOut.OWN_IDS): "OpenAI's clients send OpenAI's ids",
    ("OpenAI", WayOut.TOKEN_VECTORS): "OpenAI's reply has no place for them",
    ("OpenAI", WayOut.RERANK): "OpenAI has no rerank route",
}
"""Where a dialect names a route of another one, and why."""


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_ways_out_name_the_dialect_s_own_routes(dialect):
    routes = {f"{route.method} {route.path}" for route in dialect.routes}
    foreign = {
        way: named
        for way, phrase in dialect.errors.words.items()
        if (named := set(re.findall(r"(?:POST|GET) /[\w/]+", phrase)) - routes)
    }
    assert {(dialect.name, way) for way in foreign} == {key for key in ELSEWHERE if key[0] == dialect.name}


def test_every_way_out_that_a_request_can_meet_has_words_everywhere():
    in_all = set.intersection(*(set(dialect.errors.words) for dialect in DIALECTS))
    only_where_it_exists = {
        WayOut.AVERAGE,
        WayOut.NO_AVERAGE,
        WayOut.EMBED_OPTIONS,
        WayOut.RERANK,
        WayOut.TOKEN_VECTORS,
        WayOut.OWN_IDS,
        WayOut.OTHER_FOLDER,  # the command line's, and the next
        WayOut.OTHER_OUTPUT,
        WayOut.REDIRECT,
        WayOut.OTHER_TEMPORARY,
    }
    assert set(WayOut) - in_all == only_where_it_exists
