"""A program that measures a library's matrix product, in its own process so that nothing of the library stays loaded.

`python -P products.py LIBRARY N_THREADS SHAPES`: prints a JSON object from precision to seconds per product, one number
for each of the SHAPES (JSON: [[tokens, columns, rows], …]). It must not import this project, because another
interpreter may run it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

PAIRS = 4  # a run multiplies with [columns, rows], then back with [rows, columns], this many times
RUNS = 8  # at least; the best one counts
MIN_S = 0.25  # of all runs of one shape together

Shape = Sequence[int]


def seconds_per_product(run: Callable[[], object], n_products: int) -> float:
    """The time of the best run, divided by its number of products. The first run warms up."""
    run()
    best_s, total_s, n_runs = float("inf"), 0.0, 0
    while n_runs < RUNS or total_s < MIN_S:
        started_s = time.perf_counter()
        run()
        elapsed_s = time.perf_counter() - started_s
        best_s, total_s, n_runs = min(best_s, elapsed_s), total_s + elapsed_s, n_runs + 1
    return best_s / n_products


def measure_torch(n_threads: int, shape: Shape) -> dict[str, float]:
    import torch  # type: ignore[import-not-found, unused-ignore]

    torch.set_num_threads(n_threads)
    tokens, columns, rows = shape

    x, up, down = (
        torch.full(size, 0.01, dtype=torch.bfloat16) for size in ((tokens, columns), (rows, columns), (columns, rows))
    )

    def run() -> None:
        with torch.inference_mode():
            y = x
            for _ in range(PAIRS):
                y = torch.nn.functional.linear(torch.nn.functional.linear(y, up), down)

    return {"BF16": seconds_per_product(run, 2 * PAIRS)}


def measure_openvino(n_threads: int, shape: Shape) -> dict[str, float]:
    import numpy as np
    import openvino as ov
    from openvino import opset13 as op

    tokens, columns, rows = shape
    core = ov.Core()

    def measure(precision: str) -> float:
        x = op.parameter([tokens, columns], np.float32)
        up, down = (np.full(size, 0.01, np.float32) for size in ((rows, columns), (columns, rows)))
        y = x
        for _ in range(PAIRS):
            y = op.matmul(op.matmul(y, op.constant(up), False, True), op.constant(down), False, True)
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": n_threads,
            "ENABLE_CPU_PINNING": False,
        }
        request = core.compile_model(ov.Model([y], [x], "products"), "CPU", settings).create_infer_request()
        request.set_input_tensor(ov.Tensor(np.full((tokens, columns), 0.01, np.float32)))
        return seconds_per_product(request.infer, 2 * PAIRS)

    measured = {"F32": measure("f32")}
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with suppress(RuntimeError):  # ONEDNN_MAX_CPU_ISA takes it away without this property knowing
            measured["BF16"] = measure("bf16")
    return measured


LIBRARIES: dict[str, Callable[[int, Shape], dict[str, float]]] = {
    "torch": measure_torch,
    "OpenVINO": measure_openvino,
}


def main(library: str, n_threads: str, shapes: str) -> None:
    measured = [LIBRARIES[library](int(n_threads), shape) for shape in json.loads(shapes)]
    print(json.dumps({precision: [times[precision] for times in measured] for precision in measured[0]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
