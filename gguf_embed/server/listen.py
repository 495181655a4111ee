"""Where the server listens: TCP addresses and Unix sockets, from the words of a user to sockets that are bound."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gguf_embed.errors import ConfigError

SOCKET_MODE = 0o660
"""Who may use a Unix socket: its owner and group."""

_EVERY_IPV4, _EVERY_IPV6 = "0.0.0.0", "::"
_NO_SUCH_ADDRESS = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen: an address or a name with a port, or the path of a Unix socket. Port 0 means any free port."""

    host: str = "127.0.0.1"
    port: int = 8080
    flag: str = "--port"  # the flag that sets the port, for errors
    is_dual: bool = True  # "::" takes IPv4 as well

    @property
    def socket_path(self) -> Path | None:
        """The Unix socket; None for TCP."""
        if self.host.startswith("unix:"):
            return Path(self.host.removeprefix("unix:").removeprefix("//"))
        return Path(self.host) if self.host.endswith(".sock") or "/" in self.host else None


@dataclass(frozen=True, slots=True)
class BoundAddress:
    """An address that is taken, by one socket for each address that its name stands for. None listens yet."""

    address: ListenAddress
    sockets: tuple[socket.socket, ...]
    inode: int = 0  # of a Unix socket's file

    @property
    def port(self) -> int:
        """The actual one; 0 for a Unix socket."""
        return 0 if self.address.socket_path else int(self.sockets[0].getsockname()[1])

    def url(self, scheme: str = "http", prefix: str = "") -> str:
        """ "https://[::1]:8080/prefix", or "unix:/run/x.sock"."""
        if path := self.address.socket_path:
            return f"unix:{path}"
        host = self.address.host
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}{prefix}"

    def close(self) -> None:
        """Free the address. A Unix socket is removed, unless another server has replaced it."""
        path = self.address.socket_path
        with suppress(OSError):
            if path is not None and path.lstat().st_ino == self.inode:
                path.unlink()
        for one in self.sockets:
            one.close()


def parse_hosts(
    values: Sequence[str], port: int, ollama_port: int | None = None, flag: str = "--host"
) -> tuple[ListenAddress, ...]:
    """The addresses of `--host a,b`, which can be repeated, all on `port`, then those on Ollama's port.

    As in llama-server, "::" takes IPv4 as well unless it is one of several TCP addresses. Raises `ConfigError` for an
    empty entry, and for an Ollama port without a TCP address.
    """
    hosts = list(dict.fromkeys(part.strip() for value in values for part in value.split(",")))
    if not all(hosts):
        raise ConfigError(f"{flag} {','.join(values)!r} has an empty entry: give addresses with commas between them")
    if urls := [host for host in hosts if "://" in host and not host.startswith("unix:")]:
        raise ConfigError(f"{flag} {urls[0]} is a URL: give only its host there, and its port with --port")
    found = [ListenAddress(_without_brackets(host), port) for host in hosts]
    tcp = [address for address in found if address.socket_path is None]
    if ollama_port is not None and ollama_port != port:
        if not tcp:
            raise ConfigError(f"--ollama-port {ollama_port} needs an address, and {flag} names Unix sockets only")
        found += [ListenAddress(address.host, ollama_port, "--ollama-port") for address in tcp]
    if len(tcp) < 2:
        return tuple(found)
    return tuple(ListenAddress(one.host, one.port, one.flag, is_dual=False) for one in found)


