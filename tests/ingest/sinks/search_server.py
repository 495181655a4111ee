"""A server that speaks as much of the HTTP of OpenSearch and Elasticsearch as their sinks use, as documented."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

Reply = tuple[int, dict[str, Any]]


@dataclass
class Index:
    """What was written last is seen by a search after a refresh only."""

    settings: dict[str, Any]
    mappings: dict[str, Any]
    written: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def width(self) -> int:
        embedding = self.mappings["properties"]["embedding"]
        return int(embedding.get("dims") or embedding.get("dimension"))


class SearchServer(ThreadingHTTPServer):
    """`faults`: replies that are given instead, first in, first out, to bulk requests. `busy`: ids refused once."""

    daemon_threads = True

    def __init__(self, flavor: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.flavor = flavor
        self.indices: dict[str, Index] = {}
        self.scrolls: dict[str, list[dict[str, Any]]] = {}
        self.faults: list[Reply] = []
        self.busy: set[str] = set()
        self.lock = threading.Lock()
        self.authorizations: set[str] = set()
        self.n_bulk_requests = 0

    def answer(self, method: str, path: str, query: dict[str, list[str]], data: bytes) -> Reply:
        parts = [unquote(part) for part in path.split("/") if part]
        if not parts:
            number = {"opensearch": "3.2.0", "elasticsearch": "9.1.0"}[self.flavor]
            return 200, {"version": {"number": number, "distribution": self.flavor}, "tagline": "You Know, for Search"}
        if parts[-1] == "_bulk":
            return self.bulk(parts[0], data)
        body = json.loads(data) if data else {}
        if parts[:2] == ["_search", "scroll"]:
            return self.scroll(method, body)
        name, action = parts[0], (parts[1] if len(parts) > 1 else "")
        if not action and method == "PUT":
            return self.create(name, body)
        if name not in self.indices:
            return 404, problem("index_not_found_exception", f"no such index [{name}]")
        return self.of_index(name, method, action, query, body)

    def create(self, name: str, body: dict[str, Any]) -> Reply:
        if name in self.indices:
            return 400, problem("resource_already_exists_exception", f"index [{name}/x] already exists")
        if name != name.lower():
            return 400, problem("invalid_index_name_exception", f"Invalid index name [{name}], must be lowercase")
        embedding = body.get("mappings", {}).get("properties", {}).get("embedding")
        expected = {"opensearch": "knn_vector", "elasticsearch": "dense_vector"}[self.flavor]
        if embedding is not None and embedding["type"] != expected:
            return 400, problem("mapper_parsing_exception", f"No handler for type [{embedding['type']}]")
        self.indices[name] = Index(body.get("settings", {}), body.get("mappings", {}))
        return 200, {"acknowledged": True, "index": name}

    def of_index(self, name: str, method: str, action: str, query: dict[str, list[str]], body: dict[str, Any]) -> Reply:
        index = self.indices[name]
        match method, action:
            case "HEAD", "":
                return 200, {}
            case "GET", "_mapping":
                return 200, {name: {"mappings": index.mappings}}
            case "PUT", "_mapping":
                index.mappings = {**index.mappings, **body}
            case "GET", "_settings":
                own = {key: str(value) for key, value in index.settings.get("index", {}).items() if value is not None}
                return 200, {name: {"settings": {"index": {"number_of_shards": "1", **own}}}}
            case "PUT", "_settings":
                index.settings = {**index.settings, "index": {**index.settings.get("index", {}), **body["index"]}}
            case "POST" | "GET", "_refresh":
                index.seen = dict(index.written)
            case "POST" | "GET", "_count":
                return 200, {"count": len(index.seen)}
            case "POST" | "GET", "_search":
                return self.search(index, query, body)
            case _:
                return 405, problem("illegal_argument_exception", f"{method} {action} is not spoken here")
        return 200, {"acknowledged": True}

    def search(self, index: Index, query: dict[str, list[str]], body: dict[str, Any]) -> Reply:
        if self.flavor == "opensearch":
            knn = body.get("query", {}).get("knn", {}).get("embedding")
            wanted = None if knn is None else (knn["vector"], knn["k"])
        else:
            knn = body.get("knn")
            wanted = None if knn is None else (knn["query_vector"], knn["k"])
            if knn is not None and not knn["k"] <= knn["num_candidates"] <= 10_000:
                return 400, problem("illegal_argument_exception", "[num_candidates] is out of range")
        size = int(body.get("size", query.get("size", ["10"])[0]))
        if size > 10_000:
            return 400, problem("illegal_argument_exception", "Result window is too large")
        found = self.nearest(index, *wanted) if wanted else [(1.0, id_) for id_ in index.seen]
        hits = [
            {"_id": id_, "_score": score, "_source": {key: index.seen[id_][key] for key in body["_source"]}}
            for score, id_ in found
        ]
        if "scroll" not in query:
            return 200, {"hits": {"hits": hits[:size]}}
        number = f"scroll-{len(self.scrolls)}"
        self.scrolls[number] = hits[size:]
        shards = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}
        return 200, {"_scroll_id": number, "_shards": shards, "hits": {"hits": hits[:size]}}

    def nearest(self, index: Index, vector: list[float], k: int) -> list[tuple[float, str]]:
        """Both give (1 + cosine) / 2."""
        query = np.array(vector)
        scores = []
        for id_, source in index.seen.items():
            stored = np.array(source["embedding"])
            cosine = stored @ query / np.linalg.norm(stored) / np.linalg.norm(query)
            scores.append(((1 + float(cosine)) / 2, id_))
        return sorted(scores, reverse=True)[:k]

    def scroll(self, method: str, body: dict[str, Any]) -> Reply:
        if method == "DELETE":
            ids = body["scroll_id"] if isinstance(body["scroll_id"], list) else [body["scroll_id"]]
            return 200, {"succeeded": all(self.scrolls.pop(id_, None) is not None for id_ in ids)}
        left = self.scrolls[body["scroll_id"]]
        page, self.scrolls[body["scroll_id"]] = left[:500], left[500:]
        shards = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}
        return 200, {"_scroll_id": body["scroll_id"], "_shards": shards, "hits": {"hits": page}}

    def bulk(self, name: str, data: bytes) -> Reply:
        self.n_bulk_requests += 1
        if self.faults:
            return self.faults.pop(0)
        lines = iter(data.decode().split("\n"))
        items = []
        for line in filter(None, lines):
            operation, action = next(iter(json.loads(line).items()))
            source = json.loads(next(lines)) if operation != "delete" else None
            status, reply = self.one(self.indices[action.get("_index", name)], action["_id"], source)
            items.append({operation: {"_id": action["_id"], "status": status, **reply}})
        return 200, {"errors": any(next(iter(item.values()))["status"] > 299 for item in items), "items": items}

    def one(self, index: Index, id_: str, source: dict[str, Any] | None) -> Reply:
        if id_ in self.busy:
            self.busy.discard(id_)
            return 429, problem("rejected_execution_exception", "the queue is full")
        if len(id_.encode()) > 512:
            return 400, problem("illegal_argument_exception", "id is too long, must be no longer than 512 bytes")
        if source is None:
            return (200, {"result": "deleted"}) if index.written.pop(id_, None) else (404, {"result": "not_found"})
        vector = source["embedding"]
        if len(vector) != index.width:
            return 400, problem("mapper_parsing_exception", f"vector has {len(vector)} dimensions, not {index.width}")
        if not any(vector):
            cause = {"type": "illegal_argument_exception", "reason": "a vector of zeros has no cosine"}
            reply = problem("document_parsing_exception", "failed to parse field [embedding]")
            reply["error"]["caused_by"] = cause
            return 400, reply
        index.written[id_] = source
        return 201, {"result": "created"}


def problem(kind: str, reason: str) -> dict[str, Any]:
    return {"error": {"type": kind, "reason": reason}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # the whole reply at once: else each waits 40 ms for an acknowledgement of its headers
    server: SearchServer

    def answer(self) -> None:
        place = urlsplit(self.path)
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.authorizations.add(self.headers.get("authorization", ""))
        with self.server.lock:
            status, reply = self.server.answer(self.command, place.path, parse_qs(place.query), data)
        body = b"" if self.command == "HEAD" else json.dumps(reply).encode()
        self.send_response(status)
        if self.server.flavor == "elasticsearch":  # without it the client refuses the server
            self.send_header("X-Elastic-Product", "Elasticsearch")
            self.send_header("Content-Type", "application/vnd.elasticsearch+json;compatible-with=9")
        else:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@contextmanager
def search_server(flavor: str) -> Iterator[SearchServer]:
    with SearchServer(flavor) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
