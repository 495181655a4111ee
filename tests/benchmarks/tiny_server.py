"""A process that answers every POST with two numbers per text: what the tests start, drive and stop."""

import argparse
import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser()
parser.add_argument("--host")
parser.add_argument("--port", type=int)
parser.add_argument("--loading", type=int, default=0, help="how many times to answer 503 first")
parser.add_argument("--child", action="store_true", help="start a process that only waits")
parser.add_argument("--fail", action="store_true")
arguments = parser.parse_args()

if arguments.fail:
    print("no such model", file=sys.stderr)
    sys.exit(3)
if arguments.child:
    subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open

    def do_POST(self) -> None:
        arguments.loading -= 1
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        texts = [texts] if isinstance(texts, str) else texts
        data = [{"embedding": [float(len(text)), 1.0], "index": i} for i, text in enumerate(texts)]
        body = json.dumps({"data": data, "usage": {"prompt_tokens": sum(map(len, texts))}}).encode()
        self.send_response(503 if arguments.loading >= 0 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: stderr is for the last line of a failed start."""


ThreadingHTTPServer((arguments.host, arguments.port), Handler).serve_forever()
