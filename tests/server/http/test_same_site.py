"""Without keys, pages of other sites may not use the server; with keys they may if they have one."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.fake_service import serving
from tests.server.routes import ROUTES, with_model

FOREIGN = (
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Host": "evil.example"},
    {"Host": "evil.example", "Origin": "http://evil.example"},  # DNS rebinding
    {"Host": "evil.example:8080", "Origin": "http://localhost:3000"},
)
OWN = (
    {},
    {"Origin": "http://localhost:3000"},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "chrome-extension://abc"},
    {"Origin": "vscode-webview://abc"},
    {"Host": "nas.local:11434", "Origin": "http://nas.local"},
    {"Host": "192.168.1.5:8080", "Origin": "http://192.168.1.5:3000"},
    {"Host": "[::1]:8080"},
)


def path_of(route) -> str:
    return with_model(route.path).replace("{digest}", "sha256:0")


def statuses(headers, requests, **options):
    async def scenario():
        async with serving(**options) as running:
            return [
                (await running.request(method, path, json=body, headers=headers)).status
                for method, path, body in requests
            ]

    return asyncio.run(scenario())


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_foreign_page_reaches_no_route_that_a_key_would_protect(headers):
    async def scenario():
        async with serving() as running:
            for route in ROUTES:
                body = {"model": "tiny", "input": "a"} if route.method == "POST" else None
                reply = await running.request(route.method, path_of(route), json=body, headers=headers)
                assert (reply.status == 403) == route.auth_required, route
                if route.auth_required:
                    assert "--api-key" in reply.raw.decode()
                    assert "--allow-origins" in reply.raw.decode()
            assert running.service.requests == []
            assert (await running.request("GET", "/nothing", headers=headers)).status == 403

    asyncio.run(scenario())


USED = (
    ("POST", "/v1/embeddings", {"input": "a"}),
    ("POST", "/api/embed", {"model": "tiny", "input": "a"}),
    ("GET", "/metrics", None),
    ("GET", "/v1/models", None),
)


@pytest.mark.parametrize("headers", OWN)
def test_pages_of_this_machine_extensions_and_desktop_apps_may(headers):
    assert statuses(headers, USED) == [200] * len(USED)


def test_a_page_that_has_a_key_may():
    headers = {"Origin": "https://ui.example", "Host": "ui.example", "Authorization": "Bearer one"}
    assert statuses(headers, USED, api_keys=("one",)) == [200] * len(USED)


@pytest.mark.parametrize(
    ("origins", "headers", "status"),
    [
        (("*",), {"Origin": "https://ui.example", "Host": "ui.example"}, 200),
        (("https://ui.example",), {"Origin": "https://ui.example"}, 200),
        (("https://UI.example/",), {"Origin": "https://ui.EXAMPLE"}, 200),
        (("https://*.example",), {"Origin": "https://ui.example"}, 200),
        (("https://ui.example",), {"Host": "ui.example"}, 200),  # a proxy on this machine that passes on the name
        (("ui.example",), {"Host": "ui.example"}, 200),
        (("https://ui.example",), {"Origin": "https://evil.example"}, 403),
        (("https://ui.example",), {"Origin": "https://ui.example.evil"}, 403),
        (("https://ui.example",), {"Origin": "null"}, 403),
        (("https://ui.example",), {"Host": "evil.example"}, 403),
        (("https://*.example",), {"Origin": "https://example"}, 403),
    ],
)
def test_the_operator_may_allow_pages(origins, headers, status):
    assert statuses(headers, USED, allowed_origins=origins) == [status] * len(USED)


def test_a_known_host_stays_known_and_a_foreign_one_unknown():
    async def scenario():
        async with serving() as running:
            for _ in range(3):
                assert (await running.request("GET", "/props")).status == 200
                assert (await running.request("GET", "/props", headers={"Host": "evil.example"})).status == 403
            for n in range(100):
                host = {"Host": f"h{n}.localhost"}
                assert (await running.request("GET", "/props", headers=host)).status == 200

    asyncio.run(scenario())
