"""Cross-encoders: their classification head, which becomes llama.cpp's rank head, and its labels.

llama.cpp computes a head in these steps: the first token's row (for ModernBERT also the mean), `cls`, tanh (for
ModernBERT GELU and `cls.norm`), `cls.output` (llm_graph_context::build_pooling). BERT's pooler is such a `cls`; RoBERTa
has it in its head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import gguf

from gguf_embed.convert.encoder import Shapes, linear
from gguf_embed.convert.safetensors import list_tensors
from gguf_embed.convert.source import ModelSourceDirectory, read_pooling
from gguf_embed.errors import ModelFileError
from gguf_embed.types import Pooling

SUFFIX = "ForSequenceClassification"


@dataclass(frozen=True, slots=True)
class RankHead:
    """A head to convert. `names` are as in `TensorNames.model`."""

    names: Mapping[str, str]
    labels: tuple[str, ...]  # one per score

    def shapes(self, n_embd: int) -> Shapes:
        """The shapes of `cls` and `cls.output` with their biases."""
        return linear("cls", n_embd, n_embd) | linear("cls.output", len(self.labels), n_embd)


def read_rank_head(source: ModelSourceDirectory, names: Mapping[str, str]) -> RankHead | None:
    """The head that the config declares; None for a model without one and for embedding models.

    A sentence-transformers model with a pooling is an embedding model, even if its config declares a head.
    Raises `ModelFileError` if the weights lack a declared head.
    """
    declared = source.config.get("architectures")
    is_classifier = isinstance(declared, list) and any(str(name).endswith(SUFFIX) for name in declared)
    if not is_classifier or read_pooling(source) is not None:
        return None
    last = next(theirs for theirs, ours in names.items() if ours == "cls.output")
    tensor = list_tensors(source.path).get(f"{last}.weight")
    if tensor is None or len(tensor.shape) != 2:
        raise ModelFileError(f"{source.path}: the config declares a classification head, but {last}.weight is missing")
    return RankHead(names, _labels(source, tensor.shape[0]))


def pooling_of(source: ModelSourceDirectory, head: RankHead | None) -> Pooling | None:
    """Rank if there is a head, else the pooling that sentence-transformers' files declare."""
    return Pooling.RANK if head is not None else read_pooling(source)


def write_rank_head(writer: gguf.GGUFWriter, head: RankHead) -> None:
    """Write the labels; llama.cpp takes the number of scores from their number."""
    writer.add_classifier_output_labels(list(head.labels))


def _labels(source: ModelSourceDirectory, n_labels: int) -> tuple[str, ...]:
    """The config's labels in the order of their numbers; transformers does not save its default LABEL_0, LABEL_1."""
    named = source.config.get("id2label")
    labels = {str(number): str(label) for number, label in named.items()} if isinstance(named, dict) else {}
    return tuple(labels.get(str(number), f"LABEL_{number}") for number in range(n_labels))
