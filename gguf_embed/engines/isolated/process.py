"""An engine's process as the server sees it: start it, open lanes to it, read its log, end it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import threading
import time
from collections import deque
from typing import Any

from gguf_embed.engines.child_process import child_command, exit_in_words, last_words
from gguf_embed.engines.isolated import frames
from gguf_embed.engines.isolated.child import LINE_BREAK, MARK
from gguf_embed.engines.isolated.messages import Failed
from gguf_embed.engines.isolated.shared_rows import RowsInMemory, SharedRows, create

KEPT_LINES = 8
REAPED_S = 0.5
"""How long a request waits for the exit code of a process that has closed a lane."""


class Lane:
    """A socket to a thread of the process, and the memory for that thread's rows. One thread at a time."""

    def __init__(self, process: EngineProcess, end: socket.socket, memory: SharedRows | None) -> None:
        self.process = process
        self._end = end
        self._memory = memory

    def call(self, request: object, limit_s: float) -> Any:
        """Send a request and return the answer. Raises the error in the answer.

        Raises `Closed` if the process has ended, `TimeoutError` if it says nothing for `limit_s`.
        """
        self.send(request, limit_s)
        return self.receive()

    def send(self, request: object, limit_s: float) -> None:
        """Only send; `limit_s` also holds for each `receive`."""
        if self._end.fileno() < 0:
            raise frames.Closed
        self._end.settimeout(limit_s)
        frames.send(self._end, request)

    def receive(self) -> Any:
        answer = frames.receive(self._end)
        if isinstance(answer, Failed):
            raise answer.error
        if isinstance(answer, RowsInMemory) and self._memory is not None:
            return self._memory.read(answer)
        return answer

    def close(self) -> None:
        """The thread in the process frees its contexts and ends. Safe to call twice."""
        self._end.close()
        if self._memory is not None:
            self._memory.close()
            self._memory = None


class EngineProcess:
    """Methods may be called from any thread, but the one that creates it must live as long as the process."""

    def __init__(self) -> None:
        """Raises `OSError`."""
        ours, theirs = socket.socketpair()
        command = child_command("gguf_embed.engines.isolated.child", str(theirs.fileno()))
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the server
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.started_s = time.monotonic()
        self.stopped = ""  # why we ended it
        self._control = ours
        self._opening = threading.Lock()
        self._ended = threading.Event()
        self._log: deque[str] = deque(maxlen=KEPT_LINES)
        self._reader = threading.Thread(target=self._read_log, name="engine-log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def open_lane(self, n_bytes: int = 0) -> Lane:
        """`n_bytes`: of memory for rows. Raises `Closed` if the process has ended, `OSError` without descriptors."""
        ours, theirs = socket.socketpair()
        memory = create(n_bytes) if n_bytes else None
        try:
            with self._opening:
                socket.send_fds(self._control, [b"l"], [theirs.fileno(), *([memory] if memory is not None else [])])
        except OSError as error:
            ours.close()
            if memory is not None:
                os.close(memory)
            raise frames.Closed from error
        finally:
            theirs.close()
        return Lane(self, ours, SharedRows(memory) if memory is not None else None)

    def stop(self, why: str) -> None:
        """End it at once. The first reason counts."""
        self.stopped = self.stopped or why
        self._process.kill()

    def close(self, patience_s: float) -> None:
        """Let it end by itself, or end it after `patience_s`."""
        with self._opening:
            self._control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        self._process.kill()

    def wait(self) -> None:
        """Block until it has ended, and free what belongs to it."""
        self._process.wait()
        self._ended.set()
        self._reader.join(1.0)
        with self._opening:
            self._control.close()

    def has_ended(self, patience_s: float) -> bool:
        """Whether `wait` has returned, or does so within `patience_s`."""
        return self._ended.wait(patience_s)

    def how_it_ended(self) -> str:
        """As the end of a sentence: "ended by SIGSEGV"."""
        code = self._process.returncode
        if self.stopped:
            return f"ended because it {self.stopped}"
        return "gone" if code is None else f"ended by {exit_in_words(code)}"

    def last_words(self) -> str:
        return last_words(self._log)

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._note(line.decode("utf-8", "replace").rstrip())
        self._process.stdout.close()

    def _note(self, line: str) -> None:
        level, name, text = logging.INFO, "gguf_embed.isolated", line
        if line.startswith(MARK):
            number, name, text = line.removeprefix(MARK).split(" ", 2)
            level = int(number)
        if text.strip():
            self._log.append(text.strip())
            logging.getLogger(name).log(level, "%s", text.replace(LINE_BREAK, "\n"))
