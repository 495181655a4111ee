"""The only module that imports OpenVINO, and how graphs are compiled for the CPU."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from gguf_embed.engines.cpu_count import n_in_affinity_mask

# Importing OpenVINO also imports its model converter, which reports this to Google Analytics if the package
# openvino-telemetry is installed. The converter is not needed; OpenVINO does without it if it cannot be imported.
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402
from openvino import opset13  # noqa: E402

op = opset13
"""OpenVINO's operations."""

Tensor = ov.Tensor
"""What a graph reads and writes: numbers that it shares with an array."""

Node = Any
"""An operation of a graph."""

CompiledGraph = Any

FULL, REDUCED = "f32", "bf16"
"""The precisions that matrices can be multiplied in."""


KEPT_KERNELS = 64
"""How many kernels of each kind a stream keeps for shapes that it has seen; OpenVINO's default is 5,000. Each number of
rows needs three or four. With 64, a server of mixed texts is as fast as with 256 and 5,000; with 48 it is 2 % slower
and with 32 5 %."""


@cache
def core() -> Any:
    """OpenVINO's core, one per process. Any thread."""
    return ov.Core()


def computes_bf16() -> bool:
    """Whether the CPU multiplies BF16 in hardware: AVX-512 BF16, AMX, or Arm's BF16."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def model_of(outputs: list[Node], inputs: list[Node], name: str) -> Any:
    return ov.Model(outputs, inputs, name)


def float_constants(model: Any) -> list[Node]:
    """Its constants in float32 and float16, which all matrices are."""
    constants = (node for node in model.get_ops() if node.get_type_name() == "Constant")
    return [node for node in constants if node.get_output_element_type(0).get_type_name() in ("f32", "f16")]


def keep_float16(convert: Node) -> Node:
    """Mark a conversion from float16 as part of the weights: OpenVINO then leaves them as they are when it compiles."""
    convert.get_rt_info()["decompression_0"] = ""
    return convert


def float32_constant(values: np.ndarray) -> Node:
    """A constant to compute with in float32. In memory, one in float16 stays so."""
    node = constant(values)
    if values.dtype == np.float32:
        return node
    return keep_float16(op.convert(node, "f32"))


def constant(values: Any) -> Node:
    """A constant. It may share the array's memory, which therefore must not change."""
    array = np.asarray(values)
    if array.ndim == 0:
        return op.constant(array)
    if not (array.flags.c_contiguous and array.flags.writeable):  # OpenVINO refuses to share read-only memory
        array = array.copy()
    return op.constant(array, shared_memory=True)


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
        "ENABLE_CPU_PINNING": pins_threads(n_streams, n_threads, n_in_affinity_mask()),
        "CPU_RUNTIME_CACHE_CAPACITY": KEPT_KERNELS,
    }
    return core().compile_model(model, "CPU", settings)


def pins_threads(n_streams: int, n_threads: int, n_usable: int) -> bool:
    """Whether each thread stays on a processor: only if one batch uses all `n_usable` processors.

    Otherwise Linux often starts both threads of a short batch on one processor, so that it takes twice as long. Several
    batches at once, and fewer threads, are left to move, because other processes and models use the same processors.
    """
    return n_streams == 1 and 1 < n_threads == n_usable
