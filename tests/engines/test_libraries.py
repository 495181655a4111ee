"""The libraries that llama-cpp-python carries are loaded once: a second copy computes with empty tables."""

import sys
from collections import defaultdict
from pathlib import Path

import pytest

from gguf_embed.engines import _llama_api as api


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_library_is_loaded_twice():
    assert "CPU" in api.device_names()
    api.use_amx_gemm(False)
    files = defaultdict(set)
    for line in Path("/proc/self/maps").read_text().splitlines():
        name = Path(line.split()[-1]).name
        if name.startswith(("libggml", "libllama")):
            files[name.split(".so")[0]].add(line.split()[-1])
    assert {stem: len(paths) for stem, paths in files.items()} == dict.fromkeys(files, 1)
    assert "libggml-cpu" in files
