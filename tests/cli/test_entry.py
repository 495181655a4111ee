"""Ctrl-C at any moment prints one line, not a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gguf_embed.cli.serve import on_signal

INTERRUPTED = """
import runpy, sys

interrupted, sys.argv = sys.argv[1], ["gguf-embed", "serve", "--port", "0"]

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == interrupted:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
runpy.run_module("gguf_embed", run_name="__main__")
"""


@pytest.mark.process
@pytest.mark.parametrize("module", ["gguf_embed.cli.main", "numpy", "click", "aiohttp"])
def test_ctrl_c_during_imports_prints_one_word(module):
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED, module], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr.strip()) == (130, "", "stopped")


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
