"""What Ctrl-C does: quit at once while modules are imported, while `serve` starts and at the end; raise
`KeyboardInterrupt` in a command."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from gguf_embed.gguf_file.unfinished import remove_unfinished

EXIT_CODE = 130  # as a shell reports SIGINT


def quit_on_interrupt() -> None:
    """Ctrl-C ends the process with one word, and removes what is half written.

    An exception would be a traceback in C code that imports or ends, and would wait for the threads that load a model.
    """
    _handle(_quit)


def raise_on_interrupt() -> None:
    """Ctrl-C raises `KeyboardInterrupt`, so that a command can clean up."""
    _handle(signal.default_int_handler)


@contextmanager
def quitting() -> Iterator[None]:
    """Ctrl-C ends the process at once in this block, for the imports of a command: orjson's crash from an exception."""
    quit_on_interrupt()
    yield
    raise_on_interrupt()


def quit_now(line: str) -> NoReturn:
    """End the process with this line, and remove what is half written. Waits for no thread."""
    remove_unfinished()
    os.write(2, f"{line}\n".encode())
    os._exit(EXIT_CODE)


def _quit(number: int, frame: FrameType | None) -> None:
    quit_now("stopped")


def _handle(handler: signal._HANDLER) -> None:
    """Set it, unless SIGINT is ignored, as under nohup, or belongs to someone else."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) in (_quit, signal.default_int_handler):
        signal.signal(signal.SIGINT, handler)
