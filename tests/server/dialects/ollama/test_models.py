"""Ollama's lists of models, over a real connection: nothing here wakes one."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from datetime import datetime

import aiohttp
import pytest

from gguf_embed.cli.options import OLLAMA_VERSION
from gguf_embed.errors import ConfigError
from gguf_embed.metrics import Metrics
from gguf_embed.server.app import build_app
from gguf_embed.server.context import ServerOptions
from gguf_embed.server.dialects.ollama.models import NEVER, format_ps, format_show, format_tags
from gguf_embed.server.listen import ListenAddress
from gguf_embed.server.run import ShutdownOutcome, serve_all
from gguf_embed.types import Pooling
from tests.server.fake_service import MODEL, FakeService, serving, status_of

OTHER = replace(MODEL, name="hf.co/org/repo:Q8_0", aliases=("Second", "TINY"), n_params=7_600_000_000, file_type="Q8_0")


def get(path, service=None, **options):
    """The reply to one GET."""

    async def scenario():
        async with serving(service, **options) as running:
            return await running.request("GET", path)

    return asyncio.run(scenario())


def test_tags_tell_what_ollama_tells():
    (first, alias) = get("/api/tags").json["models"]
    assert first == {
        "name": "tiny:latest",
        "model": "tiny:latest",
        "modified_at": "2023-11-14T22:13:20.500000Z",
        "size": 45_000_000,
        "digest": "74696e79".ljust(64, "0"),
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "bert",
            "families": ["bert"],
            "parameter_size": "22M",
            "quantization_level": "F16",
            "context_length": 16,
            "embedding_length": 8,
        },
        "capabilities": ["embedding"],
    }
    assert alias == {**first, "name": "tiny-alias:latest", "model": "tiny-alias:latest"}


def test_tags_list_the_newest_first_and_no_name_twice():
    statuses = [status_of(MODEL), status_of(OTHER, modified_unix_s=1_800_000_000.0)]
    names = [entry["name"] for entry in format_tags(statuses)]
    assert names == ["hf.co/org/repo:Q8_0", "Second:latest", "tiny:latest", "tiny-alias:latest"]


def test_ps_lists_the_loaded_ones_the_longest_staying_first():
    statuses = [
        status_of(MODEL, state="loaded", memory_bytes=200, expires_unix_s=1_700_000_000.0),
        status_of(replace(MODEL, name="never"), state="loaded", memory_bytes=300, gpu_bytes=100),
        status_of(replace(MODEL, name="later"), state="loaded", expires_unix_s=1_700_000_060.0),
        status_of(replace(MODEL, name="loading"), state="loading"),
        status_of(replace(MODEL, name="unloaded")),
    ]
    entries = format_ps(statuses)
    assert [entry["name"] for entry in entries] == ["never:latest", "later:latest", "tiny:latest"]
    assert [entry["expires_at"] for entry in entries] == [NEVER, "2023-11-14T22:14:20Z", "2023-11-14T22:13:20Z"]
    assert (entries[0]["size"], entries[0]["size_vram"], entries[0]["context_length"]) == (300, 100, 16)
    assert entries[0]["details"]["parameter_size"] == "22M"


def test_forever_is_a_time_that_every_time_zone_can_show():
    assert datetime.fromisoformat(NEVER).astimezone().year >= 2317


def test_show_has_what_clients_read_and_what_ollama_hides():
    info = replace(OTHER, prompts={"query": "q: "}, matryoshka=(4, 8), license="mit", pooling=Pooling.CLS)
    shown = format_show(status_of(info))
    assert shown["details"]["parameter_size"] == "7.6B"
    assert shown["model_info"] == {
        "general.architecture": "bert",
        "general.parameter_count": 7_600_000_000,
        "bert.attention.causal": False,
        "bert.context_length": 16,
        "bert.embedding_length": 8,
        "bert.pooling_type": 2,
        "bert.vocab_size": 1000,
        "tokenizer.ggml.model": "bert",
    }
    assert shown["capabilities"] == ["embedding"]
    assert (shown["license"], shown["template"]) == ("mit", "")
    assert shown["parameters"].split() == ["num_ctx", "16"]
    assert "FROM hf.co/org/repo:Q8_0" in shown["modelfile"]
    assert (shown["pooling"], shown["max_input_tokens"]) == ("cls", 16)
    assert (shown["prompts"], shown["matryoshka"]) == ({"query": "q: "}, [4, 8])
    assert "/secret" not in str(shown)


@pytest.mark.parametrize("body", [{"model": "SECOND"}, {"name": "second:latest"}, {"model": "", "name": "Second"}])
def test_show_wakes_no_model(body):
    async def scenario():
        async with serving(FakeService(others=(OTHER,))) as running:
            reply = await running.post("/api/show", {**body, "verbose": True})
            assert (reply.status, reply.json["name"]) == (200, "hf.co/org/repo:Q8_0")
            for path in ("/api/tags", "/api/ps", "/api/version"):
                assert (await running.request("GET", path)).status == 200
            assert [status.state for status in running.service.models()] == ["loaded", "unloaded"]

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags", "/api/ps"])
def test_head_has_the_status_and_no_body(path):
    async def scenario():
        async with serving() as running:
            reply = await running.request("HEAD", path)
            assert (reply.status, reply.raw) == (200, b"")

    asyncio.run(scenario())


def test_the_version_is_one_that_clients_accept_and_ours_is_beside_it():
    assert get("/api/version").json == {"version": OLLAMA_VERSION, "gguf_embed_version": "1.2.3"}
    assert tuple(map(int, OLLAMA_VERSION.split("."))) >= (0, 10, 0)


def test_the_index_has_ollamas_sentence_for_clients_that_search_for_it():
    text = get("/").raw.decode()
    assert text.startswith("gguf-embed 1.2.3")
    assert "Ollama is running" in text.splitlines()[-1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def test_ollamas_port_serves_the_same_and_greets_as_ollama():
    async def scenario():
        port = free_port()
        app = build_app(FakeService(), ServerOptions("1.2.3", ollama_port=port), Metrics())
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        addresses = [ListenAddress(port=0), ListenAddress(port=port, flag="--ollama-port")]
        done = asyncio.create_task(serve_all(app, addresses, stop, ready.set_result))
        main, ollama = await ready
        assert ollama == f"http://127.0.0.1:{port}" != main
        try:
            async with aiohttp.ClientSession() as http:
                assert await (await http.get(ollama)).text() == "Ollama is running"
                assert (await http.head(ollama)).status == 200
                assert (await (await http.get(main)).text()).startswith("gguf-embed 1.2.3")
                for url in (main, ollama):
                    page = await http.get(url, headers={"Accept": "text/html,*/*"})
                    assert page.content_type == "text/html"
                    reply = await http.post(f"{url}/api/embed", json={"model": "tiny", "input": "a"})
                    assert reply.status == 200
        finally:
            stop.set()
            assert await done == ShutdownOutcome()

    asyncio.run(scenario())


def test_ollamas_port_in_use_is_one_clear_line():
    async def scenario(port: int) -> None:
        app = build_app(FakeService(), ServerOptions("1"), Metrics())
        addresses = [ListenAddress(port=0), ListenAddress(port=port, flag="--ollama-port")]
        await serve_all(app, addresses, asyncio.Event())

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^port {port} on 127.0.0.1 is in use: .*--ollama-port$"):
            asyncio.run(scenario(port))
