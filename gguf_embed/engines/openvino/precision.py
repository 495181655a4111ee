"""BF16 where it is fast and harmless: matrices, attention and activations, while sums and norms stay in float32.

OpenVINO's own BF16 mode also adds, normalizes and pools in BF16. On all-MiniLM-L6-v2 the cosine to float32 is then
0.99989, with sums in float32 0.99995; on a tiny Qwen2 it is 0.9979 and 0.9993. This costs no time. RMS norms are an
exception, because OpenVINO fuses their operations into one, which loses the mark.

A product in BF16 is also written in BF16, unless OpenVINO fuses it with an operation that is marked; see
`LinearPieces.add_linear`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gguf_embed.engines.openvino.failures import reason_of
from gguf_embed.engines.openvino.runtime import Node, float_constants, keep_float16, op, read_ir, serialize
from gguf_embed.errors import EngineFailure
from gguf_embed.gguf_file.unfinished import unfinished

_EXACT_TYPES = frozenset(
    {"Add", "Subtract", "Multiply", "Divide", "MVN", "Power", "ReduceMean", "Sqrt", "Tanh", "Cos", "Sin", "Abs"}
)
"""Types of operations that compute in float32 unless they are marked otherwise."""

_LAYER = re.compile(r'<layer id="\d+" name="([^"]*)" type="(\w+)" version="\w+">')
_MARK = '<rt_info><attribute name="precise" version="0"/></rt_info>'


@dataclass(frozen=True, slots=True)
class Marks:
    """Operations of a graph that do not compute in the precision of their type when it is compiled for BF16."""

    exact: list[Node] = field(default_factory=list)  # computed in float32
    unrounded: list[Node] = field(default_factory=list)  # the same, fused with a product, whose result it writes
    rounded: list[Node] = field(default_factory=list)  # computed in BF16; only products read it, which round it anyway


def keep_exact(model: Any, marks: Marks) -> Any:
    """The same model, in which sums, norms and what is marked keep float32 when it is compiled for BF16.

    OpenVINO's Python API cannot set this attribute, but its file format can: so the graph goes through XML, without its
    weights, which are put back. Takes about 20 ms. Changes `model`.
    Raises `EngineFailure`, and leaves `model` as it is, if no folder has room for temporary files.
    """
    exact, rounded = _names([*marks.exact, *marks.unrounded]), _names(marks.rounded)

    def mark(layer: re.Match[str]) -> str:
        is_exact = layer[1] in exact or (layer[2] in _EXACT_TYPES and layer[1] not in rounded)
        return layer[0] + (_MARK if is_exact else "")

    try:
        with _scratch_folder() as folder, unfinished(Path(folder)):
            return _through_file(model, Path(folder), mark)
    except (OSError, RuntimeError) as error:  # RuntimeError: OpenVINO's, also for a file without an end
        raise EngineFailure(f"BF16 needs a folder for temporary files ({reason_of(error)}): set TMPDIR") from error


def _names(nodes: Collection[Node]) -> set[str]:
    return {node.get_friendly_name() for node in nodes}


def _through_file(model: Any, folder: Path, mark: Callable[[re.Match[str]], str]) -> Any:
    """The model after `mark` has changed its layers in XML. Leaves it as it is if this fails."""
    weights = _take_weights(model)
    try:
        text, constants = _written(model, folder)
        marked = read_ir(_LAYER.sub(mark, text).encode(), constants)
    except BaseException:
        _put_weights(model, weights)
        raise
    _put_weights(marked, weights)
    return marked


def _written(model: Any, folder: Path) -> tuple[str, np.ndarray]:
    """The model in OpenVINO's file format: XML, and the bytes of its constants."""
    xml, small = folder / "graph.xml", folder / "graph.bin"
    serialize(model, str(xml), str(small))
    return xml.read_text("utf-8"), np.frombuffer(small.read_bytes(), np.uint8)


def _scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder, in shared memory where nothing else can be written. Raises `OSError` without either."""
    try:
        return tempfile.TemporaryDirectory(prefix="gguf-embed-")
    except OSError:
        return tempfile.TemporaryDirectory(prefix="gguf-embed-", dir="/dev/shm")


def _take_weights(model: Any) -> dict[str, Node]:
    """Replace all larger constants of a model by parameters. The constants, by the parameters' names."""
    taken: dict[str, Node] = {}
    parameters = []
    for node in float_constants(model):
        shape = list(node.get_output_shape(0))
        if np.prod(shape, dtype=np.int64) < 64:
            continue
        parameter = op.parameter(shape, node.get_output_element_type(0))
        parameter.set_friendly_name(f"weights.{len(taken)}")
        for reader in list(node.output(0).get_target_inputs()):
            reader.replace_source_output(parameter.output(0))
        taken[parameter.get_friendly_name()] = node
        parameters.append(parameter)
    model.add_parameters(parameters)
    return taken


def _put_weights(model: Any, weights: dict[str, Node]) -> None:
    for parameter in list(model.get_parameters()):
        node = weights.get(parameter.get_friendly_name())
        if node is not None:
            if node.get_output_element_type(0).get_type_name() == "f16":
                for reader in parameter.output(0).get_target_inputs():
                    keep_float16(reader.get_node())  # the file format has lost this mark
            parameter.output(0).replace(node.output(0))
            model.remove_parameter(parameter)
    model.validate_nodes_and_infer_types()
