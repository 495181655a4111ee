"""What pip does in silence is shown: a line now and then, with the files compiled so far."""

from __future__ import annotations

import importlib.util
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.process

SCRIPT = Path(__file__).parent.parent / ".ci" / "setup" / "patiently.py"
COMPILES = """
import os, pathlib, sys
build = pathlib.Path(os.environ["SKBUILD_BUILD_DIR"])
(build / "CMakeFiles").mkdir(parents=True)
rules = [f"build CMakeFiles/{name}.o: CXX {name}.cpp\\n" for name in "abc"]
(build / "build.ninja").write_text("".join(rules) + "build all: phony\\n")
for name in "ab":
    (build / f"CMakeFiles/{name}.o").touch()
sys.stdin.read()
print(build)
"""
WAITS = "import time; print('ready', flush=True); time.sleep(60)"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("patiently", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


patiently = load_script()


def start(program: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), sys.executable, "-c", program]
    environ = {name: value for name, value in os.environ.items() if name != "SKBUILD_BUILD_DIR"}
    return subprocess.Popen(command, env=environ, text=True, **options)  # type: ignore[call-overload]


def test_a_terminal_sees_how_many_files_are_compiled_in_one_line():
    ours, theirs = pty.openpty()
    with start(COMPILES, stdin=subprocess.PIPE, stdout=theirs) as child:
        os.close(theirs)
        said = b""
        while b"2 of 3" not in said:
            said += os.read(ours, 1024)
        assert child.stdin is not None
        child.stdin.close()
        # Linux reports the other end's close as an error
        try:
            while some := os.read(ours, 1024):
                said += some
        except OSError:
            pass
    os.close(ours)
    assert re.search(r"  \.\.\. \d+ s: 2 of 3 files compiled\r", said.decode())
    assert not re.search(r"files compiled *\r?\n", said.decode())
    assert child.returncode == 0
    (folder,) = re.findall(r"\S+gguf-embed-build-\S+", said.decode())
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("n_done", "elapsed_s", "said"),
    [
        (0, 50, "still running"),
        (4, 50, "4 of 84 files compiled"),
        (28, 100, "28 of 84 files compiled, about 4 minutes left"),
        (80, 400, "80 of 84 files compiled"),
    ],
)
def test_the_rest_is_told_at_the_speed_so_far(tmp_path, n_done, elapsed_s, said):
    rules = tmp_path / "build.ninja"
    rules.write_text("".join(f"build {number}.o: CXX {number}.cpp\n" for number in range(84)))
    for number in range(n_done):
        (tmp_path / f"{number}.o").touch()
    assert patiently.how_far(tmp_path, rules.stat().st_mtime + elapsed_s) == said


def test_elsewhere_only_the_commands_own_words_come_before_half_a_minute():
    child = start(COMPILES, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    said_early, _, _ = select.select([child.stdout], [], [], 2)  # real time: a terminal's line would come after 1 s
    assert said_early == []
    said, _ = child.communicate(timeout=30)
    assert re.fullmatch(r"\S+gguf-embed-build-\S+\n", said)


def test_the_status_is_the_commands():
    assert start("raise SystemExit(3)").wait(30) == 3
    assert start("import os; os.kill(os.getpid(), 9)").wait(30) == 128 + 9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_stops_it_stops_the_command(number):
    """Ctrl-C goes to all of them, the others to the one that is named."""
    child = start(WAITS, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    (os.killpg if number == signal.SIGINT else os.kill)(child.pid, number)
    said, _ = child.communicate(timeout=30)  # ends only when nobody holds the pipe
    assert (child.returncode, said) == (128 + number, "")
