"""CLIP's tokenizer: byte-level BPE over lower-cased words, each ending in "</w>". Rebuilt from a file's vocabulary.

The rules are those of Hugging Face's CLIPTokenizer. OpenAI's own code repairs broken encodings before (ftfy), and so
differs on such texts.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from gguf_embed.errors import ModelFileError
from gguf_embed.tokenization.known_ids import require_known
from gguf_embed.tokenization.offsets import trim
from gguf_embed.types import Span, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD: Final = "</w>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_N_BYTES = 256

Merge = tuple[str, str]


class ClipCodec:
    """Implements `TextCodec` and `ExactTokenizing` of the engines' contract. Any thread; there is nothing to close."""

    def __init__(self, entries: Sequence[str], merges: Sequence[str] = ()) -> None:
        """`merges` are "left right", best first; () rebuilds them from the order of the entries (about a second).

        Raises `ModelFileError` for a vocabulary without CLIP's special tokens, or with merges that do not fit it.
        """
        ids = {entry: token for token, entry in enumerate(entries)}
        if BOS not in ids or EOS not in ids:
            raise ModelFileError(f"its vocabulary has no {BOS if BOS not in ids else EOS}; convert the model again")
        self._bos, self._eos = ids[BOS], ids[EOS]
        self._entries = tuple(entries)
        self._ids = ids
        self._merges = [_pair(merge) for merge in merges] or rebuilt_merges(entries)
        self._tokenizer = self._build()
        self._literal: Tokenizer | None = None
        self._lock = threading.Lock()
        self._bytes = {character: byte for byte, character in enumerate(byte_characters())}

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(
            kind="bpe",
            entries=self._entries,
            bos_id=self._bos,
            eos_id=self._eos,
            unk_id=self._eos,
            pad_id=self._eos,
            adds_bos=True,
            adds_eos=True,
            lowercase=True,
        )

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        tokenizer = self._tokenizer if parse_special else self._literal_tokenizer()
        ids: list[int] = tokenizer.encode(text, add_special_tokens=add_special).ids
        return ids

    def tokenize_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def tokenize_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        encoding = self._tokenizer.encode(text)
        found = zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
        return encoding.ids, [None if is_special else trim(text, *span) for span, is_special in found]

    def token_bytes(self, token: int) -> bytes:
        """A word's last token ends in a space, because the original forgets which words had one."""
        require_known([token], len(self._entries))
        entry = self._entries[token]
        if token in (self._bos, self._eos):
            return entry.encode()
        stem = entry.removesuffix(END_OF_WORD)
        known = b"".join(bytes([self._bytes[c]]) if c in self._bytes else c.encode() for c in stem)
        return known + (b" " if entry.endswith(END_OF_WORD) else b"")

    def detokenize(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace").strip()

    def _literal_tokenizer(self) -> Tokenizer:
        """A tokenizer that reads "<|endoftext|>" in a text as ordinary text. Created on first use."""
        with self._lock:
            if self._literal is None:
                self._literal = self._build()
                self._literal.encode_special_tokens = True
            return self._literal

    def _build(self) -> Tokenizer:
        # imported here, because it takes 20 ms that other models need not wait for
        from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

        try:
            model = models.BPE(
                vocab=self._ids,
                merges=self._merges,
                continuing_subword_prefix="",
                end_of_word_suffix=END_OF_WORD,
                unk_token=EOS,
            )
        except Exception as exc:  # the package raises nothing more specific
            raise ModelFileError(f"its merges do not fit its vocabulary: {exc}; convert the model again") from exc
        tokenizer: Tokenizer = Tokenizer(model)
        tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in (BOS, EOS)])
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        split = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        tokenizer.post_processor = processors.RobertaProcessing(
            (EOS, self._eos), (BOS, self._bos), trim_offsets=False, add_prefix_space=False
        )
        return tokenizer


def rebuilt_merges(entries: Sequence[str]) -> list[Merge]:
    """The merges of a vocabulary in the original's order: bytes, bytes that end a word, then each merge's result.

    A result is made by its own merge from two parts, and these by earlier ones: so all merges before it, applied to its
    characters, leave two parts. Raises `ModelFileError` for an entry of which they leave more.
    """
    ranks: dict[Merge, int] = {}
    for entry in entries[2 * _N_BYTES :]:
        if entry in (BOS, EOS) or entry.startswith("[unused"):
            continue
        parts = _merged(entry, ranks)
        if len(parts) != 2:
            raise ModelFileError(
                f"its vocabulary has no merges, and its entry {entry!r} does not follow from those before it: "
                "convert the model again"
            )
        ranks[parts[0], parts[1]] = len(ranks)
    return list(ranks)


def _merged(entry: str, ranks: dict[Merge, int]) -> list[str]:
    """The parts of an entry after all known merges, best first."""
    stem = entry.removesuffix(END_OF_WORD)
    parts = list(stem)
    if parts and stem != entry:
        parts[-1] += END_OF_WORD
    while len(parts) > 1:
        found = [(ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in ranks]
        if not found:
            break
        _, at = min(found)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _pair(merge: str) -> Merge:
    left, _, right = merge.partition(" ")
    return left, right


def byte_characters() -> list[str]:
    """GPT-2's character for each of the 256 bytes: printable ones stand for themselves, the others follow from 256."""
    shown = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    characters, n_others = [], 0
    for byte in range(_N_BYTES):
        if byte in shown:
            characters.append(chr(byte))
        else:
            characters.append(chr(_N_BYTES + n_others))
            n_others += 1
    return characters
