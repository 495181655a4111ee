"""Turns inputs into the token ids that the engine runs: tokenize, check, truncate."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from gguf_embed.errors import InputTooLong, InvalidInput
from gguf_embed.preprocessing.abandoned import check_abandoned
from gguf_embed.preprocessing.tokenizers import Tokenizer, special_tokens_of
from gguf_embed.preprocessing.windows import Window
from gguf_embed.types import Input, Span, Truncation, Vocabulary

MAX_CHARACTERS = 1_000_000
"""Limit per text, or `CHARACTERS_PER_TOKEN` times the model's limit if that is more. Texts are tokenized whole."""

ANY_LENGTH = 2**31 - 1  # tokens; the limit in characters still applies
CHARACTERS_PER_TOKEN = 64
GROUP_CHARACTERS = 500_000
"""Texts tokenized in one call: enough to make the cost of a call negligible, few enough to bound memory."""


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """One input as the model reads it. Without windows, truncation removed `n_tokens - len(tokens)` tokens."""

    tokens: Sequence[int]  # vocabulary ids, special tokens included; with windows, those of all windows in order
    n_tokens: int  # before truncation or windows
    offsets: Sequence[Span | None] = ()  # of `tokens`, in the text as it was sent, if requested
    windows: Sequence[Window] = ()  # empty: read as a whole
    n_characters: int = 0  # of the text as it was sent, if `offsets` were requested; 0 for an input of token ids

    @property
    def sequences(self) -> Sequence[Sequence[int]]:
        """The token sequences that the engine runs: one, or one per window."""
        if not self.windows:
            return [self.tokens]
        ends = list(accumulate(len(window.positions) for window in self.windows))
        return [self.tokens[end - len(window.positions) : end] for window, end in zip(self.windows, ends, strict=True)]


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """A model's limits on one input."""

    n_vocab: int
    max_tokens: int  # per input, special tokens included; at least 1
    closing: frozenset[int]  # ids that truncation must keep at the end, see `closing_ids`


def closing_ids(vocabulary: Vocabulary) -> frozenset[int]:
    """The ids that end a sequence: [SEP] for an encoder, EOS for a decoder, which pooling may read."""
    return frozenset(token for token in (vocabulary.sep_id, vocabulary.eos_id) if token is not None)


def prepare(
    inputs: Sequence[Input], tokenizer: Tokenizer, limits: TokenLimits, *, truncate: bool
) -> list[TokenizedText]:
    """Tokenize and check all inputs of a request, in order. Plain texts are tokenized in groups.

    Raises `InvalidInput` for an input that is empty, has too many characters or an unknown id, and `InputTooLong` for
    all over `limits.max_tokens` unless `truncate`. The first such input decides which it is.
    """
    check_characters(inputs, limits)
    too_long: list[tuple[int, int]] = []
    encoded = _encode_in_groups([item for item in inputs if isinstance(item, str)], tokenizer)
    texts = []
    for index, item in enumerate(inputs):
        try:
            tokens = next(encoded) if isinstance(item, str) else tokenize_input(item, tokenizer, limits.n_vocab, index)
            if not tokens:
                raise _empty(index, item if isinstance(item, str) else "")
        except InvalidInput:
            if too_long:
                break
            raise
        if len(tokens) > limits.max_tokens and not truncate:
            too_long.append((index, len(tokens)))
        elif len(tokens) <= limits.max_tokens:
            texts.append(TokenizedText(tokens, len(tokens)))
        else:
            texts.append(truncate_tokens(tokens, limits.max_tokens, limits.closing))
    if too_long:
        raise InputTooLong.of(too_long, limits.max_tokens)
    return texts


def prepare_ends(
    inputs: Sequence[Input], tokenizer: Tokenizer, limits: TokenLimits, prompt: str = ""
) -> list[TokenizedText]:
    """`prepare` for a request that has long texts cut at their beginning.

    What comes before the text itself is kept: the opening special tokens, and those of the prompt. Raises
    `InvalidInput` for an input of which they leave nothing.
    """
    check_characters(inputs, limits)
    whole = prepare(inputs, tokenizer, replace(limits, max_tokens=ANY_LENGTH), truncate=False)
    special = special_tokens_of(tokenizer)
    n_prompt = len(tokenizer.encode(prompt, add_special=False)) if prompt else 0
    texts = []
    for index, (item, text) in enumerate(zip(inputs, whole, strict=True)):
        begins = tuple(text.tokens[: len(special.opening)]) == special.opening
        n_front = (len(special.opening) if begins else 0) + (n_prompt if isinstance(item, str) else 0)
        n_closing = len(special.closing) if special.surround(text.tokens) else 0
        if len(text.tokens) > limits.max_tokens <= n_front + n_closing:
            raise InvalidInput(index, f": a limit of {limits.max_tokens} tokens leaves no room for the text itself")
        texts.append(cut_start(text.tokens, limits.max_tokens, n_front))
    return texts


