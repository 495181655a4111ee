"""From what a client sent to the token ids that the engine runs: choose the rules, tokenize, check, cut."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, Protocol

from gguf_embed.engines.base import ExactTokenizing, TextCodec
from gguf_embed.errors import InputTooLong, InvalidInput
from gguf_embed.preprocessing.windows import Window
from gguf_embed.tokenization.offsets import MAX_ALIGNED_CHARACTERS, MAX_OFFSET_CHARACTERS, align
from gguf_embed.tokenization.unicode import valid_unicode
from gguf_embed.tokenization.wordpiece import ExactWordPiece
from gguf_embed.types import Input, Span, Truncation, Vocabulary

TokenizerChoice = Literal["auto", "llama"]

MAX_CHARACTERS = 1_000_000
"""In one text, or `CHARACTERS_PER_TOKEN` times the model's limit where that is more: a text is tokenized as a whole."""

CHARACTERS_PER_TOKEN = 64
GROUP_CHARACTERS = 500_000
"""Texts that are given to the tokenizer together: memory is bounded, the cost of a call is not felt."""


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """One input as the model reads it. Unless there are windows, `n_tokens - len(tokens)` were cut."""

    tokens: Sequence[int]  # vocabulary ids, special tokens included; with windows, of one window after the other
    n_tokens: int  # before truncation or windows
    offsets: Sequence[Span | None] = ()  # of `tokens` in the text as it was sent, where they are asked for
    windows: Sequence[Window] = ()  # empty: read as a whole
    n_characters: int = 0  # of the text as it was sent, where `offsets` are asked for; 0 where token ids were sent

    @property
    def sequences(self) -> Sequence[Sequence[int]]:
        """What the engine runs."""
        if not self.windows:
            return [self.tokens]
        ends = list(accumulate(len(window.positions) for window in self.windows))
        return [self.tokens[end - len(window.positions) : end] for window, end in zip(self.windows, ends, strict=True)]


class Tokenizer(Protocol):
    """Text to vocabulary ids. Safe from any thread. "[SEP]" and the like in a text become that token."""

    name: str  # "exact" (the model's own rules) or "llama" (llama.cpp's)
    max_offset_characters: int  # characters per request that `encode_with_offsets` may be given

    def encode(self, text: str, *, add_special: bool = True) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, special tokens added, in order."""
        ...

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        """`encode` with special tokens added, and where each token stands in the text; None: nowhere, or not known."""
        ...


class LlamaTokenizer:
    """llama.cpp's own ids: for every vocabulary but WordPiece, and for indexes that were built with them."""

    name = "llama"
    max_offset_characters = MAX_ALIGNED_CHARACTERS

    def __init__(self, codec: TextCodec, *, composes: bool = False) -> None:
        """`composes`: bring texts into Unicode's composed form first: the original does it, llama.cpp does not."""
        self._codec = codec
        self._composes = composes

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        valid = valid_unicode(text)
        read = unicodedata.normalize("NFC", valid) if self._composes else valid
        return self._codec.tokenize(read, add_special=add_special, parse_special=True)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        tokens, frame = self.encode(text), special_tokens_of(self)
        unknown = self._codec.vocabulary().unk_id
        own = tokens[len(frame.opening) : len(tokens) - len(frame.closing)]
        bytes_of = {token: self._codec.token_bytes(token) for token in set(own)}
        spans = align(valid_unicode(text), [None if token == unknown else bytes_of[token] for token in own])
        return tokens, [*(None for _ in frame.opening), *spans, *(None for _ in frame.closing)]