def _without_brackets(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def check_addresses(addresses: Sequence[ListenAddress]) -> None:
    """Check that the addresses are free before a model is loaded. Raises `ConfigError` if one is not."""
    for bound in bind_all(addresses):
        bound.close()


def bind_all(addresses: Sequence[ListenAddress]) -> list[BoundAddress]:
    """Take all addresses or none. With port 0, those after the first get the same free port.

    Raises `ConfigError` for the first that is not available.
    """
    taken: list[BoundAddress] = []
    free_ports: dict[str, int] = {}  # by flag
    try:
        for address in addresses:
            bound = bind(address, free_ports.get(address.flag) if address.port == 0 else None)
            taken.append(bound)
            if bound.port:
                free_ports.setdefault(address.flag, bound.port)
    except BaseException:
        for bound in taken:
            bound.close()
        raise
    return taken


def bind(address: ListenAddress, port: int | None = None) -> BoundAddress:
    """Take one address; `port`: instead of its own. Raises `ConfigError` if it is not available."""
    path = address.socket_path
    if path is not None:
        return BoundAddress(address, (_bind_path(path),), path.lstat().st_ino)
    if not 0 <= address.port <= 65535:
        raise ConfigError(f"port {address.port} does not exist: choose one from 0 to 65535 with {address.flag}")
    try:
        return BoundAddress(address, tuple(_bind_name(address, address.port if port is None else port)))
    except OSError as exc:
        raise ConfigError(_bind_error(exc, address)) from exc


def _bind_name(address: ListenAddress, port: int) -> list[socket.socket]:
    """All addresses of a name, on one port; without those of a family that this machine does not have."""
    found = socket.getaddrinfo(address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, where in dict.fromkeys((family, where) for family, _, _, _, where in found):
            chosen = sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(_bind_tcp(family, (where[0], chosen, *where[2:]), is_dual=address.is_dual))
            except OSError as exc:
                if not sockets or exc.errno not in _NO_SUCH_ADDRESS:
                    raise
    except BaseException:
        for one in sockets:
            one.close()
        raise
    return sockets


def _bind_tcp(family: int, where: tuple[str | int, ...], *, is_dual: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not is_dual or where[0] != _EVERY_IPV6))
        made.bind(where)
    except BaseException:
        made.close()
        raise
    return made


def _bind_path(path: Path) -> socket.socket:
    """A Unix socket. What a server that was killed has left behind is removed; nothing else is."""
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError(f"{path}: this system has no Unix sockets: give an address with --host")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        made.bind(str(path))
        path.chmod(SOCKET_MODE)  # before it listens
    except OSError as exc:
        made.close()
        raise ConfigError(_path_error(exc, path)) from exc
    except BaseException:
        made.close()
        raise
    return made


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} exists and is not a socket: choose another path with --host")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ConfigError(f"{path} is in use: stop the program that uses it, or choose another path with --host")


def _path_error(error: OSError, path: Path) -> str:
    if error.errno == errno.ENOENT:
        return f"{path}: there is no folder {path.parent}: make it, or choose another path with --host"
    if "too long" in str(error):
        return f"{path}: the path of a Unix socket has at most 107 bytes: choose a shorter one with --host"
    return f"{path}: cannot be made ({error.strerror or error}): choose another path with --host"


def _bind_error(error: OSError, address: ListenAddress) -> str:
    host, port, flag = address.host, address.port, address.flag
    if isinstance(error, socket.gaierror):
        return f"cannot listen on {host} port {port}: {error.strerror}: give an address of this machine with --host"
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} on {host} is in use: stop the program that uses it, or choose another with {flag}"
        case errno.EACCES:
            return f"port {port} on {host} needs privileges: choose one above 1023 with {flag}"
        case number if number in _NO_SUCH_ADDRESS and host == _EVERY_IPV6:
            return f"cannot listen on ::, because this machine has no IPv6: use --host {_EVERY_IPV4}"
        case _:
            return f"cannot listen on {host} port {port}: {error.strerror or error}: check --host and {flag}"


def is_local(address: ListenAddress) -> bool:
    """Whether only this machine reaches it."""
    if address.socket_path is not None or address.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return False


def url_to_try(url: str, prefix: str = "") -> str:
    """What follows "curl " to reach a URL from this machine. A certificate names another one, so it is not checked."""
    if url.startswith("unix:"):
        return f"--unix-socket {url.removeprefix('unix:')} http://localhost{prefix}"
    reachable = url.replace(f"//{_EVERY_IPV4}:", "//127.0.0.1:").replace(f"//[{_EVERY_IPV6}]:", "//[::1]:")
    return f"-k {reachable}" if reachable.startswith("https:") else reachable
