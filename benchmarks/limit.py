"""Measures how fast this machine multiplies matrices, which limits an embedding server on it.

No single library shows this limit. ggml's BF16 product is the limit for llama.cpp itself; our kernel and torch's
(oneDNN) use AMX if the CPU has it; numpy's F32 product is available everywhere. Each is measured on all cores, and the
best run counts. The report names the rate that it divides by.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from gguf_embed.engines.llama import amx

_K, _N, _M = 1024, 1024, 256  # weights [N, K] times activations [M, K]: 2 MiB of BF16 weights, a batch of 256 tokens
_FLOPS = 2 * _K * _N * _M
_PRODUCTS_PER_RUN = 20
_RUNS = 8
_GGML_TYPE_BF16 = 30
_TORCH_TIMEOUT_S = 120.0

_TORCH_PROGRAM = f"""
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
a, b = torch.ones({_M}, {_K}, dtype=torch.bfloat16), torch.ones({_N}, {_K}, dtype=torch.bfloat16)
best = 1e9
for _ in range({_RUNS}):
    start = time.perf_counter()
    for _ in range({_PRODUCTS_PER_RUN}):
        torch.nn.functional.linear(a, b)
    best = min(best, time.perf_counter() - start)
print({_PRODUCTS_PER_RUN * _FLOPS} / best)
"""


@dataclass(frozen=True, slots=True)
class MatmulRate:
    """One library's measured matrix-multiply rate over all cores."""

    label: str
    flops_per_s: float


def measure_rates(n_cores: int, torch_python: str = sys.executable) -> tuple[MatmulRate, ...]:
    """All rates that can be measured here, fastest first; numpy's is always among them.

    Takes about a second on an idle machine. torch runs in a separate process, so that nothing of it stays loaded.
    """
    shape = f"{_M}x{_K}x{_N}"
    measured = [
        MatmulRate(f"ggml BF16 {shape}, {n_cores} x 1 thread", _ggml_bf16(n_cores)),
        MatmulRate(f"our AMX kernel, BF16 weights, F32 tokens {shape}, {n_cores} x 1 thread", _amx_bf16(n_cores)),
        MatmulRate(f"torch BF16 {shape}, {n_cores} threads", _torch_bf16(n_cores, torch_python)),
        MatmulRate(f"numpy F32 {shape}", _numpy_f32()),
    ]
    return tuple(sorted((rate for rate in measured if rate.flops_per_s), key=lambda rate: -rate.flops_per_s))


def _best_rate(run: Callable[[], object], n_products: int) -> float:
    best_s = float("inf")
    for _ in range(_RUNS):
        started_s = time.perf_counter()
        run()
        best_s = min(best_s, time.perf_counter() - started_s)
    return n_products * _FLOPS / best_s


def _numpy_f32() -> float:
    a, b = np.ones((_M, _K), np.float32), np.ones((_K, _N), np.float32)
    out = np.empty((_M, _N), np.float32)

    def run() -> None:
        for _ in range(_PRODUCTS_PER_RUN):
            np.matmul(a, b, out=out)

    return _best_rate(run, _PRODUCTS_PER_RUN)


def _torch_bf16(n_threads: int, python: str) -> float:
    """Zero if that interpreter has no torch."""
    try:
        command = [python, "-c", _TORCH_PROGRAM, str(n_threads)]
        output = subprocess.run(command, capture_output=True, text=True, timeout=_TORCH_TIMEOUT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0.0
    return float(output)


def _ggml_bf16(n_cores: int) -> float:
    """Run a single-threaded graph of BF16 products on each core, like llama.cpp. Zero without ggml."""
    ggml = _load_ggml()
    if ggml is None:
        return 0.0
    graphs = [ggml.make_products() for _ in range(n_cores)]
    try:
        with ThreadPoolExecutor(n_cores) as pool:
            return _best_rate(lambda: list(pool.map(ggml.compute, graphs)), n_cores * _PRODUCTS_PER_RUN)
    finally:
        for context, _ in graphs:
            ggml.free(context)


def _amx_bf16(n_cores: int) -> float:
    """Run products one after another on each core, with this project's AMX kernel. Zero without AMX."""
    kernel = amx.preload()
    if kernel is None:
        return 0.0
    weights, tokens = np.ones((_N, _K), np.uint16), np.ones((_M, _K), np.float32)

    def products() -> None:
        for _ in range(_PRODUCTS_PER_RUN):
            kernel.multiply(weights, tokens)

    with ThreadPoolExecutor(n_cores) as pool:
        return _best_rate(lambda: list(pool.map(lambda _: products(), range(n_cores))), n_cores * _PRODUCTS_PER_RUN)


class _InitParams(ctypes.Structure):
    """ggml.h: struct ggml_init_params."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class _Ggml:
    """The few functions of ggml.h needed for a product, from llama-cpp-python's libraries."""

    def __init__(self, folder: Path) -> None:
        pointer, int64 = ctypes.c_void_p, ctypes.c_int64
        base, cpu = (
            ctypes.CDLL(str(_library(folder, name)), mode=ctypes.RTLD_GLOBAL) for name in ("ggml-base", "ggml-cpu")
        )
        self._init = _declare(base.ggml_init, pointer, _InitParams)
        self.free = _declare(base.ggml_free, None, pointer)
        self._new_2d = _declare(base.ggml_new_tensor_2d, pointer, pointer, ctypes.c_int, int64, int64)
        self._set_zero = _declare(base.ggml_set_zero, pointer, pointer)
        self._mul_mat = _declare(base.ggml_mul_mat, pointer, pointer, pointer, pointer)
        self._new_graph = _declare(base.ggml_new_graph, pointer, pointer)
        self._expand = _declare(base.ggml_build_forward_expand, None, pointer, pointer)
        self._compute = _declare(cpu.ggml_graph_compute_with_ctx, ctypes.c_int, pointer, pointer, ctypes.c_int)
        cpu.ggml_cpu_init()

    def make_products(self) -> tuple[int, int]:
        """A context (the caller frees it) and a graph of `_PRODUCTS_PER_RUN` products in it."""
        context: int = self._init(_InitParams(64 << 20, None, False))
        weights = self._set_zero(self._new_2d(context, _GGML_TYPE_BF16, _K, _N))
        tokens = self._set_zero(self._new_2d(context, _GGML_TYPE_BF16, _K, _M))
        graph: int = self._new_graph(context)
        for _ in range(_PRODUCTS_PER_RUN):
            self._expand(graph, self._mul_mat(context, weights, tokens))
        return context, graph

    def compute(self, products: tuple[int, int]) -> None:
        """Run the graph on the calling thread alone; ctypes releases the GIL."""
        self._compute(*products, 1)


def _load_ggml() -> _Ggml | None:
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return None
    try:
        return _Ggml(Path(spec.origin).parent / "lib")
    except (OSError, AttributeError):  # other file names, or a missing function
        return None


def _library(folder: Path, name: str) -> Path:
    for file_name in (f"lib{name}.so", f"lib{name}.dylib", f"{name}.dll"):
        if (folder / file_name).is_file():
            return folder / file_name
    raise OSError(f"no {name} in {folder}")


def _declare(function: Callable[..., object], result: object, *arguments: object) -> Callable[..., int]:
    function.restype = result  # type: ignore[attr-defined]
    function.argtypes = list(arguments)  # type: ignore[attr-defined]
    return function  # type: ignore[return-value]
