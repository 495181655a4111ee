"""A process that answers every POST with two numbers per text, or a score per document, for the tests."""

import argparse
import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

parser = argparse.ArgumentParser()
parser.add_argument("--host")
parser.add_argument("--port", type=int)
parser.add_argument("--loading", type=int, default=0, help="how many times to answer 503 first")
parser.add_argument("--child", action="store_true", help="start a process that only waits")
parser.add_argument("--fail", action="store_true")
parser.add_argument("--engine", default="", help="what /props says")
arguments = parser.parse_args()

if arguments.fail:
    print("no such model", file=sys.stderr)
    sys.exit(3)
if arguments.child:
    subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)


def embed(request: dict[str, Any]) -> dict[str, Any]:
    texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
    data = [{"embedding": [float(len(text)), 1.0], "index": i} for i, text in enumerate(texts)]
    return {"data": data, "usage": {"prompt_tokens": sum(map(len, texts))}}


def rerank(request: dict[str, Any]) -> dict[str, Any]:
    results = [{"index": i, "relevance_score": len(text)} for i, text in enumerate(request["documents"])]
    return {"results": results[::-1], "usage": {"prompt_tokens": 1 + sum(map(len, request["documents"]))}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open

    def do_POST(self) -> None:
        arguments.loading -= 1
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(503 if arguments.loading >= 0 else 200, rerank(request) if "query" in request else embed(request))

    def do_GET(self) -> None:
        compute = {"workers": 2, "threads": 2, "batch_tokens": 64, "details": ["measured"]}
        props = {"engine": arguments.engine, "kernels": "AMX", "weights": "BF16", "compute": compute}
        self.answer(200, props if arguments.engine else {})

    def answer(self, status: int, reply: dict[str, Any]) -> None:
        body = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: stderr is for the last line of a failed start."""


ThreadingHTTPServer((arguments.host, arguments.port), Handler).serve_forever()
