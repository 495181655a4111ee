"""Messages over a socket: the length in 8 bytes, then the pickled object. Both ends are our own processes."""

from __future__ import annotations

import pickle
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("<Q")
MAX_BYTES = 2**32
"""Limit on one message, far above the largest one, a text's token rows: a broken length must not take all memory."""


class Closed(Exception):
    """The other end of the socket is closed, or sent what is no message."""


def send(end: socket.socket, message: object) -> None:
    """Raises `Closed`, or `TimeoutError` if the other end takes nothing for the socket's timeout."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    try:
        end.sendall(_LENGTH.pack(len(data)) + data)
    except TimeoutError:
        raise
    except OSError as error:
        raise Closed from error


def receive(end: socket.socket) -> Any:
    """The next message. Raises `Closed`, or `TimeoutError` if nothing comes for the socket's timeout."""
    (n_bytes,) = _LENGTH.unpack(_read(end, _LENGTH.size))
    if n_bytes > MAX_BYTES:
        raise Closed(f"a message of {n_bytes} bytes, the limit is {MAX_BYTES}")
    return pickle.loads(_read(end, n_bytes))


def _read(end: socket.socket, n_bytes: int) -> bytearray:
    data = bytearray(n_bytes)
    view = memoryview(data)
    while view:
        try:
            n_read = end.recv_into(view)
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed from error
        if not n_read:
            raise Closed
        view = view[n_read:]
    return data
