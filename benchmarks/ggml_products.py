"""Measures the BF16 products of ggml and of our own kernel, one thread on each core, as llama.cpp computes batches."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.cost import Shape
from benchmarks.products import seconds_per_product
from gguf_embed.engines.llama import amx

_PRODUCTS_PER_RUN = 8
_GGML_TYPE_BF16 = 30
_TILE = 32  # our kernel multiplies only shapes that are multiples of this


def ggml_seconds(n_cores: int, n_tokens: int, shapes: Sequence[Shape]) -> list[float]:
    """Seconds per product of each shape, all cores together. Empty without ggml."""
    ggml = _load_ggml()
    if ggml is None:
        return []
    return [_measure_ggml(ggml, n_cores, n_tokens, shape) for shape in shapes]


def _measure_ggml(ggml: _Ggml, n_cores: int, n_tokens: int, shape: Shape) -> float:
    graphs = [ggml.make_products(n_tokens, shape) for _ in range(n_cores)]
    try:
        with ThreadPoolExecutor(n_cores) as pool:
            return seconds_per_product(lambda: list(pool.map(ggml.compute, graphs)), n_cores * _PRODUCTS_PER_RUN)
    finally:
        for context, _ in graphs:
            ggml.free(context)


def amx_seconds(n_cores: int, n_tokens: int, shapes: Sequence[Shape]) -> list[float]:
    """The same with this project's AMX kernel. Empty without AMX, or if a shape does not suit the tiles."""
    kernel = amx.preload()
    if kernel is None or any(size % _TILE for shape in shapes for size in shape):
        return []
    return [_measure_amx(kernel, n_cores, n_tokens, shape) for shape in shapes]


def _measure_amx(kernel: amx.AmxGemm, n_cores: int, n_tokens: int, shape: Shape) -> float:
    columns, rows = shape
    weights, tokens = np.ones((rows, columns), np.uint16), np.ones((n_tokens, columns), np.float32)

    def products(_: int) -> None:
        for _ in range(_PRODUCTS_PER_RUN):
            kernel.multiply(weights, tokens)

    with ThreadPoolExecutor(n_cores) as pool:
        return seconds_per_product(lambda: list(pool.map(products, range(n_cores))), n_cores * _PRODUCTS_PER_RUN)


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

    def make_products(self, n_tokens: int, shape: Shape) -> tuple[int, int]:
        """A context (the caller frees it) and a graph of `_PRODUCTS_PER_RUN` products in it."""
        columns, rows = shape
        n_bytes = 2 * columns * (rows + n_tokens) + (_PRODUCTS_PER_RUN + 1) * 4 * rows * n_tokens
        context: int = self._init(_InitParams(n_bytes + (16 << 20), None, False))
        weights = self._set_zero(self._new_2d(context, _GGML_TYPE_BF16, columns, rows))
        tokens = self._set_zero(self._new_2d(context, _GGML_TYPE_BF16, columns, n_tokens))
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
