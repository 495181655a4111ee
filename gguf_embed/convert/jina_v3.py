"""jina-embeddings-v3: XLM-RoBERTa with rotary positions, and a low-rank adapter per task. "jina-bert-v3".

The adapters of all tasks stand side by side in two matrices for each adapted one: its input is multiplied by
`<name>.lora_a`, only the task's columns are kept, and the product with `<name>.lora_b` is added to the output. For a
table of rows, `lora_a` has a row per token. Our keys and tensors for them are unknown to llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import gguf

from gguf_embed.convert.encoder import (
    Dimensions,
    Shapes,
    TensorNames,
    linear,
    plan_tensors,
    read_sizes,
    write_dimensions,
)
from gguf_embed.convert.plan import ConversionPlan, MatrixAxes, OutType
from gguf_embed.convert.profile import PROMPT_KEY
from gguf_embed.convert.source import ModelSourceDirectory, read_pooling
from gguf_embed.convert.stored_tokenizer import read_stored_tokenizer
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.adapters import RANK, SCALE, TASKS, TensorParts

NAME = "jina-bert-v3"

_MODEL = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "emb_ln": "token_embd_norm",
}
_LAYER = {
    "mixer.Wqkv": "attn_qkv",
    "mixer.out_proj": "attn_output",
    "norm1": "attn_output_norm",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
    "norm2": "layer_output_norm",
}
_PARTS = {
    "original": "weight",
    "0.lora_A": f"{TensorParts.LOWERING}.weight",
    "0.lora_B": f"{TensorParts.RAISING}.weight",
}
_LINEAR_AXES: dict[str, MatrixAxes] = {TensorParts.LOWERING: ((0, 1), (2,)), TensorParts.RAISING: ((1,), (0, 2))}
_TABLE_AXES: dict[str, MatrixAxes] = {TensorParts.LOWERING: ((1,), (0, 2)), TensorParts.RAISING: ((2,), (0, 1))}
"""The original's lora_A is [tasks, rank, in] and its lora_B [tasks, out, rank], for a table [tasks, rows, rank] and
[tasks, rank, columns]."""

_TABLES = ("token_embd", "token_types")


class _Names(TensorNames):
    """Adapted matrices are `<name>.parametrizations.weight.original`, beside their `0.lora_A` and `0.lora_B`."""

    def find(self, original: str) -> str | None:
        module, found, part = original.partition(".parametrizations.weight.")
        if not found:
            return TensorNames.find(self, original)
        name = TensorNames.find(self, f"{module}.weight")
        if not name or part not in _PARTS:
            return name and None
        return name.removesuffix("weight") + _PARTS[part]


@dataclass(frozen=True, slots=True)
class _Adapters:
    """What the config says about them."""

    tasks: tuple[str, ...]
    rank: int
    scale: float
    instructions: dict[str, str]

    @property
    def width(self) -> int:
        return len(self.tasks) * self.rank

    def shapes(self, matrices: Shapes) -> Shapes:
        """Of the two matrices for each of `matrices`."""
        shapes: Shapes = {}
        for name, (n_out, n_in) in matrices.items():
            stem = name.removesuffix(".weight")
            lowering = (n_out, self.width) if stem in _TABLES else (self.width, n_in)
            raising = (n_in, self.width) if stem in _TABLES else (n_out, self.width)
            shapes |= {f"{stem}.{TensorParts.LOWERING}.weight": lowering}
            shapes |= {f"{stem}.{TensorParts.RAISING}.weight": raising}
        return shapes

    def write(self, writer: gguf.GGUFWriter) -> None:
        """The tasks, and for each of them a prompt of its name, which may be empty."""
        writer.add_array(f"{NAME}.{TASKS}", list(self.tasks))
        writer.add_uint32(f"{NAME}.{RANK}", self.rank)
        writer.add_float32(f"{NAME}.{SCALE}", self.scale)
        for task in self.tasks:
            text = self.instructions.get(task, "")
            writer.add_key_value(PROMPT_KEY + task, text, gguf.GGUFValueType.STRING)  # `add_string` skips empty ones


def is_jina_v3(source: ModelSourceDirectory) -> bool:
    """Its config names the architecture XLMRobertaModel; transformers' own does not have these adapters."""
    return isinstance(source.config.get("lora_adaptations"), list)


