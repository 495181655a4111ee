"""The server and its OpenAPI description agree: 10,000 requests that schemathesis makes from it, right and wrong."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.server_process import Server, start_server, stop

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
)
RUNS = {
    "encoder": ("--seed", "12", "-n", "35"),
    "encoder-again": ("--seed", "13", "-n", "35"),
    "reranker": ("--seed", "14", "-n", "80", "--include-path-regex", "rerank|ranking"),
}
"""A model, and what tells its runs apart → how it is asked. The runs share the processors."""

MIN_CASES = 10_000

REFUSALS = (
    # What depends on the model that a request names
    r"token id \d+ is not in the model's vocabulary",
    r"the request asks for \d+ dimensions, this model has",
    r"no prompts are known for this model",
    r"begins with a token id, and a prompt can only be put before a text",
    r"is too large \(\d+ tokens",
    r"there is no label .*, this model has",
    r"this model was not made for instructions",
    r"pooling rank does not give one vector per text",
    r"leaves? no room for a",
    r"is not a model name",
    # Several fields or values that do not go together
    r'"truncate_prompt_tokens" and "max_tokens" contradict each other',
    r'"truncate" and "truncation_direction" contradict',
    r"ask for different prompts: send only one of them",
    r'"messages" and "input" are both the input',
    r'"dimensions" must be an integer of at least 1, found the number 0',  # it is right with `modality`
    r"which makes the array one input instead of one per entry: send each text as a string",
    r'"spans" has \d+ entries for \d+ inputs',
    r'"spans[\d\[\]]*" (is|counts|must)',
    r"offsets of tokens and spans need the beginning of a text",
    r"truncation cuts a long text, and an average over windows covers all of it",
    r"\] is a chunk without words, which has no vector",
    r'has no text in .*: name the fields to read in "rank_fields"',
    r"only represents numbers from -1 to 1",
    r"the query is empty",
    r"a limit per text cuts a long text",
    r'"modality" is image',
    r'"messages" is not supported',
    r"it contains no token",
    r'"pool_factor" makes multi-vectors smaller',
    r'"muvera" makes one vector of a multi-vector',
    r"there are \d+ queries and \d+ documents",
    r"has no head for sparse vectors",
    r"has no classification head",
    r"reads text only, not images",
    # What depends on what was stored before, and strings whose form only words can say
    r'"after" must be the id of an object in this list',
    r'"completion_window" must be a duration from',
    r'"(output_)?expires_after" must have',
    r"the body is not a complete form",  # names of parts with characters that no header can carry
)
"""A schema cannot say these: the only errors that a request may get which matches the description."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A check that failed."""

    check: str
    route: str
    status: int
    reply: str
    request: str

    @property
    def is_expected(self) -> bool:
        """Routes that say 501 do so; a refusal of the list; TEI's 424 refuses what its routes do not support."""
        match self.check:
            case "not_a_server_error":
                return self.status == 501  # an undocumented one fails status_code_conformance
            case "positive_data_acceptance":
                return any(re.search(words, self.reply) for words in REFUSALS)
            case "negative_data_rejection":
                return self.status == 424
            case _:
                return False


@pytest.fixture(scope="module")
def servers(cache_dir, models, tmp_path_factory) -> Iterator[dict[str, Server]]:
    """One server per run, with one model, so that any name is this model's."""
    started = {}
    for name in RUNS:
        model, stored = models / f"{name.partition('-')[0]}.gguf", tmp_path_factory.mktemp(name)
        started[name] = start_server(cache_dir, "-m", model, "-a", "all-minilm", "--batch-dir", stored)
    yield started
    for server in started.values():
        stop(server)


@pytest.mark.timeout(1500)
def test_the_servers_do_what_their_description_says(servers, tmp_path):
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(run_schemathesis, servers[name], tmp_path / name, *RUNS[name]) for name in RUNS]
        events = [event for run in runs for event in run.result()]
    errors = [event for event in events if "NonFatalError" in event or "FatalError" in event]
    recorders = [event["ScenarioFinished"]["recorder"] for event in events if "ScenarioFinished" in event]
    n_cases = sum(len(recorder.get("cases", {})) for recorder in recorders)
    findings = [finding for recorder in recorders for finding in failed_checks(recorder)]
    wrong = {(one.check, one.route, one.status): one for one in findings if not one.is_expected}
    assert (errors, list(wrong.values())) == ([], [])
    assert n_cases >= MIN_CASES
    assert [server.get("/health").status for server in servers.values()] == [200] * len(RUNS)


def run_schemathesis(server: Server, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """The events of a run."""
    folder.mkdir()
    report = folder / "events.ndjson"
    command = [
        *(Path(sys.executable).parent / "schemathesis", "run", f"{server.url}/openapi.json", "--url", server.url),
        *("--phases", "examples,coverage,fuzzing", "--checks", ",".join(CHECKS)),
        *("--continue-on-failure", "--no-shrink", "--output-sanitize", "false", "--request-timeout", "60"),
        *("--report", "ndjson", "--report-ndjson-path", report),
    ]
    done = subprocess.run(
        [*map(str, command), *arguments], cwd=folder, capture_output=True, text=True, timeout=1400, check=False
    )
    assert report.exists(), done.stdout + done.stderr
    return [json.loads(line) for line in report.read_text("utf-8").splitlines()]


def failed_checks(recorder: dict[str, Any]) -> Iterator[Finding]:
    """The failed checks of one scenario."""
    for case, checks in recorder.get("checks", {}).items():
        interaction = recorder["interactions"][case]
        response = interaction["response"]
        for check in checks:
            if check["status"] == "failure":
                yield Finding(
                    check["name"],
                    recorder["label"],
                    response["status_code"],
                    text_of(response.get("content")).replace('\\"', '"'),
                    text_of(interaction["request"].get("body")),
                )


def text_of(content: dict[str, str] | None) -> str:
    return base64.b64decode(content["$base64"]).decode("utf-8", "replace") if content else ""
