"""Which addresses a request may make this server fetch: none but those that the operator named."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from gguf_embed.errors import ConfigError, InvalidRequest

_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that IANA gives out for the open internet
_TUNNELS = (ipaddress.IPv6Network("2002::/16"), ipaddress.IPv6Network("2001::/32"))  # 6to4, Teredo: IPv4 in disguise
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last four bytes are an IPv4 address
_PATH = re.compile(r"[!-~]*")  # printable ASCII: what is left must already be percent-encoded


@dataclass(frozen=True, slots=True)
class RemoteUrl:
    """An address that may be fetched, taken apart and put together again so that nothing in it is ambiguous."""

    host: str
    url: str


@dataclass(frozen=True, slots=True)
class RemoteHosts:
    """The hosts of --allow-remote-media, in small letters: "images.example.com" or "10.0.0.5:8000"."""

    names: tuple[str, ...] = ()

    def check(self, url: str, where: str) -> RemoteUrl:
        """Raises `InvalidRequest` for any other host, another port than was named, or a scheme that is not HTTP."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError as exc:
            raise InvalidRequest(f"{where} is not a URL: send the image as data:image/png;base64,…") from exc
        shown = f"[{host}]" if ":" in host else host
        is_named = (shown in self.names and port == _PORTS.get(parts.scheme)) or f"{shown}:{port}" in self.names
        if parts.scheme not in _PORTS or not is_named:
            raise InvalidRequest(
                f"{where} is a URL of {shown or 'no host'}:{port}, and this server fetches nothing from there: send "
                "the image as data:image/png;base64,…, or name the host with --allow-remote-media"
            )
        rest = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if parts.username is not None or parts.password is not None or not _PATH.fullmatch(rest):
            raise InvalidRequest(f"{where} has a name, a password or unencoded characters in its URL: take them out")
        return RemoteUrl(host, f"{parts.scheme}://{shown}:{port}{rest}")


def parse_hosts(value: str | None) -> RemoteHosts:
    """--allow-remote-media HOST[:PORT][,…]. Without a port, 80 for http and 443 for https. Raises `ConfigError`."""
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
    """Whether an IP address is of the open internet. An IPv4 address written inside another is what counts."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is None:
            return found in _UNICAST and not any(found in tunnel for tunnel in _TUNNELS) and found.is_global
        found = inner
    return found.is_global and not found.is_multicast
