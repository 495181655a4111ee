"""Ctrl-C at any moment is a word, not a traceback."""

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


@pytest.mark.parametrize("module", ["gguf_embed.cli.main", "numpy", "click", "aiohttp"])
def test_ctrl_c_while_modules_are_imported_is_one_word(module):
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED, module], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr.strip()) == (130, "", "stopped")


@pytest.mark.parametrize(
    ("n_running", "again", "lines"),
    [
        (0, False, []),
        (1, False, ["stopping: 1 request is being answered, Ctrl-C again to stop now"]),
        (3, False, ["stopping: 3 requests are being answered, Ctrl-C again to stop now"]),
        (1, True, ["stopped at once: 1 request got no answer"]),
        (0, True, ["stopped at once: 0 requests got no answer"]),
    ],
)
def test_a_signal_is_answered_in_words(n_running, again, lines):
    assert on_signal(n_running, again) == lines
