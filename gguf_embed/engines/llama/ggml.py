"""Direct access to the ggml libraries that llama-cpp-python has loaded, for functions that it does not bind."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from gguf_embed.engines.llama.memory_pages import loaded_file
from gguf_embed.errors import ConfigError


def library(stem: str) -> ctypes.CDLL:
    """One of the libraries that llama-cpp-python has loaded.

    A wheel contains each library three times, under three names. Opening it by another name would load a second,
    uninitialized copy, so on Linux this asks the system which file is loaded.
    """
    llama_cpp = find_spec("llama_cpp")
    assert llama_cpp is not None
    assert llama_cpp.origin is not None
    folder = Path(llama_cpp.origin).parent / "lib"
    return ctypes.CDLL(str(loaded_file(folder, stem) or next(folder.glob(f"{stem}.*"))))


def find_devices(names: Sequence[str]) -> ctypes.Array[ctypes.c_void_p]:
    """A NULL-terminated list of ggml devices; "none" stands for no device. Raises `ConfigError` for an unknown name."""
    known = [name for name in device_names() if name != "CPU"]  # llama.cpp does not offload to the CPU
    missing = [name for name in names if name != "none" and name not in known]
    if missing:
        raise ConfigError(f"there is no device {missing[0]}: this build of llama.cpp has {', '.join([*known, 'none'])}")
    by_name = library("libggml").ggml_backend_dev_by_name
    by_name.argtypes, by_name.restype = [ctypes.c_char_p], ctypes.c_void_p
    found = [by_name(name.encode()) for name in names if name != "none"]
    return (ctypes.c_void_p * (len(found) + 1))(*found, None)


def device_names() -> list[str]:
    """ggml's devices in this build, including "CPU"."""
    ggml = library("libggml")
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.argtypes, ggml.ggml_backend_dev_get.restype = [ctypes.c_size_t], ctypes.c_void_p
    name_of = library("libggml-base").ggml_backend_dev_name
    name_of.argtypes, name_of.restype = [ctypes.c_void_p], ctypes.c_char_p
    devices = [ggml.ggml_backend_dev_get(i) for i in range(ggml.ggml_backend_dev_count())]
    return [name_of(device).decode() for device in devices]