class FileTokenizer:
    """The original tokenizer that the model's file carries."""

    name = "exact"
    max_offset_characters = MAX_OFFSET_CHARACTERS

    def __init__(self, codec: TextCodec, exact: ExactTokenizing) -> None:
        """`exact` is the same codec."""
        self._codec = codec
        self._exact = exact

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        return self._codec.tokenize(valid_unicode(text), add_special=add_special, parse_special=True)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._exact.tokenize_batch([valid_unicode(text) for text in texts])

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        return self._exact.tokenize_with_offsets(valid_unicode(text))


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The special tokens that a tokenizer puts before and after a text."""

    opening: tuple[int, ...]
    closing: tuple[int, ...]

    def surround(self, tokens: Sequence[int]) -> bool:
        """Whether `tokens` begin and end with them."""
        n_opening, n_closing = len(self.opening), len(self.closing)
        return (
            len(tokens) >= n_opening + n_closing
            and tuple(tokens[:n_opening]) == self.opening
            and tuple(tokens[len(tokens) - n_closing :]) == self.closing
        )


def special_tokens_around(with_special: Sequence[int], plain: Sequence[int]) -> SpecialTokens | None:
    """What stands around a text's own ids `plain` in its ids `with_special`; None where they are not found there."""
    begins = range(len(with_special) - len(plain) + 1)
    begin = next((at for at in begins if list(with_special[at : at + len(plain)]) == list(plain)), None)
    if begin is None:
        return None
    return SpecialTokens(tuple(with_special[:begin]), tuple(with_special[begin + len(plain) :]))


def special_tokens_of(tokenizer: Tokenizer) -> SpecialTokens:
    """Found by tokenizing one letter with them and without."""
    with_special, plain = tokenizer.encode("a"), tokenizer.encode("a", add_special=False)
    found = special_tokens_around(with_special, plain) if plain else None
    if found is not None:
        return found
    middle = len(with_special) // 2 if not plain else 0
    return SpecialTokens(tuple(with_special[:middle]), tuple(with_special[middle + len(plain) :]))


def choose_tokenizer(codec: TextCodec, exact: ExactTokenizing | None, choice: TokenizerChoice) -> Tokenizer:
    """The model's own rules where the file has them or we can rebuild them (WordPiece), else llama.cpp's.

    "llama" asks for llama.cpp's, where llama.cpp runs the model. Raises `ModelFileError`, with `--tokenizer llama` as
    the way out, for a WordPiece vocabulary that is not complete.
    """
    if exact is not None:
        return FileTokenizer(codec, exact)
    if choice == "llama":
        return LlamaTokenizer(codec)
    vocabulary = codec.vocabulary()
    if vocabulary.kind == "wpm":
        return ExactWordPiece(vocabulary)
    return LlamaTokenizer(codec, composes=vocabulary.composes)


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """What one input may hold for this model."""

    n_vocab: int
    max_tokens: int  # per input, special tokens included; at least 1
    closing: frozenset[int]  # ids that a cut must leave at the end: see `closing_ids`


def closing_ids(vocabulary: Vocabulary) -> frozenset[int]:
    """The ids that end a sequence: [SEP] for an encoder, EOS for a decoder, where pooling reads it."""
    return frozenset(token for token in (vocabulary.sep_id, vocabulary.eos_id) if token is not None)


def prepare(
    inputs: Sequence[Input], tokenizer: Tokenizer, limits: TokenLimits, *, truncate: bool
) -> list[TokenizedText]:
    """Tokenize and check all inputs of a request, in order. Plain texts go to the tokenizer in one call.

    Raises `InvalidInput` for an empty or absurdly long input or an unknown id, `InputTooLong` for one over
    `limits.max_tokens` unless `truncate`; both name the first such input.
    """
    check_characters(inputs, limits)
    encoded = _encode_in_groups([item for item in inputs if isinstance(item, str)], tokenizer)
    texts = []
    for index, item in enumerate(inputs):
        if isinstance(item, str):
            tokens = next(encoded)
            if not tokens:
                raise _empty(index, item)
        else:
            tokens = tokenize_input(item, tokenizer, limits.n_vocab, index)
        if len(tokens) > limits.max_tokens and not truncate:
            raise InputTooLong(index, len(tokens), limits.max_tokens)
        if len(tokens) <= limits.max_tokens:
            texts.append(TokenizedText(tokens, len(tokens)))
        else:
            texts.append(truncate_tokens(tokens, limits.max_tokens, limits.closing))
    return texts


