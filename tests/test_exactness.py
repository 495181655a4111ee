"""The default model's vectors against the original's, made by sentence-transformers (`data/make_reference.py`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gguf_embed.types import FloatMatrix

DATA = Path(__file__).parent / "data"
MIN_COSINE = 0.9999  # F32, F16 and BF16 weights; measured: see docs/architecture.md


@dataclass(frozen=True, slots=True)
class Reference:
    """What the original model answered. Row i of `vectors` belongs to `texts[i]`."""

    names: tuple[str, ...]
    texts: tuple[str, ...]
    vectors: FloatMatrix  # float32[n_texts, 384], L2-normalised
    n_tokens: NDArray[np.int32]  # [CLS] and [SEP] included
    ids: dict[str, list[int]]  # of a few texts, by name
    rows: dict[str, FloatMatrix]  # float32[n_tokens, 384], not normalised, of a few texts, by name

    def text(self, name: str) -> str:
        return self.texts[self.names.index(name)]


def load_reference() -> Reference:
    entries = json.loads((DATA / "reference_texts.json").read_text("utf-8"))
    with np.load(DATA / "reference_vectors.npz") as arrays:
        return Reference(
            names=tuple(entry["name"] for entry in entries),
            texts=tuple(entry["text"] for entry in entries),
            vectors=arrays["vectors"],
            n_tokens=arrays["n_tokens"],
            ids={key.removeprefix("ids_"): arrays[key].tolist() for key in arrays if key.startswith("ids_")},
            rows={key.removeprefix("rows_"): arrays[key] for key in arrays if key.startswith("rows_")},
        )


def row_cosines(left: FloatMatrix, right: FloatMatrix) -> NDArray[np.float64]:
    """float64[n_rows]: the cosine of each row of `left` to the same row of `right`."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    cosines: NDArray[np.float64] = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return cosines


def assert_close(
    vectors: FloatMatrix, reference: FloatMatrix, min_cosine: float = MIN_COSINE, names: Sequence[str] | None = None
) -> None:
    """Every row at least `min_cosine` to its reference; the failure lists the worst rows by name (or number)."""
    assert vectors.shape == reference.shape
    cosines = row_cosines(vectors, reference)
    worst = [int(i) for i in np.argsort(cosines)[:5] if not cosines[i] >= min_cosine]  # a NaN is not >=
    labels = [f"{names[i] if names else i}: {cosines[i]:.6f}" for i in worst]
    assert not labels, f"cosine under {min_cosine}: " + ", ".join(labels)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return load_reference()


def test_the_reference_is_whole(reference: Reference) -> None:
    n_texts = len(reference.texts)
    assert n_texts >= 60
    assert reference.vectors.shape == (n_texts, 384)
    assert reference.n_tokens.shape == (n_texts,)
    assert reference.n_tokens.min() == 2
    assert 500 < reference.n_tokens.max() <= 512
    np.testing.assert_allclose(np.linalg.norm(reference.vectors, axis=1), 1, atol=1e-6)
    for name, ids in reference.ids.items():
        assert len(ids) == reference.n_tokens[reference.names.index(name)]


def test_token_rows_of_the_reference_pool_to_its_vectors(reference: Reference) -> None:
    for name, rows in reference.rows.items():
        index = reference.names.index(name)
        assert len(rows) == reference.n_tokens[index]
        assert_close(rows.mean(0, keepdims=True), reference.vectors[index : index + 1], 0.999999, [name])


def test_assert_close_refuses_what_is_far_or_not_a_number(reference: Reference) -> None:
    vectors = reference.vectors[:3].copy()
    assert_close(vectors * 7, reference.vectors[:3], 0.999999)
    vectors[1, 0] = np.nan
    with pytest.raises(AssertionError, match="nan"):
        assert_close(vectors, reference.vectors[:3])
    with pytest.raises(AssertionError, match=r"second: -?0\."):
        assert_close(reference.vectors[[0, 2]], reference.vectors[:2], names=["first", "second"])
