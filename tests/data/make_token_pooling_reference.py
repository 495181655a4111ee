"""Makes `heads/token_pooling.npz` with sentence-transformers 6.2 and scipy: pooled rows of random multi-vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from tests.data.grouped_rows import CASES, rows_of


def main() -> None:
    pooled = {
        f"{n_rows}-{factor}": HierarchicalTokenPooling(factor).pool([torch.from_numpy(rows_of(n_rows))])[0].numpy()
        for n_rows, factor in CASES
    }
    np.savez_compressed(Path(__file__).parent / "heads" / "token_pooling.npz", **pooled)


if __name__ == "__main__":
    main()
