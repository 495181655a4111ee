"""How far one text travels: files, functions and moves between files for one `/v1/embeddings`, on a loaded model.

A newcomer who follows a text opens these files. The numbers are limits, not goals: what is absent from a request must
cost no visit to a file.
"""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import json, os, sys, threading, time
from http.client import HTTPConnection
import gguf_embed
from gguf_embed.cli.main import main

ROOT = os.path.dirname(gguf_embed.__file__)
PORT, PATH, BODY, *OPTIONS = sys.argv[1:]
requests, recording = [], threading.Event()


def record(frame, event, argument):
    if event == "call" and recording.is_set() and frame.f_code.co_filename.startswith(ROOT):
        code = frame.f_code
        requests[-1].append((code.co_filename[len(ROOT) + 1 :], code.co_qualname, threading.get_ident()))


def ask():
    while True:
        connection = HTTPConnection("127.0.0.1", int(PORT))
        try:
            connection.request("GET", "/health")
            connection.getresponse().read()
            break
        except OSError:
            time.sleep(0.05)
    for n in range(13):
        if n >= 8:
            requests.append([])
            recording.set()
        connection.request("POST", PATH, BODY, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        text = reply.read().decode()
        if reply.status != 200:
            print(text, file=sys.stderr, flush=True)
            os._exit(1)
        time.sleep(0.2)
        recording.clear()
    print(json.dumps(requests), flush=True)
    os._exit(0)


threading.setprofile(record)
threading.Thread(target=ask, daemon=True).start()
sys.setprofile(record)
sys.argv = ["gguf-embed", "serve", "--port", PORT, *OPTIONS]
main()
"""


def n_moves(events: list[list[Any]]) -> int:
    """How often the request moves between files, in each thread: how threads take turns is chance."""
    threads = {thread for *_, thread in events}
    files = [[file for file, _, of in events if of == thread] for thread in threads]
    return sum(one != other for of_thread in files for one, other in itertools.pairwise(of_thread))


@pytest.mark.process
def test_a_text_alone_visits_few_files(models):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", PROGRAM, str(port), "/v1/embeddings", '{"input": "hello world"}']
    command += ["-m", str(models / "encoder.gguf"), "--engine", "openvino"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    requests = json.loads(done.stdout.splitlines()[-1])
    files = [len({file for file, *_ in events}) for events in requests]
    functions = [len({(file, function) for file, function, _ in events}) for events in requests]
    moves = [n_moves(events) for events in requests]
    # The fewest of five: whether something else happens meanwhile is chance.
    assert (min(files) <= 24, min(functions) <= 95, min(moves) <= 62) == (True, True, True), (files, functions, moves)
