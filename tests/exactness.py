"""Prints the differences from the originals that docs/models.md lists: `python -m tests.exactness`. Not a test.

For each tiny model of `tests/data`, in float32, the largest over all of its texts: 1 - cosine of vectors, and the
difference of scores and of sparse weights; by OpenVINO, then by llama.cpp where it runs the file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from gguf_embed.config import ModelConfig
from gguf_embed.convert.convert import convert_directory
from gguf_embed.engines.llama.driver import LlamaDriver
from gguf_embed.gguf_file.towers import read_model
from gguf_embed.types import MULTIVECTOR, SPARSE, Output, OutputSpec, Pooling
from gguf_embed.vectors import Rows
from tests.convert.encoders import tiny_models
from tests.convert.tokenizers import test_yes_no_head as yes_no
from tests.convert.tokenizers.decoder_directory import VECTOR_TEXTS
from tests.convert.tokenizers.references import reference_tokenizers, reference_vectors
from tests.data import tower_directories
from tests.engines.heads import test_references as heads
from tests.engines.openvino.graph_models import MODELS, Array, Reference, reference, write_gguf
from tests.engines.openvino.running import open_graph
from tests.engines.openvino.test_towers import image_vectors, opened, text_vectors
from tests.nomic_models import write_nomic_text
from tests.tower_models import write_own

_ENGINES = ("openvino", "llama")
_NOT_IN_OPENVINO = ("qwen3_yarn",)


def off_cosine(found: Array, expected: Array) -> float:
    """The largest 1 - cosine of corresponding rows, in float64."""
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (found.astype("f8"), expected.astype("f8")))
    return float(np.square(a - b).sum(axis=1).max() / 2)  # 1 - cosine, without its cancellation


def graph_models(folder: Path) -> Iterator[tuple[str, str, list[float | None]]]:
    for name, model in MODELS.items():
        path, expected = write_gguf(name, folder / f"{name}.gguf"), reference(name)
        found: list[float | None] = [None]
        if name not in _NOT_IN_OPENVINO:
            with open_graph(path, expected.pooling) as graph:
                found = [difference(graph.rows(expected.ids), expected)]
        if model.llama_agrees and LlamaDriver().refusal(read_model(path), ModelConfig()) is None:
            is_ranking = expected.pooling is Pooling.RANK
            with closing(tiny_models.open_engine(path, rank_head=is_ranking)) as engine:
                found.append(difference(tiny_models.rows(engine, expected.ids, expected.pooling), expected))
        yield f"{model.architecture} {name}", expected.pooling.value, found


def decoder_rerankers(folder: Path) -> Iterator[tuple[str, str, list[float | None]]]:
    tokenizer = reference_tokenizers()[yes_no.MODEL.tokenizer]
    path = folder / "qwen3_reranker.gguf"
    source = yes_no.write_source(folder / "qwen3_reranker", **yes_no.NAMED)
    convert_directory(source, path, "f32", report=lambda line: None)
    answers = np.exp(reference_vectors("qwen3_reranker"))
    ids = [tokenizer["ids"][key] for key in VECTOR_TEXTS]
    expected = Reference(ids, answers / answers.sum(axis=1, keepdims=True), Pooling.RANK)
    with open_graph(path, Pooling.RANK) as graph:
        found: list[float | None] = [difference(graph.rows(ids), expected)]
    with closing(tiny_models.open_engine(path, rank_head=True)) as engine:
        found.append(difference(tiny_models.rows(engine, ids, Pooling.RANK), expected))
    yield "qwen3 qwen3_reranker", "rank", found


def difference(found: Array, expected: Reference) -> float:
    if expected.pooling is Pooling.RANK:
        return float(np.abs(found - expected.expected).max())
    return off_cosine(found, expected.expected)


def head_models(folder: Path) -> Iterator[tuple[str, str, list[float | None]]]:
    for name in (*heads.COLBERT, *heads.SPLADE, "bge_m3"):
        stored = heads.reference(name)
        kinds = {MULTIVECTOR: name in heads.COLBERT, SPARSE: name in heads.SPLADE}
        for kind in (kind for kind, is_its in kinds.items() if is_its or name == "bge_m3"):
            yield name, kind, [_of_head(name, kind, engine, stored, folder) for engine in _ENGINES]


def _of_head(name: str, kind: str, engine: str, stored: dict[str, Array], folder: Path) -> float:
    """Documents only: with llama.cpp, queries are not filled up."""
    scratch = folder / f"{name}-{kind}-{engine}"
    scratch.mkdir()
    with heads.opened(name, engine, scratch) as (embed, _):
        found = embed(tuple(heads.TEXTS), OutputSpec(kind), "document")
    if kind == SPARSE:
        expected = stored["sparse" if name == "bge_m3" else "documents"]
        kept = _kept(name, len(expected))
        return float(np.abs(heads.as_dense(found, expected.shape[1]) - expected)[kept].max())
    counts = stored["n_documents"]
    parts = np.split(stored["documents"], np.cumsum(counts)[:-1])
    return max(off_cosine(_part(found, index), parts[index]) for index in np.flatnonzero(_kept(name, len(counts))))


def _part(found: Output, index: int) -> Array:
    assert isinstance(found, Rows)
    return found.part(int(index)).matrix


def _kept(name: str, n_texts: int) -> Array:
    """Without the text whose line breaks XLM-RoBERTa's tokenizer in llama.cpp reads otherwise."""
    is_unigram = name in ("bge_m3", "colbert_xlm_roberta")
    return np.array([index != heads.CODE or not is_unigram for index in range(n_texts)])


def tower_models(folder: Path) -> Iterator[tuple[str, str, list[float | None]]]:
    for name in ("clip_quick", "clip_gelu", "siglip"):
        stored = np.load(tower_directories.DATA / name / "reference.npz")
        with opened(write_own(name, folder)) as (loaded, reader):
            yield name, "texts", [off_cosine(text_vectors(loaded), stored["texts"])]
            yield name, "images", [off_cosine(image_vectors(reader), stored["images"])]
    images = np.load(tower_directories.DATA / "nomic_vision" / "images.npz")["images"]
    with opened(write_nomic_text(folder), write_own("nomic_vision", folder), Pooling.MEAN) as (_, reader):
        yield "nomic_vision", "images", [off_cosine(image_vectors(reader), images)]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        for measured in (graph_models, decoder_rerankers, head_models, tower_models):
            for model, what, found in measured(Path(name)):
                print(
                    f"{model:45} {what:12} {', '.join('-' if value is None else f'{value:.0e}' for value in found)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
