"""Blocks model changes requested by third-party web pages (CSRF and DNS rebinding).

Ollama refuses foreign Host headers on a loopback address (DNS rebinding) and foreign origins everywhere
(server/routes.go allowedHostsMiddleware, envconfig AllowedOrigins). Here every page may read, because CORS is open as
in llama-server, and only `/api/pull`, `/api/copy` and `/api/delete` are protected. With API keys no check is needed,
because a page has no key.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from gguf_embed.errors import PermissionDenied
from gguf_embed.server.context import ServerContext

_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_WAY_OUT = "call it from a program, or start the server with --api-key"


def check_same_site(context: ServerContext, request: web.Request) -> None:
    """Raises `PermissionDenied` for a request that a third-party web page may have sent."""
    if context.options.api_keys:
        return
    host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
    if _came_by_loopback(request) and not is_local_host(host, socket.gethostname()):
        raise PermissionDenied(
            f'the Host header "{host[:100]}" is not this machine, so the request may not change models: {_WAY_OUT}'
        )
    if origin is not None and not may_change_models(origin, host):
        raise PermissionDenied(f'pages from "{origin[:100]}" may not change models on this server: {_WAY_OUT}')


def _came_by_loopback(request: web.Request) -> bool:
    address = request.get_extra_info("sockname")
    return isinstance(address, tuple) and ip_address(address[0]).is_loopback


def is_local_host(host: str, own_name: str) -> bool:
    """Whether a Host header names this machine or its network in a way that DNS rebinding cannot produce."""
    name = _name_of(f"//{host}")
    if name is None:
        return False
    if name in ("", "localhost", own_name.lower()) or name.endswith(_LOCAL_SUFFIXES):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified


def may_change_models(origin: str, host: str) -> bool:
    """Whether a page of this Origin may change models: this server's, this machine's, an extension or a desktop app."""
    scheme, separator, _ = origin.partition("://")
    if not separator:  # "null": a sandboxed frame in any page
        return False
    if scheme.lower() not in ("http", "https"):
        return True
    name = _name_of(origin)
    if name is None:
        return False
    return name in ("localhost", "0.0.0.0") or _is_loopback(name) or name == _name_of(f"//{host}")


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _name_of(url: str) -> str | None:
    """The host in lower case, without port and brackets; None if it cannot be parsed."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return None
