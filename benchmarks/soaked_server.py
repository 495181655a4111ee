"""The server process of a soak, restarted on the same port, and what is read of it from /proc."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path

HOST = "127.0.0.1"
KEEP_ALIVE_S = 5  # of a model that nobody asks for
TIMEOUT_S = 120


@dataclass(slots=True)
class Life:
    """One server process: what was read of it from /proc, at equal intervals."""

    samples: list[dict[str, float]] = field(default_factory=list)
    exit_code: int | None = None
    last_line: str = ""


class SoakedServer:
    """The server under test. It is restarted on the same port."""

    def __init__(self, models: Path, log: Path) -> None:
        with socket.create_server((HOST, 0)) as free:
            self.port = free.getsockname()[1]
        self._models, self._log = models, log
        self.stopping_s = float("inf")  # when it was told to stop, until it is there again
        self.life = Life()
        self.lives: list[Life] = []

    def start(self) -> None:
        flags = ["--port", str(self.port), "--models-dir", str(self._models), "--keep-alive", f"{KEEP_ALIVE_S}s"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gguf_embed", "serve", *flags], stdout=log, stderr=log
            )
        while not self._is_ready():
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended with {self._process.returncode}, see {self._log}")
            time.sleep(0.05)
        self.life = Life()
        self.lives.append(self.life)
        self.stopping_s = float("inf")

    def _is_ready(self) -> bool:
        try:
            return ask(self.port, "GET", "/health", None)[0] == 200
        except (OSError, HTTPException):
            return False

    def stop(self) -> None:
        self.stopping_s = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        self.life.exit_code = self._process.wait(TIMEOUT_S)
        self.life.last_line = self._log.read_text(errors="replace").splitlines()[-1]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def sample(self) -> None:
        """Not while it stops: then everything shrinks, and the least of the last third would hide any growth."""
        if time.monotonic() >= self.stopping_s:
            return
        proc = Path(f"/proc/{self._process.pid}")
        try:
            status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
            self.life.samples.append(
                {
                    "resident_mib": int(status["VmRSS"].split()[0]) / 1024,
                    "threads": float(status["Threads"]),
                    "descriptors": float(len(os.listdir(proc / "fd"))),
                }
            )
        except (OSError, KeyError):
            return  # it is being restarted


def ask(port: int, method: str, path: str, body: object) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    connection = HTTPConnection(HOST, port, timeout=TIMEOUT_S)
    try:
        raw = None if body is None else json.dumps(body).encode()
        connection.request(method, path, raw, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()
