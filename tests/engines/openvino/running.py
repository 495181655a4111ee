"""A model in the OpenVINO engine without a server: loaded as the driver loads it, in one precision."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.engines.base import ContextSpec, LoadedEngine, LoadSpec
from gguf_embed.engines.openvino.driver import OpenVinoDriver
from gguf_embed.engines.select import open_codec
from gguf_embed.gguf_file.towers import read_model
from gguf_embed.types import FloatMatrix, OutputSpec, Pooling
from gguf_embed.vectors import Rows


@dataclass(frozen=True)
class Graph:
    """A loaded model and the output to compute."""

    loaded: LoadedEngine
    output: OutputSpec

    def output_of(self, ids: Sequence[Sequence[int]]) -> Rows:
        """All texts in one batch."""
        with closing(
            self.loaded.engine.open_context(ContextSpec(self.output, sum(map(len, ids)), len(ids)))
        ) as context:
            output = context.embed(ids, 1)
            assert isinstance(output, Rows)
            return output

    def rows(self, ids: Sequence[Sequence[int]]) -> FloatMatrix:
        """float32, a row per text, or per token with pooling none."""
        return self.output_of(ids).matrix


@dataclass(frozen=True)
class GraphNode:
    """What a compiled graph runs: one or more operations of the graph as it was built."""

    kind: str
    precision: str  # that it computes in
    written: str  # the precision of its results
    names: frozenset[str]  # of the operations


def nodes_of(graph: Any) -> Iterator[GraphNode]:
    for node in graph.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        kind, precision, written, names = (
            str(facts[key].astype(str))
            for key in ("layerType", "runtimePrecision", "outputPrecisions", "originalLayersNames")
        )
        yield GraphNode(kind, precision, written, frozenset(names.split(",")))


def load_spec(
    path: Path, pooling: Pooling, precision: Literal["auto", "f32", "bf16"] = "f32", **config: object
) -> LoadSpec:
    compute = ComputeConfig(n_threads=2, precision=precision)
    whole = ModelConfig(warmup=False, compute=compute, **config)  # type: ignore[arg-type]
    return LoadSpec(read_model(path), whole, OutputSpec.of(pooling), path.parent, lambda line: None, open_codec)


@contextmanager
def open_graph(path: Path, pooling: Pooling, precision: Literal["auto", "f32", "bf16"] = "f32") -> Iterator[Graph]:
    spec = load_spec(path, pooling, precision)
    driver = OpenVinoDriver()
    assert driver.refusal(spec.header, spec.config) is None
    loaded = driver.load(spec)
    with closing(loaded.engine):
        yield Graph(loaded, spec.output)


def kib_in_memory() -> dict[str, int]:
    """Of each file without a name that is in this process's memory, by its number in the file system.

    Only Linux tells; empty on other systems.
    """
    found: Counter[str] = Counter()
    if sys.platform != "linux":
        return found
    number = ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            number = line.split()[4] if line.endswith("(deleted)") else ""
        elif number and line.startswith("Rss:"):
            found[number] += int(line.split()[1])
    return found
