"""The files of docs/deploy and .github fit the project: flags, paths, users, make targets."""

from __future__ import annotations

import fnmatch
import inspect
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from gguf_embed.server.run import serve_all

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "docs" / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
UNIT = (DEPLOY / "gguf-embed.service").read_text("utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
YAML_FILES = sorted([*(ROOT / ".github").rglob("*.yml"), *(ROOT / ".github").glob("*.yaml")])
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
DRAIN_S = inspect.signature(serve_all).parameters["drain_timeout_s"].default
CLOSE_S = 5  # for writing the last answers


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's: ("FROM", "python:3.11 AS build"), …"""
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    lines = re.sub(r"\\\n", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    split = [line.strip().partition(" ") for line in lines if line.strip()]
    return [(word, re.sub(r"\s+", " ", rest).strip()) for word, _, rest in split]


def arguments(word: str) -> list[str]:
    return [rest for found, rest in instructions() if found == word]


def unit(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)


@cache
def serve_flags() -> frozenset[str]:
    """All flags that `gguf-embed serve --help` names."""
    command = [sys.executable, "-m", "gguf_embed", "serve", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", said))


def flags_of(words: list[str]) -> set[str]:
    return {word for word in words if word.startswith("-")}


def copied() -> list[str]:
    """What the Dockerfile takes from the project."""
    found = [rest.split()[:-1] for rest in arguments("COPY") if not rest.startswith("--from")]
    return [source for sources in found for source in sources]


def test_what_the_dockerfile_copies_exists_and_reaches_the_build():
    patterns = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").split("\n")
    let_in = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    assert sorted(copied()) == sorted(let_in)
    assert "*" in patterns
    assert [source for source in copied() if not (ROOT / source).exists()] == []


def test_the_image_gets_all_that_the_package_is_built_from():
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    readme, license_file = re.findall(r'^readme = "(.*)"', pyproject, re.MULTILINE)[0], "LICENSE"
    (source,) = re.findall(r'^sources = \["(.*)"\]', pyproject, re.MULTILINE)
    assert {"pyproject.toml", readme, license_file, source.partition("/")[0]} <= set(copied())
    ignored = [line for line in (DEPLOY / "Dockerfile.dockerignore").read_text().split("\n") if line.startswith("**/")]
    assert not any(fnmatch.fnmatch(source, pattern) for pattern in ignored)


def test_the_image_uninstalls_only_what_compiles():
    (removed,) = re.findall(r"pip uninstall --yes ([^&\n]*)", "\n".join(arguments("RUN")))
    build, serving = (
        set(re.findall(r"^([\w.-]+)==", (ROOT / ".ci/setup" / name).read_text("utf-8"), re.MULTILINE))
        for name in ("requirements-build.lock", "requirements.lock")
    )
    assert set(removed.split()) == build - serving - {"pip"}


def test_nothing_runs_as_root():
    (user,) = arguments("USER")
    assert user == COMPOSE["services"]["gguf-embed"]["user"] == "10001:10001"
    words = [word for word, _ in instructions()]
    assert words.index("USER") > max(index for index, word in enumerate(words) if word in ("RUN", "COPY", "FROM"))
    assert f"--uid {user.partition(':')[0]} " in " ".join(arguments("RUN"))
    assert unit("DynamicUser") == ["yes"]


@pytest.mark.process
def test_the_flags_are_those_of_serve():
    (entry,) = arguments("ENTRYPOINT")
    (start,) = unit("ExecStart")
    program, command, *entry_words = json.loads(entry)
    assert (program, command) == ("gguf-embed", "serve")
    path, command, *unit_words = shlex.split(start)
    assert (Path(path).name, command) == ("gguf-embed", "serve")
    compose_words = COMPOSE["services"]["gguf-embed"]["command"]
    pages = re.findall(r"`(--?[a-z][\w-]*)[ `]", (DEPLOY / "README.md").read_text("utf-8"))
    dockers = {"--init", "--publish", "--volume", "--read-only", "--build-arg"}
    used = flags_of(entry_words) | flags_of(unit_words) | flags_of(compose_words) | (set(pages) - dockers)
    assert {"--host", "--port"} <= used
    assert used - serve_flags() == set()


def test_the_environment_names_are_known():
    known = (ROOT / "docs" / "cli.md").read_text("utf-8")
    texts = [path.read_text("utf-8") for path in DEPLOY.iterdir() if path.is_file()]
    names = {name for text in texts for name in re.findall(r"\b(?:LLAMA|GGUF_EMBED|HF)_[A-Z_]+[A-Z]\b", text)}
    assert {"LLAMA_ARG_API_KEY_FILE", "LLAMA_API_KEY"} <= names
    assert [name for name in sorted(names - {"HF_HOME"}) if f"`{name}`" not in known] == []


def test_the_port_is_the_same_everywhere():
    (entry,) = arguments("ENTRYPOINT")
    words = json.loads(entry)
    port = words[words.index("--port") + 1]
    assert arguments("EXPOSE") == [port]
    assert f"http://127.0.0.1:{port}/health" in arguments("HEALTHCHECK")[0]
    assert COMPOSE["services"]["gguf-embed"]["ports"] == [f"127.0.0.1:{port}:{port}"]


@pytest.mark.process
def test_the_health_check_is_a_program_that_tells_well_from_ill():
    command = json.loads(arguments("HEALTHCHECK")[0].partition("CMD ")[2])
    (program, flag, code) = command
    assert (program, flag) == ("python", "-c")
    nobody = code.replace(":8080/", ":1/")
    assert subprocess.run([sys.executable, flag, nobody], capture_output=True, timeout=30).returncode == 1


@pytest.mark.process
def test_the_health_check_finds_a_server_well(tiny_server):
    (_, flag, code) = json.loads(arguments("HEALTHCHECK")[0].partition("CMD ")[2])
    code = code.replace("http://127.0.0.1:8080", tiny_server.url)
    assert subprocess.run([sys.executable, flag, code], capture_output=True, timeout=30).returncode == 0


def test_a_stop_waits_for_accepted_requests():
    assert float(COMPOSE["services"]["gguf-embed"]["stop_grace_period"].removesuffix("s")) >= DRAIN_S + CLOSE_S
    assert float(unit("TimeoutStopSec")[0]) >= DRAIN_S + CLOSE_S


def test_compose_gives_the_container_no_more_than_it_needs():
    service = COMPOSE["services"]["gguf-embed"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
    (volume,) = arguments("VOLUME")
    assert service["volumes"] == [f"models:{volume}"]
    assert service["environment"]["LLAMA_ARG_API_KEY_FILE"] == f"/run/secrets/{service['secrets'][0]}"


# .github


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text("utf-8"))["jobs"].items():
            yield from ((f"{path.name}: {name}", step) for step in job.get("steps", []))


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_yaml_can_be_read(path):
    assert isinstance(yaml.safe_load(path.read_text("utf-8")), dict)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_read_only_and_ends(path):
    workflow = yaml.safe_load(path.read_text("utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    assert "concurrency" in workflow
    assert [name for name, job in workflow["jobs"].items() if "steps" in job and "timeout-minutes" not in job] == []


def test_actions_are_pinned_to_a_commit():
    used = [(where, step["uses"]) for where, step in steps() if "uses" in step]
    assert len(used) >= 8
    assert [found for found in used if not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", found[1])] == []


def test_the_workflows_and_the_hook_call_make_targets_that_exist():
    commands = [step["run"] for _, step in steps() if "run" in step]
    hooks = yaml.safe_load((ROOT / ".github" / "pre-commit-config.yaml").read_text("utf-8"))
    commands += [hook["entry"] for repo in hooks["repos"] for hook in repo["hooks"]]
    targets = {name for command in commands for name in re.findall(r"\bmake (?:--\w+ )?([a-z-]+)", command)}
    assert {"install", "lint", "test", "soak", "test-compat", "test-ui", "dist", "check-release"} <= targets
    assert [name for name in sorted(targets) if not re.search(rf"^{name}:", MAKEFILE, re.MULTILINE)] == []


def test_the_workflow_runs_all_that_the_projects_own_machines_run():
    own = re.findall(r"^(?:step|heavy) (make [\w-]+|sh \S+)", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)
    assert len(own) >= 7
    commands = {step["run"] for where, step in steps() if "run" in step and where.startswith("test.yml")}
    assert [command for command in own if command not in commands] == []


def test_every_target_that_is_no_file_is_phony():
    phony = set(re.sub(r"\\\n", "", MAKEFILE).partition(".PHONY:")[2].partition("\n")[0].split())
    assert set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)) <= phony


@pytest.mark.parametrize("page", [*sorted((ROOT / ".github").glob("*.md")), *sorted(DEPLOY.glob("*.md")),
                                  ROOT / "docs" / "examples" / "README.md"], ids=lambda page: page.name)  # fmt: skip
def test_links_inside_the_project_resolve(page):
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
