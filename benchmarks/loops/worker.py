"""A process that runs one loop on demand: `python -P worker.py JSON`, see `Order`.

It prints a JSON line with the loop's variants when it is ready, then reads a line per run, and prints the seconds that
the run took; its vectors go to a file. Nothing else is written to stdout.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Order:
    """Which loop to create, with what."""

    loop: str  # one of LOOPS
    folder: str  # with bert.npz and bert.onnx, or with a CLIP
    model: str  # the GGUF
    n_threads: int
    serve_flags: str
    cache: str  # folder for what gguf-embed derives from the model

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Loop(Protocol):
    """Embeds texts, given as token ids, or files of pictures, in one of several ways.

    `sample`, if it has one, is what it is tried with; otherwise two texts.
    """

    @property
    def variants(self) -> Sequence[str]: ...

    def run(self, inputs: Any, variant: str, /) -> Any: ...


def _library(name: str, *extra: str) -> Callable[[Order], Loop]:
    def create(order: Order) -> Loop:
        from benchmarks.loops import libraries

        loop: Loop = getattr(libraries, name)(Path(order.folder), order.n_threads, *extra)
        return loop

    return create


def _sentence_transformers(backend: str) -> Callable[[Order], Loop]:
    def create(order: Order) -> Loop:
        from benchmarks.loops.sentences import SentenceTransformersLoop

        return SentenceTransformersLoop(Path(order.folder), order.n_threads, backend)

    return create


def _ours(order: Order) -> Loop:
    from benchmarks.loops.ours import OurLoop

    return OurLoop(Path(order.model), order.n_threads, order.serve_flags, Path(order.cache))


def _clip(precision: str) -> Callable[[Order], Loop]:
    def create(order: Order) -> Loop:
        from benchmarks.loops.images import ClipLoop

        return ClipLoop(Path(order.folder), order.n_threads, precision)

    return create


TEXT_LOOPS: dict[str, Callable[[Order], Loop]] = {
    "gguf-embed": _ours,
    "OpenVINO": _library("OpenVinoLoop", "default"),
    "OpenVINO F32": _library("OpenVinoLoop", "f32"),
    "ONNX Runtime F32": _library("OnnxRuntimeLoop"),
    "torch F32": _library("TorchLoop", "f32"),
    "torch BF16": _library("TorchLoop", "bf16"),
    "sentence-transformers F32": _sentence_transformers("torch"),
    "sentence-transformers ONNX F32": _sentence_transformers("onnx"),
    "sentence-transformers OpenVINO": _sentence_transformers("openvino"),
}
IMAGE_LOOPS: dict[str, Callable[[Order], Loop]] = {
    "transformers F32": _clip("f32"),
    "transformers BF16": _clip("bf16"),
}
LOOPS = TEXT_LOOPS | IMAGE_LOOPS


def main() -> None:
    import numpy as np

    order = Order(**json.loads(sys.argv[1]))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr

    def reply(**fields: object) -> None:
        replies.write(json.dumps(fields) + "\n")
        replies.flush()

    loop = LOOPS[order.loop](order)
    loop.run(
        getattr(loop, "sample", [[0, 0], [0]]), loop.variants[0]
    )  # some libraries find only now that they cannot compute it
    reply(variants=list(loop.variants), notes=list(getattr(loop, "notes", ())))
    for line in sys.stdin:
        run = json.loads(line)
        inputs = json.loads(Path(run["inputs"]).read_text())
        started_s = time.perf_counter()
        vectors = loop.run(inputs, run["variant"])
        elapsed_s = time.perf_counter() - started_s
        np.save(run["vectors"], vectors)
        reply(seconds=elapsed_s)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
