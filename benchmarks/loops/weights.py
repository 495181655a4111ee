"""A BERT's sizes and weights, as the other libraries get them: read from the GGUF once, then passed on as a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
_SIZES = "sizes"


@dataclass(frozen=True, slots=True)
class BertSizes:
    """Sizes of a BERT, and how its token vectors become one."""

    n_embd: int
    n_layer: int
    n_head: int
    n_ff: int
    n_ctx: int
    norm_eps: float
    pooling: str


@dataclass(frozen=True, slots=True)
class Bert:
    """Weights in float32 by their GGUF names, matrices as [out, in]."""

    sizes: BertSizes
    weights: dict[str, Array]

    def save(self, path: Path) -> Path:
        np.savez(path, **{_SIZES: np.array(json.dumps(asdict(self.sizes)))}, **self.weights)  # type: ignore[arg-type]
        return path

    @classmethod
    def load(cls, path: Path) -> Bert:
        with np.load(path) as stored:
            sizes: dict[str, Any] = json.loads(str(stored[_SIZES]))
            return cls(BertSizes(**sizes), {name: stored[name] for name in stored.files if name != _SIZES})
