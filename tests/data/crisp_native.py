"""Rewrites our GGUF in CrispEmbed's own layout: keys of a config.json, layers `enc.N`, the original vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np

from tests.data.crisp_layout import TENSORS, as_tensor
from tests.gguf_models import finish

_KEYS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "intermediate_size": "feed_forward_length",
}
_NAMES = {
    "token_embd_norm": "embd_ln",
    "token_types": "token_type_embd",
    "attn_q": "attn.q",
    "attn_k": "attn.k",
    "attn_v": "attn.v",
    "attn_output": "attn.o",
    "attn_output_norm": "ln1",
    "ffn_up": "ffn.fc1",
    "ffn_down": "ffn.fc2",
    "layer_output_norm": "ln2",
}
_MODERN_NAMES = {"attn_norm": "ln1", "ffn_norm": "ln2", "ffn_up": "ffn_up_gate", "output_norm": "final_norm"}
_RANK_HEAD = {"cls": "classifier.dense", "cls.norm": "classifier.ln", "cls.output": "classifier.out_proj"}
_LEXICAL = {"gguf-embed.sparse.weight": "sparse_linear.weight", "gguf-embed.sparse.bias": "sparse_linear.bias"}
_OLD_CLS_ID = 101
"""Older files of MPNet have BERT's."""


def write_natively(source: Path, path: Path, tokenizer: Path, *, model_type: str = "dense") -> None:
    """`tokenizer`: the original's tokenizer.json. Positions are those of BERT, else begin with two rows of padding."""
    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    stored = json.loads(tokenizer.read_text("utf-8"))
    first = 0 if "[CLS]" in stored["model"]["vocab"] else 2
    is_modern = architecture == "modern-bert"

    def number(key: str) -> float:
        return float(reader.fields[f"{architecture}.{key}"].contents())

    writer = gguf.GGUFWriter(path, "bert")
    for theirs, ours in _KEYS.items():
        writer.add_uint32(f"bert.{theirs}", int(number(ours)))
    writer.add_float32("bert.layer_norm_eps", 1e-12 if is_modern else number("attention.layer_norm_epsilon"))
    if is_modern:
        writer.add_float32("bert.rope_theta", number("rope.freq_base_swa"))
        writer.add_float32("bert.rope_theta_global", number("rope.freq_base"))
        writer.add_uint32("bert.global_attn_every_n", int(number("attention.sliding_window_pattern")))
        writer.add_uint32("bert.local_attention", int(number("attention.sliding_window")))
        writer.add_string("bert.ffn_act", str(reader.fields["modern-bert.hidden_activation"].contents()))
        writer.add_string("bert.classifier_act", "gelu")
    writer.add_uint32("bert.max_position_embeddings", int(number("context_length")) + first)
    writer.add_uint32("bert.position_offset", first)
    has_rank_head = any(tensor.name.startswith("cls.") for tensor in reader.tensors)
    pooling = reader.fields.get(f"{architecture}.{'classifier.' * has_rank_head}pooling_type")
    writer.add_uint32("bert.pooling_method", int(pooling is not None and pooling.contents() == 2))
    writer.add_string("bert.model_type", model_type)
    if isinstance(stored["model"]["vocab"], list):
        writer.add_uint32("tokenizer.ggml.type", 2)
    _write_tokenizer(writer, stored)
    for tensor in reader.tensors:
        if tensor.name.endswith("attn_qkv.weight"):
            for part, rows in zip("qkv", np.split(tensor.data, 3), strict=True):
                writer.add_tensor(f"enc.{tensor.name.split('.')[1]}.attn.{part}.weight", rows)
            continue
        values = _with_padding(tensor, first)
        writer.add_tensor(_name(tensor.name, is_modern=is_modern), values, raw_dtype=tensor.tensor_type)
    n_embd = int(number("embedding_length"))
    if not has_rank_head:
        writer.add_tensor("pooler.weight", np.zeros((n_embd, n_embd), np.float32))
    is_mlm = "gguf-embed.sparse.norm.weight" in reader.fields
    for key, name in (TENSORS if is_mlm else TENSORS | _LEXICAL).items():
        if key in reader.fields:
            writer.add_tensor(name, as_tensor(reader.fields[key].contents(), n_embd, name))
    finish(writer, path)