def plan_jina_v3(source: ModelSourceDirectory, outtype: OutType) -> ConversionPlan:
    """Raises `ModelFileError` for a variant that is not computed, and for missing or unknown tensors."""
    source.refuse_unless("position_embedding_type", ("rotary",))
    source.refuse_unless("hidden_act", ("gelu",))
    dimensions = Dimensions(
        **read_sizes(source),
        n_ctx=source.integer("max_position_embeddings") - 1 - source.integer("pad_token_id", 1, minimum=0),
        norm_eps=source.number("layer_norm_eps", 1e-5),
        n_token_types=source.integer("type_vocab_size", 1),
    )
    adapters = _read_adapters(source)
    matrices, others = _shapes(dimensions)
    names = _Names("roberta.", "encoder.layers.", _MODEL, _LAYER, ("pooler.", "lm_head."))
    shapes = matrices | others | adapters.shapes(matrices)
    tensors = plan_tensors(source, names, shapes, outtype, axes=_axes(matrices))
    vocabulary, pooling = read_stored_tokenizer(source, dimensions.n_vocab), read_pooling(source)

    def write_metadata(writer: gguf.GGUFWriter) -> None:
        write_dimensions(writer, dimensions, pooling)
        writer.add_rope_freq_base(source.number("rotary_emb_base", 10_000.0))
        adapters.write(writer)
        vocabulary.write(writer)

    return ConversionPlan(NAME, tensors, write_metadata, dimensions.n_ctx)


def _read_adapters(source: ModelSourceDirectory) -> _Adapters:
    path, tasks = source.path / "config.json", source.config.get("lora_adaptations")
    instructions = source.config.get("task_instructions") or {}
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) and task for task in tasks):
        raise ModelFileError(f"{path}: lora_adaptations is {tasks!r}, expected a list of names")
    if not isinstance(instructions, dict) or not all(isinstance(text, str) for text in instructions.values()):
        raise ModelFileError(f"{path}: task_instructions is {instructions!r}, expected an object of strings")
    rank = source.integer("lora_rank")
    return _Adapters(tuple(tasks), rank, source.number("lora_alpha", 1.0) / rank, instructions)


def _shapes(dimensions: Dimensions) -> tuple[Shapes, Shapes]:
    """The matrices, each of which has an adapter, and everything else."""
    n_embd, n_ff = dimensions.n_embd, dimensions.n_ff
    shapes: Shapes = {
        "token_embd.weight": (dimensions.n_vocab, n_embd),
        "token_types.weight": (dimensions.n_token_types, n_embd),
    }
    norms = dimensions.norm("token_embd_norm")
    for layer in range(dimensions.n_layer):
        at = f"blk.{layer}"
        shapes |= linear(f"{at}.attn_qkv", 3 * n_embd, n_embd) | linear(f"{at}.attn_output", n_embd, n_embd)
        shapes |= linear(f"{at}.ffn_up", n_ff, n_embd) | linear(f"{at}.ffn_down", n_embd, n_ff)
        norms |= dimensions.norm(f"{at}.attn_output_norm") | dimensions.norm(f"{at}.layer_output_norm")
    biases: Shapes = {name: shape for name, shape in shapes.items() if len(shape) == 1}
    matrices: Shapes = {name: shape for name, shape in shapes.items() if name not in biases}
    return matrices, norms | biases


def _axes(matrices: Shapes) -> dict[str, MatrixAxes]:
    axes: dict[str, MatrixAxes] = {}
    for name in matrices:
        stem = name.removesuffix(".weight")
        kinds = _TABLE_AXES if stem in _TABLES else _LINEAR_AXES
        axes |= {f"{stem}.{part}.weight": kinds[part] for part in kinds}
    return axes
