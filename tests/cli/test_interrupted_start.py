"""Ctrl-C while `serve` starts: it ends at once, and nothing half written stays behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests.server_process import clean_environment

pytestmark = pytest.mark.process

START = """
import sys, time
from pathlib import Path
from gguf_embed.__main__ import main
{patch}

def forever(*arguments, **named):
    for path in arguments:
        if isinstance(path, Path):
            path.write_bytes(b"half of it")
    print("busy", flush=True)
    time.sleep(1000)

{where} = forever
sys.argv = ["gguf-embed", "serve", "--port", "0", *sys.argv[1:]]
main()
"""
"""A server whose start never ends, because one of its steps takes forever."""

STEPS = {
    "converting": ("import gguf_embed.convert.convert as convert", "convert._write"),
    "loading": ("from gguf_embed.model_pool.loader import FileLoader", "FileLoader.load"),
    "checking": ("import gguf_embed.model_pool.trial as trial", "trial._watch"),
}


def interrupted(step, cache_dir, *flags):
    """Ctrl-C while it is at this step: the exit code, what it wrote on standard error, and the seconds it took."""
    patch, where = STEPS[step]
    program = [sys.executable, "-c", START.format(patch=patch, where=where), *map(str, flags)]
    server = subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment(cache_dir)
    )
    assert server.stdout is not None
    while server.stdout.readline().strip() != "busy":
        assert server.poll() is None
    began_s = time.monotonic()
    server.send_signal(signal.SIGINT)
    _, err = server.communicate(timeout=60)
    return server.returncode, err, time.monotonic() - began_s


@pytest.mark.parametrize("step", ["loading", "checking"])
def test_a_start_ends_at_once_while_it_is(tmp_path, models, step):
    code, err, seconds = interrupted(step, tmp_path, "-m", models / "encoder.gguf")
    assert (code, err.splitlines()[-1]) == (130, "stopped")
    assert seconds < 5  # on a busy machine; the step itself takes 1,000


def test_a_conversion_leaves_nothing_half_written(tmp_path, default_model):
    code, err, seconds = interrupted("converting", tmp_path)
    assert (code, err.splitlines()[-1]) == (130, "stopped")
    assert seconds < 5
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
