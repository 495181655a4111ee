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
from importlib import import_module
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


def _of_folder(module: str, name: str, *extra: str) -> Callable[[Order], Loop]:
    """A loop that reads the order's folder. Its module is imported when it is created: not every Python can."""

    def create(order: Order) -> Loop:
        loop_class = getattr(import_module(f"benchmarks.loops.{module}"), name)
        loop: Loop = loop_class(Path(order.folder), order.n_threads, *extra)
        return loop

    return create


def _ours(order: Order) -> Loop:
    from benchmarks.loops.ours import OurLoop

    return OurLoop(Path(order.model), order.n_threads, order.serve_flags, Path(order.cache))


TEXT_LOOPS: dict[str, Callable[[Order], Loop]] = {
    "gguf-embed": _ours,
    "OpenVINO": _of_folder("libraries", "OpenVinoLoop", "default"),
    "OpenVINO F32": _of_folder("libraries", "OpenVinoLoop", "f32"),
    "ONNX Runtime F32": _of_folder("libraries", "OnnxRuntimeLoop"),
    "torch F32": _of_folder("libraries", "TorchLoop", "f32"),
    "torch BF16": _of_folder("libraries", "TorchLoop", "bf16"),
    "sentence-transformers F32": _of_folder("sentences", "SentenceTransformersLoop", "torch"),
    "sentence-transformers ONNX F32": _of_folder("sentences", "SentenceTransformersLoop", "onnx"),
    "sentence-transformers OpenVINO": _of_folder("sentences", "SentenceTransformersLoop", "openvino"),
}
IMAGE_LOOPS: dict[str, Callable[[Order], Loop]] = {
    "transformers F32": _of_folder("images", "ClipLoop", "f32"),
    "transformers BF16": _of_folder("images", "ClipLoop", "bf16"),
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
