"""Refuses requests of third-party web pages if there are no API keys (CSRF and DNS rebinding).

As Ollama does it: a foreign Host header on a loopback address is DNS rebinding, and a foreign Origin is a page of
another site (server/routes.go allowedHostsMiddleware, envconfig AllowedOrigins). With API keys no check is needed,
because a page has no key.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from fnmatch import fnmatchcase
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from aiohttp import web

from gguf_embed.errors import PermissionDenied

_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_WAY_OUT = "call it from a program, or start it with --api-key, or with --allow-origins"
_MAX_KNOWN_HOSTS = 64


class SameSite:
    """The check of one server. `known_hosts` are Host headers that were found to be this machine's."""

    def __init__(self, allowed_origins: Sequence[str]) -> None:
        """`allowed_origins`: "https://chat.example.com", with * for any characters; "*" alone: no check."""
        self._allowed = tuple(origin.lower().rstrip("/") for origin in allowed_origins)
        self.known_hosts: set[str] = set()

    def check(self, request: web.Request) -> None:
        """Raises `PermissionDenied` for a request that a third-party web page may have sent."""
        if "*" in self._allowed:
            return
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        if is_local_host(host, socket.gethostname()):
            if len(self.known_hosts) < _MAX_KNOWN_HOSTS:
                self.known_hosts.add(host)
        elif _came_by_loopback(request) and not self._allows_host(host):
            raise PermissionDenied(f'the Host header "{_shown(host)}" is not this machine: {_WAY_OUT} {_shown(host)}')
        if origin is not None and not self._allows(origin) and not is_own_page(origin, host):
            raise PermissionDenied(
                f'pages from "{_shown(origin)}" may not use this server: {_WAY_OUT} {_shown(origin)}'
            )

    def _allows(self, origin: str) -> bool:
        return any(fnmatchcase(origin.lower(), pattern) for pattern in self._allowed)

    def _allows_host(self, host: str) -> bool:
        """Whether it is the host of an allowed origin: a proxy on this machine passes on the name that it has."""
        return any(self._allows(f"{scheme}://{host}") for scheme in ("http", "https")) or host.lower() in self._allowed


def _shown(header: str) -> str:
    # a header that is not UTF-8 contains surrogates, which JSON cannot represent
    return header[:100].encode("utf-8", "replace").decode()


def _came_by_loopback(request: web.Request) -> bool:
    """No page reaches a Unix socket, so that its clients may send any Host."""
    address = request.get_extra_info("sockname")
    if not isinstance(address, tuple):
        return False
    own = ip_address(address[0].partition("%")[0])
    mapped = own.ipv4_mapped if isinstance(own, IPv6Address) else None  # IPv4 on a socket for both
    return (mapped or own).is_loopback


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


def is_own_page(origin: str, host: str) -> bool:
    """Whether a page of this Origin may use the server: its own, this machine's, an extension or a desktop app."""
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
