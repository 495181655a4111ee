"""The bulk clients of `busy.py`, in a process of their own: prints the texts answered so far after each request.

usage: python -m benchmarks.busy_bulk TASK PORT N_CLIENTS TEXTS_PER_REQUEST TOKENS_PER_TEXT SEED
It ends when it is killed.
"""

from __future__ import annotations

import sys
import threading
from http.client import HTTPConnection
from random import Random

from benchmarks.load import HOST
from benchmarks.scenarios import make_texts_of
from benchmarks.tasks import TASKS, Task


def main(task: Task, port: int, n_clients: int, n_texts: int, n_tokens: int, seed: str) -> None:
    lock = threading.Lock()

    def run(number: int) -> None:
        rng = Random(f"{seed}/{number}")
        connection = HTTPConnection(HOST, port, timeout=600)
        queries = [make_texts_of(rng, len(task.probe) - 1, n_tokens) for _ in range(8)]  # of rerank
        bodies = [task.encode(query + make_texts_of(rng, n_texts, n_tokens), "base64") for query in queries]
        while True:
            connection.request("POST", task.path, rng.choice(bodies), {"Content-Type": "application/json"})
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
    task = next(task for task in TASKS if task.name == sys.argv[1])
    port, n_clients, n_texts, n_tokens = map(int, sys.argv[2:6])
    main(task, port, n_clients, n_texts, n_tokens, sys.argv[6])
