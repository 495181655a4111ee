"""`SentenceTransformer.encode` with each of sentence-transformers' backends: PyTorch, ONNX Runtime and OpenVINO.

Its texts are token ids in decimal, and what replaces its tokenizer reads them, so that it computes the same tokens.
Reading them takes less time than any real tokenizer. Sorting, forward, pooling and normalizing are the library's.

This module imports only what its own loops need: it also runs in an interpreter without this project's packages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.loops.batches import Ids, Matrix, Tokens, pad
from benchmarks.loops.libraries import BATCH_SIZES, feeds, torch_model
from benchmarks.loops.weights import Bert

_Settings = Mapping[str, Any]
_UNKNOWN = "[UNK]"


class SentenceTransformersLoop:
    """The model as `SentenceTransformer(folder, backend=…)` loads it. For ONNX and OpenVINO, the library exports it.

    PyTorch and ONNX Runtime compute in float32. OpenVINO's precision is what comes: BF16 where the CPU has it.
    """

    def __init__(self, folder: Path, n_threads: int, backend: str) -> None:
        import_module("torch").set_num_threads(n_threads)
        ways = _WAYS[backend](n_threads)
        written = write_sentence_transformer(
            Bert.load(folder / "bert.npz"), folder / f"sentence-transformers-{backend}"
        )
        self._encoders = {name: _load(written, backend, settings) for name, settings in ways.items()}

    @property
    def variants(self) -> Sequence[str]:
        return [f"{name} {size}".lstrip() for name in self._encoders for size in BATCH_SIZES]

    def run(self, texts: Tokens, variant: str) -> Matrix:
        name, _, size = variant.rpartition(" ")
        vectors: Matrix = self._encoders[name].encode(
            write_texts(texts), batch_size=int(size), normalize_embeddings=True, show_progress_bar=False
        )
        return vectors


def write_texts(texts: Tokens) -> list[str]:
    return [" ".join(map(str, tokens)) for tokens in texts]


def read_texts(texts: Sequence[str]) -> tuple[Ids, Ids]:
    """Ids and mask of what `write_texts` wrote, int64[n, longest]."""
    return pad([list(map(int, text.split())) for text in texts])


def write_sentence_transformer(bert: Bert, folder: Path) -> Path:
    """The model's directory as the library saves it. Its tokenizer only knows the unknown word, since none is used.

    Needs torch, transformers and sentence-transformers.
    """
    tokenizers: Any = import_module("tokenizers")
    transformers: Any = import_module("transformers")
    library: Any = import_module("sentence_transformers")
    modules: Any = import_module("sentence_transformers.sentence_transformer.modules")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({_UNKNOWN: 0}, unk_token=_UNKNOWN))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token=_UNKNOWN, pad_token=_UNKNOWN)
    torch_model(bert).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    parts = [modules.Transformer(str(folder)), modules.Pooling(bert.sizes.n_embd, bert.sizes.pooling)]
    library.SentenceTransformer(modules=parts, device="cpu").save_pretrained(str(folder), create_model_card=False)
    return folder


def _load(folder: Path, backend: str, settings: _Settings) -> Any:
    """A model that reads token ids. What the library exports is saved, so that it exports only once."""
    library: Any = import_module("sentence_transformers")
    encoder = library.SentenceTransformer(str(folder), backend=backend, device="cpu", model_kwargs=dict(settings))
    if backend != "torch" and not (folder / backend).exists():
        encoder.save_pretrained(str(folder), create_model_card=False)
    encoder[0].preprocess = _preprocess
    return encoder


def _preprocess(texts: Sequence[str], **_: object) -> dict[str, Any]:
    torch: Any = import_module("torch")
    return feeds(*map(torch.from_numpy, read_texts(texts)))


def _torch_ways(n_threads: int) -> dict[str, _Settings]:
    return {"": {"attn_implementation": "sdpa"}}


def _onnx_ways(n_threads: int) -> dict[str, _Settings]:
    options: Any = import_module("onnxruntime").SessionOptions()
    options.intra_op_num_threads = n_threads
    return {"": {"provider": "CPUExecutionProvider", "session_options": options}}


def _openvino_ways(n_threads: int) -> dict[str, _Settings]:
    """LATENCY is the library's default."""
    return {
        hint: {"ov_config": {"INFERENCE_NUM_THREADS": n_threads, "PERFORMANCE_HINT": hint}}
        for hint in ("LATENCY", "THROUGHPUT")
    }


_WAYS = {"torch": _torch_ways, "onnx": _onnx_ways, "openvino": _openvino_ways}
"""For each backend, the arguments of the model by the name of the variant."""