def cut_start(tokens: Sequence[int], limit: int, n_front: int) -> TokenizedText:
    """Keep the first `n_front` and the last of the others, `limit` in total. `n_front` is less than `limit`."""
    if len(tokens) <= limit:
        return TokenizedText(tokens, len(tokens))
    return TokenizedText([*tokens[:n_front], *tokens[n_front + len(tokens) - limit :]], len(tokens))


def character_limit(max_tokens: int) -> int:
    """The limit on the characters of one text, for a model that takes `max_tokens`."""
    return max(MAX_CHARACTERS, CHARACTERS_PER_TOKEN * max_tokens)


def check_characters(inputs: Sequence[Input], limits: TokenLimits) -> None:
    """Check sizes before tokenizing, which takes about 150 bytes and a microsecond per character."""
    limit = character_limit(limits.max_tokens)
    for index, item in enumerate(inputs):
        n_characters = len(item) if isinstance(item, str) else _longest_part(item)
        if n_characters > limit:
            raise InvalidInput(
                index, f" is too large ({n_characters:,} characters, the limit per text is {limit:,}): split it"
            )


def _longest_part(item: Sequence[int | str]) -> int:
    return max((len(part) for part in item if isinstance(part, str)), default=0)


def _encode_in_groups(texts: Sequence[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """`encode_batch` for one group of texts at a time, so that a large request takes no more memory than one group."""
    group: list[str] = []
    n_characters = 0
    for text in texts:
        if group and n_characters + len(text) > GROUP_CHARACTERS:
            check_abandoned()
            yield from tokenizer.encode_batch(group)
            group, n_characters = [], 0
        group.append(text)
        n_characters += len(text)
    yield from tokenizer.encode_batch(group) if group else ()


def tokenize_input(item: Input, tokenizer: Tokenizer, n_vocab: int, index: int = 0) -> list[int]:
    """The ids of one input. A text gets special tokens; an input of ids alone stays unchanged.

    In a mixed tuple, only a text at the beginning gets special tokens, as in llama-server.
    Raises `InvalidInput` with `index` for an id outside 0..n_vocab-1 and for an empty input.
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
    """Keep the first `limit` tokens. A closing token at the end replaces the last one kept.

    For example, [CLS] a b c [SEP] cut to 4 is [CLS] a b [SEP], as the original tokenizers do it; cut to 2 it is
    [CLS] [SEP], and cut to 1 only [SEP]. `limit` is at least 1.
    """
    assert limit >= 1, limit
    if len(tokens) <= limit:
        return TokenizedText(tokens, len(tokens))
    kept = list(tokens[:limit])
    if tokens[-1] in closing:
        kept[-1] = tokens[-1]
    return TokenizedText(kept, len(tokens))


def truncations(texts: Sequence[TokenizedText]) -> tuple[Truncation, ...]:
    """The truncated ones among a request's texts."""
    return tuple(
        Truncation(index, text.n_tokens, len(text.tokens))
        for index, text in enumerate(texts)
        if len(text.tokens) < text.n_tokens
    )


def _empty(index: int, text: str) -> InvalidInput:
    """The error for an input without tokens. `text` is the input if it is a text, else ""."""
    if text.strip():
        return InvalidInput(
            index,
            " has no word or character that this model knows, so there is nothing to embed: "
            "leave it out, or use another model",
        )
    return InvalidInput(index, " is empty: it has no tokens, so there is nothing to embed")


def _known_id(token: int, n_vocab: int, index: int) -> int:
    if isinstance(token, bool) or not isinstance(token, int):
        raise InvalidInput(index, f": {token!r} is neither a text nor a token id")
    if not 0 <= token < n_vocab:
        raise InvalidInput(
            index, f": token id {token} is not in the model's vocabulary of {n_vocab} (0 to {n_vocab - 1})"
        )
    return token
