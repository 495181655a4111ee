"""The real server as a process of its own, and plain HTTP to it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from gguf_embed.types import FloatMatrix

READY = "serving  "
OWN_VARIABLES = ("LLAMA_", "GGUF_EMBED_", "HF_")
TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def vectors(self) -> FloatMatrix:
        """All rows of a reply in OpenAI's or llama.cpp's shape, in any encoding: float32[n_rows, n_dims]."""
        assert self.status == 200, self.body
        reply = self.json()
        if isinstance(reply, list):
            return np.array([row for item in reply for row in item["embedding"]], np.float32)
        return np.stack([decode(item["embedding"]) for item in reply["data"]])


def decode(embedding: str | list[float]) -> FloatMatrix:
    """float32[n_dims] from base64 of little-endian float32, or from numbers."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), "<f4")
    return np.array(embedding, np.float32)


class OutputReader(threading.Thread):
    """Reads what a process prints for as long as it runs: one whose pipe is full would wait."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(daemon=True)
        assert process.stdout is not None
        self._stream = process.stdout
        self._lines: list[str] = []
        self.start()

    def run(self) -> None:
        with self._stream:
            self._lines.extend(self._stream)

    def text(self) -> str:
        """All of it, when the process has ended."""
        self.join(TIMEOUT_S)
        assert not self.is_alive(), "somebody still holds the pipe"
        return "".join(self._lines)


@dataclass(frozen=True, slots=True)
class Server:
    """A started process that answers. `banner` is what it printed until it was ready, `output` what comes after it."""

    process: subprocess.Popen[str]
    host: str
    port: int
    banner: tuple[str, ...]
    output: OutputReader

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def request(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> Reply:
        connection = HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, body: object, **headers: str) -> Reply:
        """`headers`: with underscores for hyphens, as in `X_Api_Key="k"`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json", **named})

    def embed(self, texts: str | Sequence[object], **fields: object) -> FloatMatrix:
        """float32[n_texts, n_dims] from /v1/embeddings."""
        return self.post("/v1/embeddings", {"input": texts, **fields}).vectors()

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal, wait: exit code and what was printed after the banner."""
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S), self.output.text()


def clean_environment(cache_dir: Path, changes: Mapping[str, str] = {}) -> dict[str, str]:
    """This process's environment without the variables the server reads, and with a cache of its own; no network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OWN_VARIABLES)}
    own = {"GGUF_EMBED_CACHE": str(cache_dir), "HF_HUB_OFFLINE": "1", "TIKTOKEN_CACHE_DIR": ""}
    return {**kept, **own, **changes}


def command(*flags: str | Path) -> list[str]:
    """SERVER_PYTHON: the Python that has the server, for tests that run in an environment of their clients' own."""
    return [os.environ.get("SERVER_PYTHON", sys.executable), "-m", "gguf_embed", *map(str, flags)]


def run_to_end(cache_dir: Path, *flags: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """For starts that fail, and for --help."""
    return subprocess.run(
        command(*flags),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=clean_environment(cache_dir, environment),
    )


def start_server(cache_dir: Path, *flags: str | Path, **environment: str) -> Server:
    """`serve` with these flags on a free port of 127.0.0.1; returns when it listens. The caller ends the process.

    What it says on stderr goes into its own output, so that a failure shows it.
    """
    address = [] if "LLAMA_ARG_PORT" in environment else ["--port", "0"]
    return started(command("serve", *address, *flags), clean_environment(cache_dir, environment))


def started(words: Sequence[str], environment: Mapping[str, str]) -> Server:
    """The server that this command starts, when it listens. The caller ends the process."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout is not None
    banner: list[str] = []
    for line in process.stdout:
        banner.append(line.rstrip("\n"))
        if line.startswith(("curl ", "ready ")):  # the last line
            break
    else:
        process.wait()
        raise AssertionError(f"the server ended with {process.returncode}: {banner}")
    url = next(line for line in banner if line.startswith(READY)).removeprefix(READY)
    parts = urlsplit(url)  # of a Unix socket it has neither
    return Server(process, parts.hostname or "", parts.port or 0, tuple(banner), OutputReader(process))


def wait_until(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Poll for something that another process does without notification."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(0.02)


def stop(server: Server) -> None:
    """End the process in any state; for fixtures."""
    server.process.kill()
    server.process.wait()
    server.output.join(TIMEOUT_S)
