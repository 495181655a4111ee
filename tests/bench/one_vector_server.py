"""A process that answers every POST with one vector: what test_servers starts and stops."""

import argparse
import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

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
    def do_POST(self) -> None:
        arguments.loading -= 1
        data = [{"embedding": [1.0, 0.0], "index": 0}]
        body = json.dumps({"data": data, "usage": {"prompt_tokens": 3}}).encode()
        self.send_response(503 if arguments.loading >= 0 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


HTTPServer((arguments.host, arguments.port), Handler).serve_forever()