def _with_padding(tensor: gguf.ReaderTensor, first: int) -> np.ndarray:
    """The tensor's rows; of the table of positions after so many that are never used."""
    if tensor.name != "position_embd.weight" or not first:
        return tensor.data
    return np.concatenate([np.full((first, tensor.data.shape[1]), 9.0, np.float32), tensor.data])


def _name(name: str, *, is_modern: bool) -> str:
    stem, _, suffix = name.rpartition(".")
    if stem in _RANK_HEAD:
        return f"{_RANK_HEAD[stem]}.{suffix}"
    at, _, part = stem.rpartition(".")
    renamed = f"{(_NAMES | _MODERN_NAMES if is_modern else _NAMES).get(part, part)}.{suffix}"
    return f"enc.{at.removeprefix('blk.')}.{renamed}" if at else renamed


def _write_tokenizer(writer: gguf.GGUFWriter, stored: dict) -> None:
    """Of XLM-R without its kind, which the two layouts write differently."""
    vocab, special = stored["model"]["vocab"], {token["content"]: token["id"] for token in stored["added_tokens"]}
    if isinstance(vocab, list):  # of pieces and scores
        ids = {"bos": special["<s>"], "eos": special["</s>"], "unknown": special["<unk>"], "padding": special["<pad>"]}
        writer.add_array("tokenizer.ggml.scores", [float(score) for _, score in vocab])
        entries = [text for text, _ in vocab]
    elif "merges" in stored["model"]:
        writer.add_uint32("tokenizer.ggml.type", 1)
        names = ("<s>", "</s>", "<unk>", "<pad>") if "<s>" in special else ("[CLS]", "[SEP]", "[UNK]", "[PAD]")
        ids = dict(zip(("cls", "sep", "unknown", "padding"), (special[name] for name in names), strict=True))
        merges = "\n".join(map(" ".join, stored["model"]["merges"])).encode()
        writer.add_tensor("tokenizer.merges", np.frombuffer(merges, np.int8))
        entries = sorted(vocab | special, key=(vocab | special).get)
    else:
        writer.add_uint32("tokenizer.ggml.type", 0)
        ids = {"unknown": vocab["[UNK]"], "cls": vocab.get("[CLS]", _OLD_CLS_ID)}
        ids |= {"sep": vocab["[SEP]"], "padding": vocab["[PAD]"]} if "[SEP]" in vocab else {}
        entries = sorted(vocab, key=vocab.get)
    for role, token in ids.items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", token)
    writer.add_array("tokenizer.ggml.tokens", entries)


def write_with_our_names(source: Path, path: Path, tokenizer: Path) -> None:
    """CrispEmbed's other layout: of XLM-R the architecture "xlmr", of BERT no id of the unknown token."""
    reader = gguf.GGUFReader(source)
    stored = json.loads(tokenizer.read_text("utf-8"))
    is_unigram = isinstance(stored["model"]["vocab"], list)
    first = 2 if is_unigram else 0
    architecture = "xlmr" if is_unigram else "bert"
    writer = gguf.GGUFWriter(path, architecture)
    for key in ("embedding_length", "block_count", "attention.head_count", "feed_forward_length", "context_length"):
        value = int(reader.fields[f"bert.{key}"].contents()) + (first if key == "context_length" else 0)
        writer.add_uint32(f"{architecture}.{key}", value)
    epsilon = float(reader.fields["bert.attention.layer_norm_epsilon"].contents())
    writer.add_float32(f"{architecture}.attention.layer_norm_epsilon", epsilon)
    if first:
        writer.add_uint32(f"{architecture}.position_offset", first)
    if is_unigram:
        writer.add_string("tokenizer.ggml.model", "llama")
        _write_tokenizer(writer, stored)
    else:
        fields = [name for name in reader.fields if name.startswith("tokenizer.") and "token_id" not in name]
        for name in fields:
            kinds = reader.fields[name].types
            content = reader.fields[name].contents()
            writer.add_key_value(name, content, kinds[0], kinds[-1] if len(kinds) > 1 else None)
        writer.add_uint32("tokenizer.ggml.cls_token_id", stored["model"]["vocab"]["[CLS]"])
        writer.add_uint32("tokenizer.ggml.separator_token_id", stored["model"]["vocab"]["[SEP]"])
    for tensor in reader.tensors:
        stem, _, suffix = tensor.name.rpartition(".")
        name = f"{_RANK_HEAD.get(stem, stem)}.{suffix}"
        writer.add_tensor(name, _with_padding(tensor, first), raw_dtype=tensor.tensor_type)
    finish(writer, path)
