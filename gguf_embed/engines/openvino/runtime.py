"""The only module that imports OpenVINO, and how graphs are compiled for the CPU."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

# Importing OpenVINO also imports its model converter, which reports this to Google Analytics if the package
# openvino-telemetry is installed. The converter is not needed; OpenVINO does without it if it cannot be imported.
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402
from openvino import opset13  # noqa: E402

op = opset13
"""OpenVINO's operations."""

Node = Any
"""An operation of a graph."""

CompiledGraph = Any

FULL, REDUCED = "f32", "bf16"
"""The precisions that matrices can be multiplied in."""


@cache
def core() -> Any:
    """OpenVINO's core, one per process. Any thread."""
    return ov.Core()


def computes_bf16() -> bool:
    """Whether the CPU multiplies BF16 in hardware: AVX-512 BF16, AMX, or Arm's BF16."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def model_of(outputs: list[Node], inputs: list[Node], name: str) -> Any:
    return ov.Model(outputs, inputs, name)


def read_ir(xml: bytes, weights: Any) -> Any:
    return core().read_model(xml, ov.Tensor(weights))


def serialize(model: Any, xml: str, weights: str) -> None:
    ov.serialize(model, xml, weights)


def kernel_name(graph: CompiledGraph) -> str:
    """The kernel that multiplies most matrices, e.g. "brgemm_avx512_amx_bf16"; "" before the graph has run once."""
    kernels: Counter[str] = Counter()
    for node in graph.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        if "layerType" in facts and facts["layerType"].astype(str) in ("FullyConnected", "MatMul"):
            kernels[facts["primitiveType"].astype(str)] += 1
    name = kernels.most_common(1)[0][0] if kernels else ""
    return "" if name.startswith("undef") else name


def compile_graph(model: Any, precision: str, n_streams: int, n_threads: int) -> CompiledGraph:
    """Compile for `n_streams` batches at once, which share `n_threads`. Any thread; about 0.2 s for 22M weights."""
    settings: Mapping[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": str(n_streams),
        "INFERENCE_NUM_THREADS": n_threads,
        "ENABLE_CPU_PINNING": False,  # other processes and models use the same processors
    }
    return core().compile_model(model, "CPU", settings)
