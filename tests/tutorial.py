"""Runs a page of docs/tutorials as a reader would: saves its files, and types its commands in a clean folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from tests.server_process import OWN_VARIABLES, command, wait_until

FENCE = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
DECIMALS = r"\d\.\d{3,4}"
COMMAND_TIMEOUT_S = 100
SERVERS = ("gguf-embed serve", "llama-server")


@dataclass(frozen=True, slots=True)
class Block:
    """A fence of the page. `note` is the comment above it, `before` the text between it and the fence before."""

    language: str
    code: str
    note: str
    before: str

    @property
    def file(self) -> str | None:
        """The name under which the text says to save it."""
        names = re.findall(r"`([\w-]+\.py)`", self.before.rpartition("\n\n")[2] or self.before)
        return names[-1] if self.language == "python" and names else None

    @property
    def is_server(self) -> bool:
        return self.language == "sh" and self.code.startswith(SERVERS)


def blocks_of(page: str) -> Iterator[Block]:
    end = 0
    for fence in FENCE.finditer(page):
        before = page[end : fence.start()].strip()
        yield Block(fence["language"], fence["code"], fence["note"] or "", before)
        end = fence.end()


def is_said(line: str, output: list[str]) -> bool:
    """Whether a line of the output has these words. Numbers with three or four decimals may differ by 0.01."""
    pattern = r"\s+".join(re.escape(word) for word in line.split())
    pattern = re.sub(DECIMALS.replace(r"\.", r"\\\."), lambda _: f"({DECIMALS})", pattern)
    numbers = [float(number) for number in re.findall(DECIMALS, line)]
    found = [match for printed in output if (match := re.search(pattern, printed))]
    return any(all(abs(float(a) - b) <= 0.01 for a, b in zip(match.groups(), numbers, strict=True)) for match in found)


def folder_with_commands(folder: Path, commands: Mapping[str, list[str]]) -> Path:
    """Small scripts of these names, which run what stands beside them."""
    folder.mkdir(parents=True)
    for name, words in commands.items():
        quoted = " ".join(f"'{word}'" for word in words)
        (folder / name).write_text(f'#!/bin/sh\nexec {quoted} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


@dataclass
class Reader:
    """Somebody with gguf-embed on the path, in `folder`. The ports of the page are others here, so that tests can share
    a machine: `ports` says which, and is empty of what needs no port.
    """

    folder: Path
    cache_dir: Path
    ports: Mapping[int, int]
    programs: Mapping[str, list[str]] = field(default_factory=dict)
    servers: dict[int, subprocess.Popen[str]] = field(default_factory=dict)
    exported: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = {"gguf-embed": command(), "python": [sys.executable], "python3": [sys.executable]}
        self._path = folder_with_commands(self.folder / ".bin", {**own, **self.programs})
        folder_with_commands(self.folder / "gguf-embed" / ".venv" / "bin", own)
        (self.folder / ".home").mkdir()

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith((*OWN_VARIABLES, "OPENAI_"))}
        return {
            **kept,
            "HOME": str(self.folder / ".home"),
            "PATH": f"{self._path}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "GGUF_EMBED_CACHE": str(self.cache_dir),
            "HF_HUB_OFFLINE": "1",
            "LLAMA_ARG_PORT": str(self.ports[8080]),
            "OLLAMA_HOST": f"127.0.0.1:{self.ports[11434]}",
            **self.exported,
        }

    def with_own_ports(self, code: str) -> str:
        code = code.replace("--ollama-port", f"--ollama-port {self.ports[11434]}")
        return re.sub(r"(127\.0\.0\.1:|--port )(\d+)", lambda found: found[1] + str(self.ports[int(found[2])]), code)

    def run(self, page: str) -> list[str]:
        """What did not happen as the page says."""
        wrong: list[str] = []
        printed: list[str] = []
        for block in blocks_of(page):
            if self.is_left_out(block):
                continue
            if block.language == "text":
                missing = [line for line in block.code.splitlines() if not is_said(line, printed)]
                wrong += [f"{line!r} in {printed}" for line in missing]
            elif block.language == "python":
                assert block.file is not None, block.before
                (self.folder / block.file).write_text(self.with_own_ports(block.code), "utf-8")
            elif block.is_server:
                self.serve(block.code)
            else:
                printed = self.type(block.code)
        return wrong

    def is_left_out(self, block: Block) -> bool:
        needed = block.note.removeprefix("needs ")
        return block.note.startswith("not tested here: ") or (needed != block.note and needed not in self.programs)

    def type(self, code: str) -> list[str]:
        """The lines of its output. Variables that it exports stay."""
        words = ["sh", "-euc", self.with_own_ports(code)]
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        for line in re.findall(r"^export (.*)$", self.with_own_ports(code), re.MULTILINE):
            self.exported |= dict(word.split("=", 1) for word in line.split())
        return done.stdout.splitlines()

    def serve(self, code: str) -> None:
        """Start it, as in another terminal, and wait until it answers. The server before it on this port ends."""
        port = int((re.findall(r"--port (\d+)", code) or ["8080"])[0])
        self.stop(port)
        process = subprocess.Popen(
            ["sh", "-c", f"exec {self.with_own_ports(code)}"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.servers[port] = process
        wait_until(lambda: self.answers(process, self.ports[port]), COMMAND_TIMEOUT_S)

    @staticmethod
    def answers(process: subprocess.Popen[str], port: int) -> bool:
        assert process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        except (URLError, OSError, HTTPException):
            return False
        return True

    def stop(self, *ports: int) -> None:
        """End the servers of these ports of the page, or all."""
        for port in ports or list(self.servers):
            if process := self.servers.pop(port, None):
                process.kill()
                process.wait()
