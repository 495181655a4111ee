"""Tiny GGUF models with random weights, for tests that need a real engine: each under 200 kB, the same for a seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase, digits, punctuation

import gguf
import numpy as np

from gguf_embed.types import Pooling

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(5)
WORDS = ("the", "hello", "world", "cat", "dog", "sat", "on", "mat", "a", "red", "##s", "##ing", "##ed", "##er")
CHARACTERS = (*ascii_lowercase, *digits, *punctuation, *"éßж中国한हไ")
TINY_VOCABULARY = (*SPECIALS, *dict.fromkeys((*WORDS, *CHARACTERS, *(f"##{c}" for c in ascii_lowercase + digits))))
"""Tokens by id in the original form ("##ing" continues a word)."""

DECODER_BOS, DECODER_EOS = 256, 257

_POOLING_NUMBERS = {Pooling.NONE: 0, Pooling.MEAN: 1, Pooling.CLS: 2, Pooling.LAST: 3, Pooling.RANK: 4}
_TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
_MERGES = ("h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld", "Ġ t", "Ġt he")


class Weights:
    """Adds random tensors to a writer; matrices in one type, everything else as F32."""

    def __init__(self, writer: gguf.GGUFWriter, outtype: str, seed: int) -> None:
        self._writer = writer
        self._type = _TYPES[outtype][0]
        self._random = np.random.default_rng(seed)

    def matrix(self, name: str, *shape: int, scale: float = 0.3) -> None:
        values = (self._random.standard_normal(shape) * scale).astype(np.float32)
        self._writer.add_tensor(name, gguf.quants.quantize(values, self._type), raw_dtype=self._type)

    def plain(self, name: str, *shape: int, scale: float = 0.1, mean: float = 0.0) -> None:
        self._writer.add_tensor(name, (mean + self._random.standard_normal(shape) * scale).astype(np.float32))


def write_tiny_encoder(
    path: Path,
    *,
    n_embd: int = 32,
    n_layer: int = 2,
    n_head: int = 4,
    n_ff: int = 64,
    n_ctx: int = 64,
    vocab: Sequence[str] = TINY_VOCABULARY,
    pooling: Pooling | None = Pooling.MEAN,
    rank_head: bool = False,
    outtype: str = "f32",
    seed: int = 0,
) -> Path:
    """A BERT with a WordPiece vocabulary. `vocab` begins with SPECIALS, tokens in the original form ("##ing").

    Its files declare `pooling` (nothing when None); `rank_head` adds a classifier with one output.
    """
    writer = gguf.GGUFWriter(path, "bert")
    describe(writer, "tiny-encoder", outtype, n_embd, n_layer, n_head, n_ff, n_ctx, pooling)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    _write_wordpiece(writer, vocab)
    weights = Weights(writer, outtype, seed)
    weights.matrix("token_embd.weight", len(vocab), n_embd)
    weights.plain("position_embd.weight", n_ctx, n_embd)
    weights.plain("token_types.weight", 2, n_embd)
    _add_norm(weights, "token_embd_norm", n_embd)
    for layer in range(n_layer):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add_linear(weights, f"blk.{layer}.{name}", n_embd, n_embd)
        _add_norm(weights, f"blk.{layer}.attn_output_norm", n_embd)
        add_linear(weights, f"blk.{layer}.ffn_up", n_ff, n_embd)
        add_linear(weights, f"blk.{layer}.ffn_down", n_embd, n_ff)
        _add_norm(weights, f"blk.{layer}.layer_output_norm", n_embd)
    if rank_head:
        add_linear(weights, "cls", n_embd, n_embd)
        add_linear(weights, "cls.output", 1, n_embd)
    return finish(writer, path)


def write_tiny_decoder(
    path: Path,
    *,
    n_embd: int = 32,
    n_layer: int = 2,
    n_head: int = 4,
    n_ff: int = 64,
    n_ctx: int = 64,
    pooling: Pooling | None = Pooling.LAST,
    add_bos: bool = False,
    add_eos: bool = True,
    causal: bool = True,
    outtype: str = "f32",
    seed: int = 0,
) -> Path:
    """A Qwen3, shaped like Qwen3-Embedding: causal, byte-level BPE, an EOS after every text, pooling last."""
    writer = gguf.GGUFWriter(path, "qwen3")
    describe(writer, "tiny-decoder", outtype, n_embd, n_layer, n_head, n_ff, n_ctx, pooling)
    writer.add_head_count_kv(n_head)
    writer.add_key_length(n_embd // n_head)
    writer.add_value_length(n_embd // n_head)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    if not causal:
        writer.add_causal_attention(False)
    n_vocab = write_bpe(writer, add_bos, add_eos)
    weights = Weights(writer, outtype, seed)
    weights.matrix("token_embd.weight", n_vocab, n_embd)
    weights.plain("output_norm.weight", n_embd, mean=1.0)
    for layer in range(n_layer):
        weights.plain(f"blk.{layer}.attn_norm.weight", n_embd, mean=1.0)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weights.matrix(f"blk.{layer}.{name}.weight", n_embd, n_embd)
        for name in ("attn_q_norm", "attn_k_norm"):
            weights.plain(f"blk.{layer}.{name}.weight", n_embd // n_head, mean=1.0)
        weights.plain(f"blk.{layer}.ffn_norm.weight", n_embd, mean=1.0)
        weights.matrix(f"blk.{layer}.ffn_gate.weight", n_ff, n_embd)
        weights.matrix(f"blk.{layer}.ffn_up.weight", n_ff, n_embd)
        weights.matrix(f"blk.{layer}.ffn_down.weight", n_embd, n_ff)
    return finish(writer, path)


def describe(
    writer: gguf.GGUFWriter,
    name: str,
    outtype: str,
    n_embd: int,
    n_layer: int,
    n_head: int,
    n_ff: int,
    n_ctx: int,
    pooling: Pooling | None,
) -> None:
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(int(_TYPES[outtype][1]))
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layer)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    if pooling is not None:
        writer.add_uint32(f"{writer.arch}.pooling_type", _POOLING_NUMBERS[pooling])


def add_linear(weights: Weights, name: str, n_out: int, n_in: int) -> None:
    weights.matrix(f"{name}.weight", n_out, n_in)
    weights.plain(f"{name}.bias", n_out)


def _add_norm(weights: Weights, name: str, n: int) -> None:
    weights.plain(f"{name}.weight", n, mean=1.0)
    weights.plain(f"{name}.bias", n)


def _write_wordpiece(writer: gguf.GGUFWriter, vocab: Sequence[str]) -> None:
    def stored(token: str) -> str:
        return token if token in SPECIALS else token[2:] if token.startswith("##") else "\u2581" + token

    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([stored(token) for token in vocab])
    writer.add_token_types(
        [int(gguf.TokenType.CONTROL if token in SPECIALS else gguf.TokenType.NORMAL) for token in vocab]
    )
    writer.add_bos_token_id(CLS)
    writer.add_eos_token_id(SEP)
    writer.add_unk_token_id(UNK)
    writer.add_sep_token_id(SEP)
    writer.add_pad_token_id(PAD)
    writer.add_mask_token_id(MASK)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.add_add_sep_token(False)


def _byte_characters() -> list[str]:
    """GPT-2's writing of bytes: printable ones as themselves, the others as the characters from 256 on, in order."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def write_bpe(writer: gguf.GGUFWriter, add_bos: bool, add_eos: bool) -> int:
    merged = [merge.replace(" ", "") for merge in _MERGES]
    tokens = [*_byte_characters(), "<|begin|>", "<|end|>", *merged]
    types = [int(gguf.TokenType.NORMAL)] * len(tokens)
    types[DECODER_BOS] = types[DECODER_EOS] = int(gguf.TokenType.CONTROL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(list(_MERGES))
    writer.add_bos_token_id(DECODER_BOS)
    writer.add_eos_token_id(DECODER_EOS)
    writer.add_pad_token_id(DECODER_EOS)
    writer.add_add_bos_token(add_bos)
    writer.add_add_eos_token(add_eos)
    return len(tokens)


def finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
