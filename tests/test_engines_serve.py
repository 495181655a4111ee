"""Which engine a real server starts: without OpenVINO's package, and with what an earlier start has measured."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server_process import Server, start_server, stop
from tests.test_exactness import row_cosines

pytestmark = pytest.mark.process

WITHOUT_OPENVINO = '''
import sys

class Hiding:
    """A finder that has no package `openvino`."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "openvino" else self.finder.find_spec(name, path, target)

    def find_distributions(self, context):
        find = getattr(self.finder, "find_distributions", lambda context: ())
        return () if context.name == "openvino" else find(context)

    def invalidate_caches(self):
        getattr(self.finder, "invalidate_caches", lambda: None)()

sys.meta_path[:] = map(Hiding, sys.meta_path)
'''
"""A `sitecustomize.py`, which Python imports when it starts."""

NOT_INSTALLED = "the package openvino is not installed"

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path) -> Iterator[Start]:
    """Starts servers with a cache of the test's own."""
    started: list[Server] = []

    def one(*flags: str | Path, **environment: str) -> Server:
        started.append(start_server(tmp_path / "cache", *flags, **environment))
        return started[-1]

    yield one
    for server in started:
        stop(server)


@pytest.mark.parametrize("flags", [(), ("--isolate",)], ids=["in the server", "isolated"])
def test_without_openvino_everything_runs_and_auto_says_so_once(start, models, tmp_path, flags):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(WITHOUT_OPENVINO)
    path = os.pathsep.join([str(tmp_path / "hidden"), *filter(None, [os.environ.get("PYTHONPATH")])])
    named = ("-m", f"one={models / 'encoder.gguf'}", "-m", f"two={models / 'decoder.gguf'}")
    server, with_openvino = start(*named, *flags, PYTHONPATH=path), start(*named, "--engine", "llama")
    texts = ["hello world", "the cat sat on the mat"]
    for model in ("one", "two"):
        found, expected = (one.embed(texts, model=model) for one in (server, with_openvino))
        assert server.get(f"/props?model={model}").json()["engine"] == "llama"
        assert row_cosines(found, expected).min() > 0.9999
    stop(server)
    printed = "\n".join([*server.banner, server.output.text()])
    assert printed.count(NOT_INSTALLED) == 1, printed
    assert "encoder.gguf runs in the engine llama, not in openvino: " + NOT_INSTALLED in printed
    assert "Traceback" not in printed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lists what a process has loaded")
def test_a_wordpiece_model_that_was_measured_before_starts_without_llama_cpp(start, models, tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO has no package for this system")
    flags = ("-m", models / "encoder.gguf", "--engine", "auto")
    first = start(*flags)
    expected = first.embed("hello world")
    stop(first)
    prefer_openvino(tmp_path / "cache" / "measured")
    second = start(*flags)
    assert row_cosines(second.embed("hello world"), expected).min() > 0.9999
    assert second.get("/props").json()["engine"] == "openvino"
    assert libraries(second) == {"openvino"}
    assert libraries(start("-m", models / "encoder.gguf", "--engine", "llama")) == {"libllama", "libggml"}


def libraries(server: Server) -> set[str]:
    """What the process has loaded of both engines."""
    loaded = Path(f"/proc/{server.process.pid}/maps").read_text()
    return {name for name in ("openvino", "libllama", "libggml") if name in loaded}


def prefer_openvino(folder: Path) -> None:
    """As if it had been the faster engine at the first start, on whichever machine this runs."""
    n_choices = 0
    for file in folder.iterdir():
        record = json.loads(file.read_text())
        if isinstance(record.get("tokens_per_s"), dict):
            assert record["tokens_per_s"].keys() == {"openvino", "llama"}
            file.write_text(json.dumps(record | {"engine": "openvino"}))
            n_choices += 1
    assert n_choices == 1
