"""Which URLs a request may make this server fetch: only those on hosts that the operator has allowed."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from gguf_embed.errors import ConfigError, InvalidRequest, WayOut

_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_UNICAST = ipaddress.IPv6Network("2000::/3")  # everything that IANA assigns on the public internet
_TUNNELS = (ipaddress.IPv6Network("2002::/16"), ipaddress.IPv6Network("2001::/32"))  # 6to4, Teredo: IPv4 inside IPv6
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last four bytes are an IPv4 address
_PATH = re.compile(r"[!-~]*")  # printable ASCII: everything else must be percent-encoded


@dataclass(frozen=True, slots=True)
class RemoteUrl:
    """A URL that may be fetched, rebuilt from its parsed parts so that nothing in it is ambiguous."""

    host: str
    url: str


@dataclass(frozen=True, slots=True)
class RemoteHosts:
    """The hosts of --allow-remote-media, in lower case: "images.example.com" or "10.0.0.5:8000"."""

    names: tuple[str, ...] = ()

    def check(self, url: str, where: str) -> RemoteUrl:
        """The URL in its unambiguous form. `where` names it in errors.

        Raises `InvalidRequest` for a host that is not allowed, a port other than the allowed one, or a scheme other
        than HTTP and HTTPS.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError as exc:
            raise InvalidRequest(f"{where} is not a URL", ways_out=[WayOut.SEND_INLINE]) from exc
        shown = f"[{host}]" if ":" in host else host
        if parts.scheme not in _PORTS or not self._allows(shown, port, parts.scheme):
            raise InvalidRequest(
                f"{where} is a URL of {shown or 'no host'}:{port}, from which this server does not fetch",
                ways_out=[WayOut.SEND_INLINE, WayOut.ALLOW_HOST],
            )
        rest = _path_and_query(parts)
        if parts.username is not None or parts.password is not None or not _PATH.fullmatch(rest):
            raise InvalidRequest(f"{where} has a user name, a password or unencoded characters in its URL: remove them")
        return RemoteUrl(host, f"{parts.scheme}://{shown}:{port}{rest}")

    def _allows(self, host: str, port: int, scheme: str) -> bool:
        """Whether the host (an IPv6 address in brackets) is allowed on this port."""
        if f"{host}:{port}" in self.names:
            return True
        return host in self.names and port == _PORTS.get(scheme)


def _path_and_query(parts: SplitResult) -> str:
    query = f"?{parts.query}" if parts.query else ""
    return (parts.path or "/") + query


def parse_hosts(value: str | None) -> RemoteHosts:
    """Parse --allow-remote-media HOST[:PORT][,…]; the default port is 80 for http, 443 for https.

    Raises `ConfigError`.
    """
    if value is None:
        return RemoteHosts()
    names = tuple(name.strip().lower() for name in value.split(","))
    for name in names:
        if not _is_host(name):
            raise ConfigError(f"--allow-remote-media {name!r}: give HOST or HOST:PORT, such as images.example.com")
    return RemoteHosts(names)


def _is_host(name: str) -> bool:
    host, colon, port = name.rpartition(":") if not name.endswith("]") else (name, "", "")
    if not colon:
        host = name
    elif not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        return False
    if host.startswith("[") and host.endswith("]"):
        return _is_address(host[1:-1])
    return bool(_NAME.fullmatch(host))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet. If an IPv6 address embeds an IPv4 one, the latter counts."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is None:
            return found in _UNICAST and not any(found in tunnel for tunnel in _TUNNELS) and found.is_global
        found = inner
    return found.is_global and not found.is_multicast
