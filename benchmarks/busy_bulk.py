"""The bulk clients of `busy.py`, in a process of their own: prints the texts answered so far after each request.

usage: python -m benchmarks.busy_bulk PORT N_CLIENTS TEXTS_PER_REQUEST TOKENS_PER_TEXT SEED. Ends when it is killed.
"""

from __future__ import annotations

import sys
import threading
from http.client import HTTPConnection
from random import Random

from benchmarks.load import HOST
from benchmarks.scenarios import encode_body, make_texts_of


def main(port: int, n_clients: int, n_texts: int, n_tokens: int, seed: str) -> None:
    lock = threading.Lock()

    def run(number: int) -> None:
        rng = Random(f"{seed}/{number}")
        connection = HTTPConnection(HOST, port, timeout=600)
        bodies = [encode_body(make_texts_of(rng, n_texts, n_tokens), "base64") for _ in range(8)]
        while True:
            connection.request("POST", "/v1/embeddings", rng.choice(bodies), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            reply.read()
            if reply.status != 200:
                raise SystemExit(f"the server answered {reply.status}")
            with lock:
                print(n_texts, flush=True)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    port, n_clients, n_texts, n_tokens = map(int, sys.argv[1:5])
    main(port, n_clients, n_texts, n_tokens, sys.argv[5])
