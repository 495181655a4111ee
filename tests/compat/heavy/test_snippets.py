"""The snippets of docs/clients.md as they stand there, each in a process of its own, against the real server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.compat.heavy.comparing import assert_own
from tests.server_process import Server

ROOT = Path(__file__).parents[3]
NODE = ROOT / "tests" / "compat" / "node"
OLDEST_NODE = 18  # the first that has fetch, which the clients call
PAGE = (ROOT / "docs" / "clients.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8080"
TEXTS = ["a cat on a mat", "ein Hund im Haus"]
SHOW = {
    "python": "\nimport json; print(json.dumps([list(map(float, row)) for row in vectors]))",
    "js": "\nconsole.log(JSON.stringify(vectors));",
}


@dataclass(frozen=True, slots=True)
class Snippet:
    heading: str
    language: str
    code: str


def snippets() -> Iterator[Snippet]:
    """In the order of the page."""
    for section in re.split(r"^#+ ", PAGE, flags=re.MULTILINE)[1:]:
        heading = section.partition("\n")[0]
        for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
            yield Snippet(heading, language, code)


SNIPPETS = [snippet for snippet in snippets() if snippet.language != "sh"]
INSTALLS = [snippet for snippet in snippets() if snippet.language == "sh"]


def skip_without_node() -> None:
    """Skip the test where Node is not here, is too old, or has not all of the clients."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not here: install node and npm, then make test-compat")
    asked = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=20)
    found = re.match(r"v(\d+)\.", asked.stdout)
    if found is None or int(found[1]) < OLDEST_NODE:
        said = (asked.stdout + asked.stderr).strip().partition("\n")[0] or f"exit status {asked.returncode}"
        pytest.skip(f"the clients need Node {OLDEST_NODE} or newer; node --version says: {said}")
    if not (NODE / "node_modules" / ".installed").exists():
        pytest.skip("Node's clients are not here: npm brings them in make test-compat")


def run(snippet: Snippet, url: str) -> list[list[float]]:
    """The `vectors` that it leaves."""
    assert ADDRESS in snippet.code
    code = snippet.code.replace(ADDRESS, url) + SHOW[snippet.language]
    if snippet.language == "python":
        command, folder = [sys.executable, "-c", code], ROOT
    else:
        skip_without_node()
        command, folder = ["node", "--input-type=module", "-e", code], NODE
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    vectors: list[list[float]] = json.loads(ended.stdout.splitlines()[-1])
    return vectors


def test_every_client_has_its_snippets():
    counted = [(snippet.heading, snippet.language) for snippet in SNIPPETS]
    assert len(counted) == 25
    assert set(counted) == {
        *((heading, "python") for heading in ("openai", "ollama", "LangChain", "LangChain that cannot be changed")),
        *((heading, "python") for heading in ("Azure", "NVIDIA", "Voyage", "LanceDB", "Qdrant")),
        *(
            (heading, "python")
            for heading in ("LlamaIndex", "Haystack", "LiteLLM", "Chroma", "huggingface_hub", "Cohere")
        ),
        ("Node", "js"),
    }


def test_every_client_has_one_line_that_installs_what_is_tested():
    locked = (ROOT / ".ci/setup/requirements-compat.in").read_text("utf-8")
    headings = {snippet.heading for snippet in SNIPPETS} - {"LangChain that cannot be changed"}  # LangChain's is above
    assert [install.heading for install in INSTALLS] == sorted(headings, key=lambda name: PAGE.index(f"\n## {name}\n"))
    for install in INSTALLS:
        tool, verb, *packages = install.code.split()
        assert (tool, verb) == ("npm" if install.heading == "Node" else "pip", "install")
        missing = [name for name in packages if not re.search(rf"^{name.replace('_', '-')}[>=]", locked, re.MULTILINE)]
        assert packages
        assert not missing or tool == "npm"


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.heading)
def test_a_snippet_gives_the_servers_vectors(snippet: Snippet, default_server: Server, request):
    ids = snippet.heading == "LangChain that cannot be changed"
    server = request.getfixturevalue("cl100k_server") if ids else default_server
    assert_own(run(snippet, server.url), server, TEXTS)
