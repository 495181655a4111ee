"""A local hub: the few routes that a download uses, over plain HTTP, with ranges and faults."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """What the hub holds, and what it was asked. Repositories in `refused` answer with that status and error code."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)  # repository → file → content
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)  # method, path
    ranges: list[str] = field(default_factory=list)  # the Range headers of downloads, "" for none
    etags: dict[str, str] = field(default_factory=dict)  # file → what the hub calls its content; else the sha256
    cuts: list[int] = field(default_factory=list)  # the next downloads break off after so many bytes of their answer
    holds_after: int | None = None  # downloads send so many bytes and then wait for `go_on`
    go_on: threading.Event = field(default_factory=threading.Event)
    ignores_ranges: bool = False
    endpoint: str = ""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        parts = path.split("?")[0].strip("/").split("/")
        repo = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if repo in self.refused:
            status, code = self.refused[repo]
            return status, {"X-Error-Code": code, "X-Error-Message": code}, b""
        if repo not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if parts[0] == "api":
            siblings = [{"rfilename": name} for name in self.files[repo]]
            info = {"id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}
            return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()
        name = "/".join(parts[4:])
        content = self.files[repo].get(name)
        if content is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        etag = self.etags.get(name) or hashlib.sha256(content).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}, content

    @property
    def downloads(self) -> list[str]:
        """Paths of the files whose content was asked for."""
        return [path for method, path in self.requests if method == "GET" and "/resolve/" in path]


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Run the hub until the block ends; sets its `endpoint`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(send_body=True)

        def do_HEAD(self) -> None:
            self._answer(send_body=False)

        def _answer(self, *, send_body: bool) -> None:
            hub.requests.append((self.command, self.path))
            status, headers, body = hub.answer(self.path)
            is_download = send_body and "/resolve/" in self.path
            if is_download:
                hub.ranges.append(self.headers.get("Range") or "")
            start = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
            if is_download and start and status == 200 and not hub.ignores_ranges:
                offset = int(start[1])
                headers["Content-Range"] = f"bytes {offset}-{len(body) - 1}/{len(body)}"
                status, body = 206, body[offset:]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if not send_body:
                return
            if is_download and hub.cuts:
                self.wfile.write(body[: hub.cuts.pop(0)])
                self.close_connection = True
                return
            n_first = len(body) if hub.holds_after is None or not is_download else hub.holds_after
            self.wfile.write(body[:n_first])
            if n_first < len(body):
                hub.go_on.wait(30)
                self.wfile.write(body[n_first:])

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that breaks off is what some tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
