"""Several kinds of output for the same texts, computed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gguf_embed.types import JOINT, SPARSE, Output, OutputSpec
from gguf_embed.vectors.rows import Rows
from gguf_embed.vectors.sparse import SparseRows


@dataclass(frozen=True, slots=True, eq=False)
class JointOutput:
    """The `Output` for requests that want, for example, dense and sparse vectors."""

    by_kind: Mapping[str, Output]  # all of the same number of texts; at least one

    @property
    def kind(self) -> str:
        return JOINT

    def __len__(self) -> int:
        return len(next(iter(self.by_kind.values())))

    def part(self, index: int) -> JointOutput:
        return JointOutput({kind: output.part(index) for kind, output in self.by_kind.items()})

    @classmethod
    def join(cls, parts: Sequence[JointOutput | None]) -> JointOutput:
        first = next(part for part in parts if part is not None)
        return cls(
            {
                kind: type(output).join([part and part.by_kind[kind] for part in parts])
                for kind, output in first.by_kind.items()
            }
        )

    def fault(self) -> str:
        return next((fault for output in self.by_kind.values() if (fault := output.fault())), "")

    def finished(self, embd_normalize: int, dimensions: int | None) -> JointOutput:
        return JointOutput({kind: output.finished(embd_normalize, dimensions) for kind, output in self.by_kind.items()})


def none_of(spec: OutputSpec, n_texts: int) -> Output:
    """What was requested, for texts that all failed."""
    if spec.kind == JOINT:
        return JointOutput({kind: none_of(OutputSpec(kind), n_texts) for kind in spec.parts})
    return SparseRows.none_of(n_texts) if spec.kind == SPARSE else Rows.none_of(spec.kind, n_texts)
