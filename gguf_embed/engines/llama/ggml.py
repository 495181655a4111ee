"""ggml's own libraries, as llama-cpp-python has loaded them, for what it does not bind: devices, addresses."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from gguf_embed.engines.llama.memory_pages import loaded_file
from gguf_embed.errors import ConfigError


def library(stem: str) -> ctypes.CDLL:
    """One of the libraries that llama-cpp-python has loaded, for what it does not bind.

    A wheel holds each library three times, under three names. Opening another name would load a second copy, whose
    tables nobody has filled: on Linux the system is asked which file is the loaded one.
    """
    llama_cpp = find_spec("llama_cpp")
    assert llama_cpp is not None
    assert llama_cpp.origin is not None
    folder = Path(llama_cpp.origin).parent / "lib"
    return ctypes.CDLL(str(loaded_file(folder, stem) or next(folder.glob(f"{stem}.*"))))


def find_devices(names: Sequence[str]) -> ctypes.Array[ctypes.c_void_p]:
    """A NULL-terminated list from ggml's registry; "none" names no device. Raises `ConfigError` for another name."""
    known = [name for name in device_names() if name != "CPU"]  # llama.cpp takes no CPU for a device to offload to
    missing = [name for name in names if name != "none" and name not in known]
    if missing:
        raise ConfigError(f"--device {missing[0]}: this build of llama.cpp has {', '.join([*known, 'none'])}")
    by_name = library("libggml").ggml_backend_dev_by_name
    by_name.argtypes, by_name.restype = [ctypes.c_char_p], ctypes.c_void_p
    found = [by_name(name.encode()) for name in names if name != "none"]
    return (ctypes.c_void_p * (len(found) + 1))(*found, None)


def device_names() -> list[str]:
    """ggml's devices in this build, "CPU" among them."""
    ggml = library("libggml")
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.argtypes, ggml.ggml_backend_dev_get.restype = [ctypes.c_size_t], ctypes.c_void_p
    name_of = library("libggml-base").ggml_backend_dev_name
    name_of.argtypes, name_of.restype = [ctypes.c_void_p], ctypes.c_char_p
    devices = [ggml.ggml_backend_dev_get(i) for i in range(ggml.ggml_backend_dev_count())]
    return [name_of(device).decode() for device in devices]