def character_limit(max_tokens: int) -> int:
    """Characters in one text of a model that takes so many tokens."""
    return max(MAX_CHARACTERS, CHARACTERS_PER_TOKEN * max_tokens)


def check_characters(inputs: Sequence[Input], limits: TokenLimits) -> None:
    """Before tokenizing, which takes some 150 bytes of memory and a microsecond per character."""
    limit = character_limit(limits.max_tokens)
    for index, item in enumerate(inputs):
        n_characters = len(item) if isinstance(item, str) else _longest_part(item)
        if n_characters > limit:
            raise InvalidInput(index, f" has {n_characters:,} characters, the limit per text is {limit:,}: split it")


def _longest_part(item: Sequence[int | str]) -> int:
    return max((len(part) for part in item if isinstance(part, str)), default=0)


def _encode_in_groups(texts: Sequence[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """`encode_batch` over groups of texts, so that a large request never takes more memory than one group."""
    group: list[str] = []
    n_characters = 0
    for text in texts:
        if group and n_characters + len(text) > GROUP_CHARACTERS:
            yield from tokenizer.encode_batch(group)
            group, n_characters = [], 0
        group.append(text)
        n_characters += len(text)
    yield from tokenizer.encode_batch(group) if group else ()


def tokenize_input(item: Input, tokenizer: Tokenizer, n_vocab: int, index: int = 0) -> list[int]:
    """One input's ids. A text gets special tokens; ids alone stay as they are.

    In a mixed tuple only a text that comes first gets special tokens, as in llama-server.
    Raises `InvalidRequest`, naming the input by `index`, for an id outside 0..n_vocab-1 and for an empty input.
    """
    tokens: list[int] = []
    for position, part in enumerate((item,) if isinstance(item, str) else item):
        if isinstance(part, str):
            tokens += tokenizer.encode(part, add_special=position == 0)
        else:
            tokens.append(_known_id(part, n_vocab, index))
    if not tokens:
        raise _empty(index, item if isinstance(item, str) else "")
    return tokens


def truncate_tokens(tokens: Sequence[int], limit: int, closing: Collection[int]) -> TokenizedText:
    """Keep the first `limit` tokens; a closing token at the end stays there, in the place of the last one kept.

    So [CLS] a b c [SEP] cut to 4 is [CLS] a b [SEP], as the original models do it; cut to 2 it is [CLS] [SEP], and
    to 1 only [SEP]. `limit` is at least 1.
    """
    assert limit >= 1, limit
    if len(tokens) <= limit:
        return TokenizedText(tokens, len(tokens))
    kept = list(tokens[:limit])
    if tokens[-1] in closing:
        kept[-1] = tokens[-1]
    return TokenizedText(kept, len(tokens))


def truncations(texts: Sequence[TokenizedText]) -> tuple[Truncation, ...]:
    """Those of a request's texts that were cut."""
    return tuple(
        Truncation(index, text.n_tokens, len(text.tokens))
        for index, text in enumerate(texts)
        if len(text.tokens) < text.n_tokens
    )


def _empty(index: int, text: str) -> InvalidInput:
    """For an input without tokens; `text` is what gave none, "" when it was not one text."""
    if text.strip():
        return InvalidInput(
            index,
            " has no word or character that this model knows, so there is nothing to embed: "
            "leave it out, or ask another model",
        )
    return InvalidInput(index, " is empty: it gives no tokens, so there is nothing to embed")


def _known_id(token: int, n_vocab: int, index: int) -> int:
    if isinstance(token, bool) or not isinstance(token, int):
        raise InvalidInput(index, f": {token!r} is neither a text nor a token id")
    if not 0 <= token < n_vocab:
        raise InvalidInput(
            index, f": token id {token} is not in the model's vocabulary of {n_vocab} (0 to {n_vocab - 1})"
        )
    return token
