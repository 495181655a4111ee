"""Tiny models of every architecture that is computed as a graph, as GGUFs, and the original packages' results.

Those of `tests/data/convert` and `tests/data/convert_decoders` are converted; those of `tests/data/graphs` are written
here or converted with other settings. Some models are the same in another form that llama.cpp accepts as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from gguf_embed.convert.convert import convert_directory
from gguf_embed.convert.plan import OutType, matrix_type
from gguf_embed.types import Pooling
from tests.convert.encoders import tiny_models
from tests.convert.tokenizers.decoder_directory import MODELS as DECODERS
from tests.convert.tokenizers.decoder_directory import VECTOR_TEXTS, DecoderModel, write_decoder_directory
from tests.convert.tokenizers.references import reference_tokenizers, reference_vectors
from tests.data.crisp_native import write_natively, write_with_our_names
from tests.data.tiny_weights import Weights, make_weights
from tests.gguf_models import describe, finish, write_bpe

GRAPHS = Path(__file__).parent.parent.parent / "data" / "graphs"
STORED: dict[str, dict[str, Any]] = json.loads((GRAPHS / "models.json").read_text())

Array = NDArray[np.float32]
Writer = Callable[[Path, OutType], None]

_JINA_NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.self.layer_norm_q": "attn_q_norm",
    "attention.self.layer_norm_k": "attn_k_norm",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "layer_norm_1": "attn_norm_2",
    "mlp.gated_layers": "ffn_up",  # with the gate as its first half
    "mlp.up_gated_layer": "ffn_up",  # with the gate as its second half
    "mlp.wo": "ffn_down",
    "mlp.down_layer": "ffn_down",
    "mlp.layernorm": "layer_output_norm",
    "layer_norm_2": "layer_output_norm",
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_CLS_POOLED = ("roberta", "xlm_roberta", "modern_bert_silu", "gte")
_POOLINGS = {"pooling_mode_lasttoken": Pooling.LAST, "pooling_mode_mean_tokens": Pooling.MEAN}


@dataclass(frozen=True, slots=True)
class Reference:
    """Texts by their tokens and what the original computes: vectors as pooled, not normalized, or with pooling rank
    the head's numbers."""

    ids: list[list[int]]
    expected: Array  # float32[n_texts, n_embd or n_scores]
    pooling: Pooling
    types: list[list[int]] | None = None  # the token types of a pair; `expected` is with type 0 for all tokens
    expected_with_types: Array | None = None


@dataclass(frozen=True, slots=True)
class GraphModel:
    """One file and its reference."""

    architecture: str
    write: Writer
    reference: Callable[[], Reference]
    llama_agrees: bool = True


