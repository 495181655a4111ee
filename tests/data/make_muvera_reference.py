"""Makes `heads/muvera.npz` with fastembed 0.9.1: its MUVERA vectors of random multi-vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fastembed.postprocess import Muvera

from tests.data.grouped_rows import MUVERA_CASES, rows_of


def main() -> None:
    encoded = {}
    for number, (n_rows, settings) in enumerate(MUVERA_CASES):
        muvera = Muvera(16, **settings)
        rows = rows_of(n_rows)
        encoded[f"{number}-document"] = muvera.process_document(rows).astype(np.float32)
        encoded[f"{number}-query"] = muvera.process_query(rows).astype(np.float32)
    np.savez_compressed(Path(__file__).parent / "heads" / "muvera.npz", **encoded)


if __name__ == "__main__":
    main()
