"""Starts or joins a Ray cluster, quietly, and divides its CPUs among actors."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from gguf_embed.errors import ConfigError, EmbedError, Unavailable

OBJECT_STORE_BYTES = 256 << 20
"""Shared memory of a cluster of our own. It holds the batches in flight, each of them less than a megabyte."""

CONNECT_S = 5.0
FREE_S = 5.0

_log = logging.getLogger("gguf_embed.ingest")


@dataclass(frozen=True, slots=True)
class ActorPlan:
    """How many actors, and how much of a machine each of them has."""

    n_actors: int
    n_cpus: float  # for Ray's scheduler; below 1, several actors share a CPU

    @property
    def n_threads(self) -> int:
        return max(1, int(self.n_cpus))


def plan_actors(machines: Sequence[float], n_actors: int | None = None) -> ActorPlan:
    """Divide the CPUs of the machines, and leave one of all free for what else runs there.

    By default one actor per machine, several on those that are larger than the smallest one. Raises `ConfigError`.
    """
    if n_actors is not None and n_actors < 1:
        raise ConfigError(f"n_actors={n_actors}: at least one actor is needed")
    cpus = [n for n in machines if n >= 1]
    if not cpus:
        raise ConfigError("the Ray cluster has no CPUs: start its machines with ray start --num-cpus N")
    spare = sum(cpus) - 1
    if n_actors is None:
        size = int(min(cpus))
        n = _n_fitting(cpus, size)
        if n * size > spare:
            size, n = (size - 1, n) if size > 1 else (1, n - 1)
        return ActorPlan(n, size) if n else ActorPlan(1, 0.5)
    for size in range(int(max(cpus)), 0, -1):
        if n_actors * size <= spare and _n_fitting(cpus, size) >= n_actors:
            return ActorPlan(n_actors, size)
    share = (spare or 0.5) / n_actors
    if share < 0.01:
        raise ConfigError(f"n_actors={n_actors} is too many for a Ray cluster with {sum(cpus):g} CPUs")
    return ActorPlan(n_actors, int(min(share, 1) * 100) / 100)


def _n_fitting(cpus: Sequence[float], size: int) -> int:
    return sum(int(n // size) for n in cpus)


class Cluster:
    """Ray in this process. One that was running before is left running."""

    def __init__(self, address: str | None = None) -> None:
        """`address`: of the cluster, "HOST:PORT" or "auto"; None: RAY_ADDRESS, else a cluster on this machine alone.

        Raises `ConfigError` if Ray is not installed, or no cluster answers.
        """
        self.ray = import_ray()
        self._restore: Callable[[], None] | None = None
        if self.ray.is_initialized():
            return
        wanted = address or os.environ.get("RAY_ADDRESS") or "local"
        if wanted.startswith("ray://"):
            raise ConfigError(
                f"the Ray address {wanted!r} is that of a Ray client, which jobs do not support: run the job on a "
                "machine of the cluster, with the address auto"
            )
        _check_reachable(wanted)
        arguments: dict[str, Any] = {"address": wanted, "log_to_driver": False, "logging_level": "ERROR"}
        if wanted == "local":
            arguments |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        self._restore = _silence(self.ray)
        try:
            with _same_signal_handlers():
                self.ray.init(**arguments)
        except Exception as error:
            self.close()
            raise _start_error(wanted, error) from error

    def plan(self, n_actors: int | None) -> ActorPlan:
        """What other jobs use of the cluster is left to them. Raises `ConfigError` if too few CPUs are free."""
        nodes = [node["Resources"].get("CPU", 0.0) for node in self.ray.nodes() if node["Alive"]]
        plan = plan_actors(nodes, n_actors)
        free = self._free_cpus(plan.n_actors * plan.n_cpus)
        n_possible = int((free + 0.001) / plan.n_cpus)
        if n_possible < (1 if n_actors is None else n_actors):
            raise ConfigError(
                f"the Ray cluster has {sum(nodes):g} CPUs, of which {free:g} are free, and each of "
                f"{plan.n_actors} actors needs {plan.n_cpus:g}: wait for other jobs to end, or add machines"
            )
        return replace(plan, n_actors=min(plan.n_actors, n_possible))

    def _free_cpus(self, wanted: float) -> float:
        """As soon as there are so many: Ray hears a few seconds later of jobs that ended."""
        end_s = time.monotonic() + FREE_S
        while True:
            free: float = self.ray.available_resources().get("CPU", 0.0)
            if free + 0.001 >= wanted or time.monotonic() >= end_s:
                return free
            time.sleep(0.1)

    def close(self) -> None:
        """Ends Ray in this process, if this started it; a cluster on this machine alone ends with it."""
        if self._restore is not None:
            self.ray.shutdown()
            self._restore()
            self._restore = None


def import_ray() -> Any:
    """Raises `ConfigError` if it is missing. Ray then reports nothing about its use to anyone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError("Ray's actors need the package ray: pip install 'gguf-embed[ray]'") from error


def _start_error(address: str, error: Exception) -> EmbedError:
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")
    if address == "local":
        return Unavailable(f"Ray did not start on this machine: {line}")
    return ConfigError(
        f"no Ray cluster can be used at {address!r}: {line}: start one there with ray start --head, or leave the "
        "address out for one on this machine"
    )


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes. Raises `ConfigError`."""
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"the Ray address {address!r} is not HOST:PORT, auto or local")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S):
            return
    except (OSError, OverflowError) as error:
        raise _start_error(address, error) from error


@contextmanager
def _same_signal_handlers() -> Iterator[None]:
    """Ray replaces that of SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _silence(ray: Any) -> Callable[[], None]:
    """Ray prints on stdout when an actor dies, whatever its settings are, which would spoil a job's own output."""
    worker = ray._private.worker
    before = getattr(worker, "print_to_stdstream", None)
    if before is None:
        return lambda: None

    def note(data: Any, *_: Any, **__: Any) -> None:
        _log.debug("Ray: %s", data.get("lines") if isinstance(data, dict) else data)

    def restore() -> None:
        worker.print_to_stdstream = before

    worker.print_to_stdstream = note
    return restore
