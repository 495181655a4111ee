"""BF16 matrix multiplication on Intel AMX tiles, put in the place of ggml's own where the CPU has them.

ggml has AMX code for quantized weights only; BF16 goes through AVX-512, at about a third of the speed for a small
encoder (docs/benchmarks.md has the numbers). `native/amx_gemm.c` exports ggml-cpu's `llamafile_sgemm` by the same
name. The dynamic linker gives ggml's calls to the library that was loaded first with global scope, so `preload` must
run before llama-cpp-python is imported. Whether the calls really arrive is checked, never assumed.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguf_embed.types import FloatMatrix

NEEDED_CPU_FLAGS = frozenset({"amx_tile", "amx_bf16", "avx512f", "avx512bw", "avx512_bf16"})


class AmxGemm:
    """The loaded library. Off until `enable`; then every BF16 multiplication of a suitable shape goes through it."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.gguf_embed_amx_enable.argtypes = [ctypes.c_void_p, ctypes.c_bool]
        library.gguf_embed_amx_enable.restype = None
        library.gguf_embed_amx_multiply.argtypes = [ctypes.c_int64] * 3 + [ctypes.c_void_p] * 3
        library.gguf_embed_amx_multiply.restype = None
        library.gguf_embed_amx_computed.argtypes = []
        library.gguf_embed_amx_computed.restype = ctypes.c_uint64

    def enable(self, ggml_cpu: ctypes.CDLL, on: bool) -> None:
        """Switch it for the whole process. `ggml_cpu` is the library whose function takes all other shapes."""
        original = ctypes.cast(ggml_cpu.llamafile_sgemm, ctypes.c_void_p)
        self._library.gguf_embed_amx_enable(original, on)

    def multiply(self, weights: NDArray[np.uint16], tokens: FloatMatrix) -> FloatMatrix:
        """float32[n, m] from BF16 weights uint16[m, k] and tokens float32[n, k]; m and k multiples of 32.

        On the calling thread, GIL released, whether enabled or not: for measuring.
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
        """Multiplications done so far: grows only when ggml's calls arrive here."""
        return int(self._library.gguf_embed_amx_computed())


def preload() -> AmxGemm | None:
    """Map the library in front of ggml's. None where it was not compiled, or CPU or kernel have no tiles.

    Raises nothing: without it everything works, slower.
    """
    if not sys.platform.startswith("linux") or not cpu_flags() >= NEEDED_CPU_FLAGS:
        return None
    for path in sorted(Path(__file__).parent.glob("_amx_gemm*.so")):
        try:
            library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            request = library.gguf_embed_amx_request
        except (OSError, AttributeError):
            continue  # compiled for another machine, or as an empty shell
        request.restype = ctypes.c_long
        return AmxGemm(library) if request() == 0 else None
    return None


def cpu_flags() -> frozenset[str]:
    """What the CPU offers, in Linux's words; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":")[1].split() for line in lines if line.startswith("flags")), []))
