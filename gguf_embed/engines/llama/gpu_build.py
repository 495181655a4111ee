"""Whether llama.cpp can use a GPU here, found from its files where possible: importing it takes 25 ms and 5 MB."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from gguf_embed.engines.llama.bindings import PACKAGE

_SHARED_BUILD = {"ggml-base", "ggml-cpu"}
"""Libraries of a build in which every backend is a file of its own."""

_WITHOUT_GPU = ("ggml-base", "ggml-cpu", "ggml-blas", "ggml-rpc")
"""Beginnings of libraries that compute on CPUs, or, over a network, on machines that nothing here can name."""

_OTHER_LIBRARIES = ("LLAMA_CPP_LIB_PATH", "GGML_BACKEND_PATH")
"""Variables that make llama-cpp-python and ggml load files from elsewhere."""


def supports_gpu() -> bool:
    """Whether llama.cpp can put weights on a GPU of this machine. Imports it only if its build may have a GPU."""
    if not may_have_gpu():
        return False
    from gguf_embed.engines.llama import api

    return api.supports_gpu()


def may_have_gpu() -> bool:
    """Whether the installed llama-cpp-python may have a GPU backend, as far as the names of its libraries tell.

    True in case of doubt, and for a build whose backends are all in one library.
    """
    if any(os.environ.get(name) for name in _OTHER_LIBRARIES):
        return True
    try:
        spec = find_spec(PACKAGE)
    except ValueError:  # another thread is importing it right now
        return True
    if spec is None or spec.submodule_search_locations is None:
        return False
    return any(_folder_may_have_gpu(Path(place) / "lib") for place in spec.submodule_search_locations)


def _folder_may_have_gpu(folder: Path) -> bool:
    names = {file.name.removeprefix("lib").split(".")[0] for file in folder.glob("*ggml*")}
    if not names >= _SHARED_BUILD:
        return True
    return any(name.startswith("ggml-") and not name.startswith(_WITHOUT_GPU) for name in names)
