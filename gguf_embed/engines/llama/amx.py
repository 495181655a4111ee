"""BF16 matrix multiplication on Intel AMX tiles, which replaces ggml's own on CPUs that have them.

ggml has AMX code for quantized weights only; BF16 goes through AVX-512, at about a third of the speed for a small
encoder (docs/benchmarks.md has the numbers). `native/amx_gemm.c` exports a function with the name of ggml-cpu's
`llamafile_sgemm`. The dynamic linker resolves ggml's calls to the library that was loaded first with global scope, so
`preload` must run before llama-cpp-python is imported. A counter shows whether the calls really arrive.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguf_embed.engines.cpu_info import cpu_flags
from gguf_embed.types import FloatMatrix

NEEDED_CPU_FLAGS = frozenset({"amx_tile", "amx_bf16", "avx512f", "avx512bw", "avx512_bf16"})


class AmxGemm:
    """The loaded library. Once enabled, it computes every BF16 multiplication of a suitable shape."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.gguf_embed_amx_enable.argtypes = [ctypes.c_void_p, ctypes.c_bool]
        library.gguf_embed_amx_enable.restype = None
        library.gguf_embed_amx_multiply.argtypes = [ctypes.c_int64] * 3 + [ctypes.c_void_p] * 3
        library.gguf_embed_amx_multiply.restype = None
        library.gguf_embed_amx_computed.argtypes = []
        library.gguf_embed_amx_computed.restype = ctypes.c_uint64

    def enable(self, ggml_cpu: ctypes.CDLL, on: bool) -> None:
        """Switch it on or off for the whole process. `ggml_cpu` is the library that computes all other shapes."""
        original = ctypes.cast(ggml_cpu.llamafile_sgemm, ctypes.c_void_p)
        self._library.gguf_embed_amx_enable(original, on)

    def multiply(self, weights: NDArray[np.uint16], tokens: FloatMatrix) -> FloatMatrix:
        """float32[n, m] from BF16 weights uint16[m, k] and tokens float32[n, k]; m and k must be multiples of 32.

        For measuring: runs on the calling thread with the GIL released, even if the library is not enabled.
        """
        (m, k), n = weights.shape, len(tokens)
        sums = np.empty((n, m), np.float32)
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (weights, tokens, sums))
        if m % 32 or k % 32:
            raise ValueError(f"shapes {weights.shape} and {tokens.shape} do not suit the tiles")
        self._library.gguf_embed_amx_multiply(m, n, k, *pointers)
        return sums

    @property
    def n_computed(self) -> int:
        """Multiplications so far. Grows only if ggml's calls arrive here."""
        return int(self._library.gguf_embed_amx_computed())


def preload() -> AmxGemm | None:
    """Load the library before ggml's. None if it was not compiled, or the CPU or the kernel does not support tiles.

    Raises nothing, because everything works without it, only slower.
    """
    if not sys.platform.startswith("linux") or not cpu_flags() >= NEEDED_CPU_FLAGS:
        return None
    for path in sorted(Path(__file__).parent.glob("_amx_gemm*.so")):
        try:
            library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            request = library.gguf_embed_amx_request
        except (OSError, AttributeError):
            continue  # compiled for another machine, or as an empty stub
        request.restype = ctypes.c_long
        return AmxGemm(library) if request() == 0 else None
    return None