def write_gguf(name: str, path: Path, outtype: OutType = "f32") -> Path:
    """Write the model `name` of `MODELS`, matrices in `outtype`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    MODELS[name].write(path, outtype)
    return path


def reference(name: str) -> Reference:
    return MODELS[name].reference()


def _convert_encoder(name: str, path: Path, outtype: OutType) -> None:
    source = path.with_suffix(".hf")
    tiny_models.write_directory(name, source)
    convert_directory(source, path, outtype, report=lambda line: None)


def _encoder_reference(name: str) -> Reference:
    stored = tiny_models.reference(name)
    pooling = Pooling.CLS if name in _CLS_POOLED else Pooling.MEAN
    return Reference(tiny_models.ids_of(stored), stored["vectors"], pooling)


def _reranker_reference(name: str) -> Reference:
    stored = tiny_models.reference(name)
    ids, plain = tiny_models.ids_of(stored), stored["one_type"]
    if name != "bert_reranker":
        return Reference(ids, plain, Pooling.RANK)
    ends = [text.index(text[-1]) for text in ids]  # of the query, at the first [SEP]
    types = [[int(place > end) for place in range(len(text))] for text, end in zip(ids, ends, strict=True)]
    return Reference(ids, plain, Pooling.RANK, types, stored["logits"])


def _convert_decoder(model: DecoderModel, path: Path, outtype: OutType) -> None:
    source = write_decoder_directory(path.with_suffix(".hf"), model, reference_tokenizers()[model.tokenizer])
    convert_directory(source, path, outtype, report=lambda line: None)


def _decoder_reference(name: str) -> Reference:
    model = DECODERS[name]
    ids = [reference_tokenizers()[model.tokenizer]["ids"][key] for key in VECTOR_TEXTS]
    return Reference(ids, reference_vectors(name), _POOLINGS[model.pooling])


def _changed_decoder(name: str) -> DecoderModel:
    """A decoder with the config and pooling of `tests/data/graphs`, but for what the converter refuses."""
    stored = STORED[name]
    base = DECODERS[stored["base"]]
    config = {key: value for key, value in stored["config"].items() if key != "is_causal"}
    return replace(base, pooling=stored.get("pooling", base.pooling), config=base.config | config)


def _stored_reference(name: str, pooling: Pooling) -> Reference:
    with np.load(GRAPHS / f"{name}.npz") as stored:
        arrays = dict(stored)
    return Reference(tiny_models.ids_of(arrays), arrays["scores" if pooling is Pooling.RANK else "vectors"], pooling)


def _write_jina(
    name: str, path: Path, outtype: OutType, *, split_gate: bool = False, split_qkv: bool = True, head: bool = False
) -> None:
    """`split_gate` and not `split_qkv` are llama.cpp's other forms; `head` adds the one of jina-reranker-v1."""
    stored = STORED[name]
    sizes = stored["sizes"]
    writer = gguf.GGUFWriter(path, "jina-bert-v2")
    pooling = Pooling.RANK if head else Pooling.MEAN
    lengths = (sizes["n_embd"], sizes["n_layer"], sizes["n_head"], sizes["n_ff"], sizes["n_ctx"])
    describe(writer, "tiny-jina", outtype, *lengths, pooling)
    writer.add_layer_norm_eps(sizes["eps"])
    writer.add_causal_attention(False)
    writer.add_token_type_count(2)
    n_vocab = write_bpe(writer, add_bos=True, add_eos=True)
    assert n_vocab == sizes["n_vocab"]
    weights = _jina_weights(stored, split_gate)
    if not split_qkv:
        weights = _fuse_qkv(weights)
    if head:
        weights |= make_weights({"cls.weight": (1, sizes["n_embd"]), "cls.bias": (1,)}, stored["scale"])
    _add_tensors(writer, weights, outtype)
    finish(writer, path)


def _jina_weights(stored: Mapping[str, Any], split_gate: bool) -> Weights:
    """Under llama.cpp's names."""
    weights: Weights = {}
    for original, values in make_weights(stored["shapes"], stored["scale"]).items():
        module, _, kind = original.rpartition(".")
        if not module.startswith("encoder.layer."):
            weights[f"{_JINA_NAMES[module]}.{kind}"] = values
            continue
        layer, _, part = module.removeprefix("encoder.layer.").partition(".")
        at = f"blk.{layer}"
        if _JINA_NAMES[part] == "ffn_up" and split_gate:
            first, second = np.split(values, 2)
            gate, up = (second, first) if part == "mlp.up_gated_layer" else (first, second)
            weights |= {f"{at}.ffn_gate.weight": gate, f"{at}.ffn_up.weight": up}
        else:
            weights[f"{at}.{_JINA_NAMES[part]}.{kind}"] = values
    return weights


