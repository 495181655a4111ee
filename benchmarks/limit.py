"""Measures how fast this machine multiplies the model's matrices, which limits an embedding server on it.

No single library shows this limit, so each is measured on all cores with the model's own shapes, and the report names
the one that it divides by: numpy and OpenVINO in F32, ggml in BF16 (the limit for llama.cpp itself), and OpenVINO, our
kernel and torch in BF16, which use AMX or AVX-512 BF16 if the CPU has it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.cost import Shape
from benchmarks.ggml_products import amx_seconds, ggml_seconds
from benchmarks.products import PAIRS, seconds_per_product

N_TOKENS = 512
"""Tokens in one product: about a batch. OpenVINO's and our rates are within 12 % of this for 256 and 1,024."""

_PROGRAM = Path(__file__).parent / "products.py"
_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class MatmulRate:
    """One library's measured matrix-multiply rate over all cores."""

    name: str  # library and precision
    detail: str  # threads and shapes
    flops_per_s: float


def measure_rates(
    n_cores: int, matrices: Mapping[Shape, int], torch_python: str = sys.executable
) -> tuple[MatmulRate, ...]:
    """All rates that can be measured here, fastest first; numpy's is always among them.

    `matrices` is the number of matrices of each shape in the model. Takes some seconds on an idle machine.
    """
    shapes = tuple(matrices)
    shared, split = f"{n_cores} threads", f"{n_cores} x 1 thread"
    measured = {
        "numpy F32": (shared, [_numpy_f32(shape) for shape in shapes]),
        "ggml BF16": (split, ggml_seconds(n_cores, N_TOKENS, shapes)),
        "our AMX kernel": (split, amx_seconds(n_cores, N_TOKENS, shapes)),
    }
    programs = {"torch": torch_python, **({"OpenVINO": sys.executable} if find_spec("openvino") else {})}
    for library, python in programs.items():
        for precision, seconds in _run_program(library, python, n_cores, shapes).items():
            measured[f"{library} {precision}"] = (shared, seconds)
    sizes = ", ".join(f"{columns}x{rows}" for columns, rows in shapes)
    rates = [
        MatmulRate(name, f"{threads}, {N_TOKENS} tokens x {sizes}", combine(matrices, seconds))
        for name, (threads, seconds) in measured.items()
        if seconds
    ]
    return tuple(sorted(rates, key=lambda rate: -rate.flops_per_s))


def combine(matrices: Mapping[Shape, int], seconds: list[float]) -> float:
    """Operations per second over a model's matrices, from the seconds of one product of each shape."""
    flops = sum(2 * N_TOKENS * columns * rows * count for (columns, rows), count in matrices.items())
    return flops / sum(count * time_s for count, time_s in zip(matrices.values(), seconds, strict=True))


def _numpy_f32(shape: Shape) -> float:
    columns, rows = shape
    x, up, down = (np.full(size, 0.01, np.float32) for size in ((N_TOKENS, columns), (columns, rows), (rows, columns)))
    wide, out = np.empty((N_TOKENS, rows), np.float32), np.empty((N_TOKENS, columns), np.float32)

    def run() -> None:
        for _ in range(PAIRS):
            np.matmul(x, up, out=wide)
            np.matmul(wide, down, out=out)

    return seconds_per_product(run, 2 * PAIRS)


def _run_program(library: str, python: str, n_threads: int, shapes: tuple[Shape, ...]) -> dict[str, list[float]]:
    """Seconds of one product of each shape, by precision. Empty if that interpreter does not have the library."""
    sizes = json.dumps([(N_TOKENS, *shape) for shape in shapes])
    command = [python, "-P", str(_PROGRAM), library, str(n_threads), sizes]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    measured: dict[str, list[float]] = json.loads(output)
    return measured
