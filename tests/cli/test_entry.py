"""Ctrl-C at any moment prints one line, not a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gguf_embed.cli.main import COMMANDS
from gguf_embed.cli.serve import on_signal, shutdown_summary
from gguf_embed.server.run import ShutdownOutcome

ROOT = Path(__file__).parents[2]

INTERRUPTED = """
import os, signal, sys
from gguf_embed.__main__ import main

number, sys.argv = int(sys.argv[1]), ["gguf-embed", *sys.argv[2:]]

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        global number
        number -= 1
        if number == 0:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
main()
"""
"""Ctrl-C at the import with this number, counted from the package's own first line."""

COMMANDS_WITH_WORK = [
    ["serve", "--port", "0"],
    ["convert", "some/model"],
    ["doctor", "/x"],
    ["pull", "some/model"],
    ["list"],
    ["show", "all-minilm"],
    ["rm", "x"],
    ["ps"],
    ["ingest", "x", "--to", "sqlite:/x?table=t"],
    ["search", "sqlite:/x?table=t", "query"],
    ["embed", "text"],
    ["rerank", "query", "document"],
    ["batch", "-i", __file__, "-o", "x"],
]


@pytest.mark.process
@pytest.mark.parametrize("number", [1, 3, 40, 90])
@pytest.mark.parametrize("words", COMMANDS_WITH_WORK, ids=lambda words: words[0])
def test_ctrl_c_during_imports_prints_one_word(words, number):
    assert {words[0] for words in COMMANDS_WITH_WORK} == set(COMMANDS)
    program = [sys.executable, "-c", INTERRUPTED, str(number), *words]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr.strip()) == (130, "", "stopped")


ENDING = """
import atexit, os, signal, sys
from gguf_embed.__main__ import main

atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
sys.argv = ["gguf-embed", "list", "--catalog"]
main()
"""


@pytest.mark.process
def test_ctrl_c_while_the_process_ends_prints_one_word():
    ended = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr.strip()) == (130, "stopped")
    assert "all-MiniLM-L6-v2" in ended.stdout


@pytest.mark.process
def test_ctrl_c_stays_ignored_under_nohup():
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    ended = subprocess.run([sys.executable, "-c", ignoring + ENDING], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr.strip()) == (0, "")


def test_the_package_and_its_entry_import_nothing_before_ctrl_c_is_handled():
    names = "import sys; before = set(sys.modules); import gguf_embed.__main__; print(set(sys.modules) - before)"
    found = subprocess.run([sys.executable, "-S", "-c", names], capture_output=True, text=True, cwd=ROOT)
    assert eval(found.stdout) == {"gguf_embed", "gguf_embed.__main__", "__future__"}


@pytest.mark.parametrize(
    ("n_running", "again", "start", "count"),
    [
        (1, False, "stopping: ", "1 request "),
        (3, False, "stopping: ", "3 requests "),
        (1, True, "stopped: ", "1 request "),
        (0, True, "stopped: ", "0 requests "),
    ],
)
def test_a_signal_prints_the_number_of_running_requests(n_running, again, start, count):
    (line,) = on_signal(n_running, again)
    assert line.startswith(start)
    assert count in line


def test_the_first_signal_prints_nothing_without_running_requests():
    assert on_signal(0, False) == []


@pytest.mark.parametrize(
    ("outcome", "had_requests", "line"),
    [
        (ShutdownOutcome(), False, "stopped"),
        (ShutdownOutcome(), True, "stopped: all in-flight requests completed"),
        (ShutdownOutcome(n_not_read=1), False, "stopped: 1 reply could not be delivered, because nobody reads"),
    ],
)
def test_the_last_line_says_what_became_of_the_requests(outcome, had_requests, line):
    assert shutdown_summary(outcome, had_requests) == line
