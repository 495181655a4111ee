"""The JDK's own HTTP client, which frameworks for Java use: it asks for HTTP/2 on cleartext, and has chunked bodies."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.compat.heavy.comparing import assert_own
from tests.server_process import Server

PROGRAM = Path(__file__).parents[1] / "java" / "Embed.java"
OLDEST_JAVA = 11  # the first that has java.net.http, and starts a program from its source
TEXTS = ["a cat on a mat", "안녕하세요 세계"]


def skip_without_java() -> str:
    """Where `java` is. Skips the test if it is not here, is too old, or has no compiler."""
    java = shutil.which("java")
    if java is None:
        pytest.skip("java is not here: install a JDK, then make test-compat")
    asked = subprocess.run([java, "--list-modules"], capture_output=True, text=True, timeout=60)
    found = re.search(r"^jdk\.compiler@(\d+)", asked.stdout, re.MULTILINE)
    if found is None or int(found[1]) < OLDEST_JAVA:
        pytest.skip(f"{java} is no JDK of version {OLDEST_JAVA} or newer, which can run a source file")
    return java


def answers(server: Server, body: dict[str, object]) -> list[tuple[int, str, object]]:
    """Status, HTTP version and reply of each of the program's requests."""
    command = [skip_without_java(), str(PROGRAM), server.url, json.dumps(body)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    lines = [line.split(" ", 2) for line in ended.stdout.splitlines()]
    return [(int(status), version, json.loads(reply)) for status, version, reply in lines]


def test_every_way_to_send_a_body_is_answered(default_server):
    asked = answers(default_server, {"model": "all-MiniLM-L6-v2", "input": TEXTS})
    assert [(status, version) for status, version, _ in asked] == [(200, "HTTP_1_1")] * 16
    for _, _, reply in asked:
        assert_own([item["embedding"] for item in reply["data"]], default_server, TEXTS)


def test_every_way_to_send_a_wrong_body_is_an_error(default_server):
    asked = answers(default_server, {"model": "all-MiniLM-L6-v2", "input": []})
    assert [(status, list(reply)) for status, _, reply in asked] == [(400, ["error"])] * 16