def _fuse_qkv(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Query, key and value of each layer as one tensor, rows one below the other; weights and biases."""
    fused: dict[str, NDArray[Any]] = {}
    for name, values in tensors.items():
        if ".attn_q." in name:
            rows = [values, *(tensors[name.replace("attn_q", part)] for part in ("attn_k", "attn_v"))]
            fused[name.replace("attn_q", "attn_qkv")] = np.concatenate(rows)
        elif ".attn_k." not in name and ".attn_v." not in name:
            fused[name] = values
    return fused


def _split_qkv(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    split: dict[str, NDArray[Any]] = {}
    for name, values in tensors.items():
        if ".attn_qkv." not in name:
            split[name] = values
            continue
        for part, rows in zip(("attn_q", "attn_k", "attn_v"), np.split(values, 3), strict=True):
            split[name.replace("attn_qkv", part)] = rows
    return split


def _add_tensors(writer: gguf.GGUFWriter, weights: Weights, outtype: OutType) -> None:
    for name, values in weights.items():
        is_matrix = values.ndim > 1 and name != "token_types.weight"  # llama.cpp can only add F32 here
        kind = matrix_type(outtype, values.shape) if is_matrix else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def _another_form(
    write: Writer,
    path: Path,
    outtype: OutType,
    *,
    metadata: Mapping[str, tuple[Any, ...] | None] | None = None,
    tensors: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]] = dict,
) -> None:
    """Write a model and then the same file with other entries, each (value, type, type of items) or None to remove
    it, and with tensors arranged in another way."""
    original = path.with_name(f"{path.name}.original")
    write(original, outtype)
    reader = gguf.GGUFReader(original)
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    entries: dict[str, tuple[Any, ...] | None] = {
        field.name: (field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
        for field in reader.fields.values()
        if not field.name.startswith("GGUF.") and field.name != "general.architecture"
    }
    for key, entry in (entries | dict(metadata or {})).items():
        if entry is not None:
            writer.add_key_value(key, *entry)
    kinds = {tensor.name: tensor.tensor_type for tensor in reader.tensors}
    for name, values in tensors({tensor.name: tensor.data for tensor in reader.tensors}).items():
        kind = kinds[name] if name in kinds else _type_of_parts(name, kinds)
        writer.add_tensor(name, values, raw_dtype=kind)
    finish(writer, path)


def _type_of_parts(name: str, kinds: Mapping[str, gguf.GGMLQuantizationType]) -> gguf.GGMLQuantizationType:
    """The type of a tensor that was joined or split."""
    at, _, kind = name.rpartition(".")
    layer = at.rpartition(".")[0]
    return next(kinds[found] for part in ("attn_qkv", "attn_q") if (found := f"{layer}.{part}.{kind}") in kinds)


_UINT32, _BOOL, _ARRAY = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.BOOL, gguf.GGUFValueType.ARRAY


def _encoder(name: str, architecture: str) -> GraphModel:
    return GraphModel(architecture, partial(_convert_encoder, name), partial(_encoder_reference, name))


def _reranker(name: str, architecture: str) -> GraphModel:
    return GraphModel(architecture, partial(_convert_encoder, name), partial(_reranker_reference, name))


def _decoder(name: str, architecture: str) -> GraphModel:
    return GraphModel(architecture, partial(_convert_decoder, DECODERS[name]), partial(_decoder_reference, name))


def _changed(name: str, architecture: str, pooling: Pooling) -> GraphModel:
    write = partial(_convert_decoder, _changed_decoder(name))
    return GraphModel(architecture, write, partial(_stored_reference, name, pooling))


def _jina(name: str, pooling: Pooling = Pooling.MEAN, **form: bool) -> GraphModel:
    weights_of = name.removesuffix("_rank")
    write = partial(_write_jina, weights_of, head=pooling is Pooling.RANK, **form)
    return GraphModel("jina-bert-v2", write, partial(_stored_reference, name, pooling))


def _form(model: GraphModel, **changes: Any) -> GraphModel:
    """The same model, so with the same reference, in another form."""
    return replace(model, write=partial(_another_form, model.write, **changes))


CrispWriter = Callable[[Path, Path, Path], None]


def _write_crisp(name: str, write: CrispWriter, path: Path, outtype: OutType) -> None:
    original = path.with_name(f"{path.name}.original")
    _convert_encoder(name, original, outtype)
    write(original, path, original.with_suffix(".hf") / "tokenizer.json")


MODELS: dict[str, GraphModel] = {
    name: _encoder(name, "bert") for name in ("bert", "bert_unigram", "distilbert", "roberta", "xlm_roberta")
}
MODELS |= {name: _reranker(name, "bert") for name in ("bert_reranker", "roberta_reranker", "xlm_roberta_reranker")}
MODELS |= {name: _encoder(name, "modern-bert") for name in ("modern_bert", "modern_bert_silu")}
MODELS |= {name: _reranker(name, "modern-bert") for name in ("modern_bert_reranker", "modern_bert_reranker_cls")}
MODELS |= {
    "nomic_bert": _encoder("nomic_bert", "nomic-bert"),
    "jina_bert_v2": _jina("jina_bert_v2"),
    "jina_bert_v2_code": _jina("jina_bert_v2_code", split_gate=True),
    "jina_bert_v2_rank": _jina("jina_bert_v2_rank", Pooling.RANK),
    "qwen2_embedding": _decoder("qwen2_embedding", "qwen2"),
    "qwen2_last": _changed("qwen2_last", "qwen2", Pooling.LAST),
    "qwen2_bidirectional": _form(
        _changed("qwen2_bidirectional", "qwen2", Pooling.MEAN),
        metadata={"qwen2.attention.causal": (False, _BOOL)},
    ),
    "qwen3_embedding": _decoder("qwen3_embedding", "qwen3"),
    "qwen3_linear": _changed("qwen3_linear", "qwen3", Pooling.LAST),
    "qwen3_yarn": _changed("qwen3_yarn", "qwen3", Pooling.LAST),
    "gemma_embedding": _decoder("gemma_embedding", "gemma-embedding"),
    "gemma_plain": _decoder("gemma_plain", "gemma-embedding"),
    "gemma_seven_layers": _changed("gemma_seven_layers", "gemma-embedding", Pooling.MEAN),
}
MODELS |= {
    "mpnet": _encoder("mpnet", "mpnet"),
    "mpnet_reranker": _reranker("mpnet_reranker", "mpnet"),
    "distilbert_reranker": _reranker("distilbert_reranker", "distilbert"),
    "gte": _encoder("gte", "gte"),
    "gte_reranker": _reranker("gte_reranker", "gte"),
    "deberta_v2": _encoder("deberta_v2", "deberta-v2"),
    "deberta_v2_reranker": _reranker("deberta_v2_reranker", "deberta-v2"),
    "jina_v3": _encoder("jina_v3", "jina-bert-v3"),
    "t5_gated": _encoder("t5_gated", "t5encoder"),
    "t5_relu": _encoder("t5_relu", "t5encoder"),
}
MODELS |= {
    "jina_v3_without_adapters": _form(
        MODELS["jina_v3"],
        tensors=lambda tensors: {name: values for name, values in tensors.items() if ".lora_" not in name},
        metadata={f"jina-bert-v3.adapter.{key}": None for key in ("tasks", "rank", "scale")},
    ),
    "t5_of_llama_cpp": _form(MODELS["t5_gated"], metadata={"t5encoder.attention.causal": None}),
    "bert_fused_qkv": _form(MODELS["bert"], tensors=_fuse_qkv),
    "nomic_bert_split_qkv": _form(MODELS["nomic_bert"], tensors=_split_qkv),
    "jina_bert_v2_split_gate": _jina("jina_bert_v2", split_gate=True),
    "jina_bert_v2_fused_qkv": _jina("jina_bert_v2", split_qkv=False),
    # as llama.cpp's present converter writes jina-embeddings-v2-base-code; llama.cpp takes the wrong half as the gate
    "jina_bert_v2_code_fused_gate": replace(_jina("jina_bert_v2_code"), llama_agrees=False),
    "modern_bert_listed_layers": _form(
        MODELS["modern_bert"],
        metadata={
            "modern-bert.attention.sliding_window_pattern": ([False, True, True, False], _ARRAY, _BOOL),
            "modern-bert.hidden_activation": None,  # GELU
            "modern-bert.rope.freq_base_swa": None,  # 10,000
        },
    ),
    "gemma_periodic_layers": _form(
        MODELS["gemma_embedding"], metadata={"gemma-embedding.attention.sliding_window_pattern": (3, _UINT32)}
    ),
    "gemma_default_layers": _form(  # each sixth is global
        MODELS["gemma_seven_layers"],
        metadata={
            "gemma-embedding.attention.sliding_window_pattern": None,
            "gemma-embedding.rope.freq_base_swa": None,  # 10,000
        },
    ),
}
MODELS |= {
    f"{name}_of_crisp_embed": replace(MODELS[name], write=partial(_write_crisp, name, write_natively))
    for name in (
        *("mpnet", "bert", "bert_reranker", "bert_unigram", "roberta", "roberta_reranker"),
        *("xlm_roberta", "xlm_roberta_reranker", "modern_bert", "modern_bert_silu"),
        "modern_bert_reranker_cls",
    )
}
MODELS |= {
    f"{name}_of_crisp_embed_with_our_names": replace(
        MODELS[name], write=partial(_write_crisp, name, write_with_our_names)
    )
    for name in ("bert_reranker", "xlm_roberta_reranker", "xlm_roberta")
}

RUNNABLE = [name for name in MODELS if name != "qwen3_yarn"]
"""Those that OpenVINO runs; YaRN is left to llama.cpp."""
