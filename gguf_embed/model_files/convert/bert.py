"""BERT with a WordPiece vocabulary: what its config must say and how its tensors are named in a GGUF."""

from __future__ import annotations

import gguf

from gguf_embed.errors import ModelFileError
from gguf_embed.model_files.convert.plan import MATRIX_TYPES, ConversionPlan, OutType, PlannedTensor
from gguf_embed.model_files.convert.safetensors import StoredTensor, list_tensors
from gguf_embed.model_files.convert.source import ModelSourceDirectory, read_pooling
from gguf_embed.model_files.convert.wordpiece import WordPieceVocabulary, read_wordpiece, write_wordpiece
from gguf_embed.types import Pooling

ARCHITECTURES = ("BertModel", "BertForMaskedLM")

_POOLING_TYPES = {
    Pooling.MEAN: gguf.PoolingType.MEAN,
    Pooling.CLS: gguf.PoolingType.CLS,
    Pooling.LAST: gguf.PoolingType.LAST,
}
_IGNORED = ("embeddings.position_ids", "pooler.dense.", "cls.predictions.", "cls.seq_relationship.")
_OLD_SUFFIXES = {".gamma": ".weight", ".beta": ".bias"}  # TensorFlow's names for a layer norm's parts
_ALWAYS_F32 = ("position_embd.weight", "token_types.weight")  # llama.cpp's converter keeps these so


def plan_bert(source: ModelSourceDirectory, outtype: OutType) -> ConversionPlan:
    """Check the config and decide names and types of all tensors.

    Raises `ModelFileError` for a variant llama.cpp's "bert" does not compute, or when tensors are missing or left over.
    """
    _check_config(source)
    vocabulary = read_wordpiece(source)
    pooling = read_pooling(source)
    tensors = _plan_tensors(source, list_tensors(source.path), outtype)

    def write_metadata(writer: gguf.GGUFWriter) -> None:
        _write_metadata(writer, source, vocabulary, pooling)

    return ConversionPlan(gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.BERT], tensors, write_metadata)


def _check_config(source: ModelSourceDirectory) -> None:
    computed = {"position_embedding_type": ("absolute",), "hidden_act": ("gelu",)}
    for key, allowed in computed.items():
        value = source.text(key, allowed[0])
        if value not in allowed:
            raise ModelFileError(
                f"{source.path / 'config.json'}: {key} {value!r} cannot be converted (only {', '.join(allowed)})"
            )
    if source.config.get("is_decoder"):
        raise ModelFileError(f"{source.path / 'config.json'}: a BERT decoder (is_decoder) cannot be converted")


def _plan_tensors(
    source: ModelSourceDirectory, stored: dict[str, StoredTensor], outtype: OutType
) -> tuple[PlannedTensor, ...]:
    n_layers = source.integer("num_hidden_layers")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, n_layers)
    planned: dict[str, PlannedTensor] = {}
    for original, tensor in sorted(stored.items()):
        name = _plain_name(original)
        if name.startswith(_IGNORED):
            continue
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new_name is None:
            raise ModelFileError(f"{tensor.path}: tensor {original} has no place in a BERT GGUF")
        is_f32 = len(tensor.shape) < 2 or new_name in _ALWAYS_F32
        tensor_type = gguf.GGMLQuantizationType.F32 if is_f32 else MATRIX_TYPES[outtype]
        planned[new_name] = PlannedTensor(new_name, tensor, tensor_type)
    _check_shapes(source, planned, n_layers)
    return tuple(planned.values())


def _plain_name(name: str) -> str:
    name = name.removeprefix("bert.")
    for old, new in _OLD_SUFFIXES.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def _check_shapes(source: ModelSourceDirectory, planned: dict[str, PlannedTensor], n_layers: int) -> None:
    """Hold the tensors against the config: llama.cpp would refuse the file only after it is written."""
    n_embd, n_ff = source.integer("hidden_size"), source.integer("intermediate_size")
    expected = {
        "token_embd.weight": (source.integer("vocab_size"), n_embd),
        "position_embd.weight": (source.integer("max_position_embeddings"), n_embd),
        "token_types.weight": (source.integer("type_vocab_size"), n_embd),
        "token_embd_norm.weight": (n_embd,),
        "token_embd_norm.bias": (n_embd,),
    }
    for layer in range(n_layers):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            expected[f"blk.{layer}.{part}.weight"] = (n_embd, n_embd)
            expected[f"blk.{layer}.{part}.bias"] = (n_embd,)
        for part in ("attn_output_norm", "layer_output_norm"):
            expected |= {f"blk.{layer}.{part}.weight": (n_embd,), f"blk.{layer}.{part}.bias": (n_embd,)}
        expected |= {f"blk.{layer}.ffn_up.weight": (n_ff, n_embd), f"blk.{layer}.ffn_up.bias": (n_ff,)}
        expected |= {f"blk.{layer}.ffn_down.weight": (n_embd, n_ff), f"blk.{layer}.ffn_down.bias": (n_embd,)}
    for name, shape in expected.items():
        found = planned[name].stored.shape if name in planned else None
        if found != shape:
            raise ModelFileError(
                f"{source.path}: tensor {name} should be {shape}, "
                + ("but it is missing" if found is None else f"but it is {found}")
            )


def _write_metadata(
    writer: gguf.GGUFWriter, source: ModelSourceDirectory, vocabulary: WordPieceVocabulary, pooling: Pooling | None
) -> None:
    writer.add_context_length(source.integer("max_position_embeddings"))
    writer.add_embedding_length(source.integer("hidden_size"))
    writer.add_block_count(source.integer("num_hidden_layers"))
    writer.add_feed_forward_length(source.integer("intermediate_size"))
    writer.add_head_count(source.integer("num_attention_heads"))
    writer.add_layer_norm_eps(source.number("layer_norm_eps"))
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_pooling_type(_POOLING_TYPES[pooling])
    writer.add_token_type_count(source.integer("type_vocab_size"))
    write_wordpiece(writer, vocabulary)
