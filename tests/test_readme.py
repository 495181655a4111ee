"""The requests and programs of the README run as they stand there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
REQUESTS = re.findall(r"^curl .*$", README, re.MULTILINE)
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def run(server, command: list[str]) -> str:
    words = [word.replace("http://127.0.0.1:8080", server.url) for word in command]
    environ = {**os.environ, "OLLAMA_HOST": server.url}
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_some():
    assert (len(REQUESTS), len(PROGRAMS)) == (3, 2)


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_is_answered_in_a_line_of_its_own(request_, default_server):
    replied = run(default_server, ["sh", "-c", request_])
    assert replied.endswith("\n")
    assert "error" not in json.loads(replied)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.split()[1])
def test_a_program_gets_its_vectors(program, default_server):
    assert run(default_server, [sys.executable, "-c", program]).startswith("2 vectors")
