"""The libraries that llama-cpp-python carries are loaded once: a second copy computes with empty tables."""

import subprocess
import sys

import pytest

PROGRAM = """
from collections import defaultdict
from pathlib import Path
from gguf_embed.engines.llama import ggml
from gguf_embed.engines.llama import api

api.use_amx_gemm(False)
assert "CPU" in ggml.device_names()
files = defaultdict(set)
for line in Path("/proc/self/maps").read_text().splitlines():
    name = Path(line.split()[-1]).name
    if name.startswith(("libggml", "libllama")):
        files[name.split(".so")[0]].add(line.split()[-1])
print(sorted((stem, len(paths)) for stem, paths in files.items()))
"""


@pytest.mark.process
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_library_is_loaded_twice():
    # a process of its own: what other tests have loaded does not count
    output = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    assert output.strip() == str([(stem, 1) for stem in ("libggml", "libggml-base", "libggml-cpu", "libllama")])
