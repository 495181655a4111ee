"""What a request's inputs are read as, where it asks for tokens, spans, windows or single failures: see `asks_more`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gguf_embed.errors import EmbedError, InputTooLong, InvalidInput, InvalidRequest, NotSupported
from gguf_embed.preprocessing.token_offsets import OffsetMapper, check_offset_budget
from gguf_embed.preprocessing.tokens import (
    SpecialTokens,
    Tokenizer,
    TokenLimits,
    check_characters,
    prepare,
    special_tokens_of,
)
from gguf_embed.preprocessing.windows import Window, plan_windows
from gguf_embed.tokenization.unicode import valid_unicode
from gguf_embed.types import EmbedRequest, Input, ModelInfo, Pooling, Span, TokenizedText

_ANY_LENGTH = 2**31 - 1  # tokens; the limit in characters remains


@dataclass(frozen=True, slots=True)
class TokenizePlan:
    """How the inputs of one request are to be read."""

    tokenizer: Tokenizer
    limits: TokenLimits
    truncate: bool
    n_prefix: int  # characters of the prompt that stands before every text
    in_windows: bool  # a text over the limit
    with_offsets: bool
    keeps_errors: bool  # of each input, instead of raising the first
    explain: Callable[[InputTooLong], InputTooLong]  # puts in what its request could do; may raise another error

    @property
    def places(self) -> bool:
        """Whether tokens are given their places in the text, which takes a tokenizer several times as long."""
        return self.with_offsets or (self.in_windows and self.n_prefix > 0)


@dataclass(frozen=True, slots=True)
class TokenizedInput:
    """One input as it is read."""

    tokens: Sequence[int]  # all that are read, one window after the other
    n_tokens: int  # before truncation or windows
    n_characters: int  # of the text as it was sent; 0 where token ids were
    offsets: Sequence[Span | None] = ()  # of `tokens`, where they are asked for
    windows: Sequence[Window] = ()  # empty: read as a whole

    @property
    def sequences(self) -> Sequence[Sequence[int]]:
        """What the engine runs."""
        if not self.windows:
            return [self.tokens]
        ends = np.cumsum([len(window.positions) for window in self.windows])
        return [self.tokens[end - len(window.positions) : end] for window, end in zip(self.windows, ends, strict=True)]


def asks_more(request: EmbedRequest) -> bool:
    """Whether a request needs more than a vector or the token rows of each input."""
    return bool(request.spans) or request.return_tokens or request.long_input != "error" or request.on_error != "fail"


def check_combination(request: EmbedRequest, info: ModelInfo, pooling: Pooling) -> None:
    """Refuse what has no meaning together. Raises `InvalidRequest` or `NotSupported`."""
    if request.spans:
        _check_spans(request, info, pooling)
    if request.long_input == "error":
        return
    if pooling is Pooling.RANK:
        raise NotSupported("scores cannot be averaged over the parts of a text: leave long_input out")
    if pooling is Pooling.NONE:
        raise InvalidRequest(
            "long_input chunk_mean averages vectors, and pooling none asks for one per token: leave one of them out",
            "long_input",
        )
    if request.truncate:
        raise InvalidRequest(
            "truncate cuts a long text and long_input chunk_mean reads all of it: send one of them", "long_input"
        )


def _check_spans(request: EmbedRequest, info: ModelInfo, pooling: Pooling) -> None:
    assert len(request.spans) == len(request.inputs), request.spans
    if pooling is Pooling.RANK:
        raise NotSupported("a reranker gives scores, not vectors of spans: ask an embedding model")
    if pooling is not Pooling.MEAN and request.pooling is not None:
        raise InvalidRequest(
            f"the vector of a span is the mean of its tokens, and this request asks for pooling {pooling}: leave "
            '"pooling" out, or send "mean"',
            "pooling",
        )
    if pooling is not Pooling.MEAN:
        raise InvalidRequest(
            f"the vector of a span is the mean of its tokens, and {info.name} pools by {pooling}, so it was probably "
            'not trained for that: send "pooling": "mean" to get it all the same',
            "pooling",
        )
    if request.long_input != "error":
        field = "late_chunking reads its chunks" if request.spans_are_inputs else "spans are read"
        raise InvalidRequest(f"{field} within the whole text, long_input in parts: send one of them", "long_input")


def read_inputs(inputs: Sequence[Input], reader: TokenizePlan) -> list[TokenizedInput | EmbedError]:
    """All inputs, in order; errors among them only where the reader keeps them, else the first is raised."""
    if reader.with_offsets:
        check_offset_budget(inputs)
    frame = _frame(reader) if reader.in_windows else None
    texts: Sequence[TokenizedText | EmbedError]
    try:
        texts = _prepare(inputs, reader)
    except (InvalidInput, InputTooLong):
        if not reader.keeps_errors:
            raise
        texts = [_prepare_one(prompt, reader, index) for index, prompt in enumerate(inputs)]
    placing = OffsetMapper(reader.tokenizer)
    return [
        text if isinstance(text, EmbedError) else _read(prompt, text, (reader, placing, frame))
        for prompt, text in zip(inputs, texts, strict=True)
    ]


def _frame(reader: TokenizePlan) -> SpecialTokens:
    frame, limit = special_tokens_of(reader.tokenizer), reader.limits.max_tokens
    if limit <= len(frame.opening) + len(frame.closing):
        raise NotSupported(f"the limit per text is {limit} tokens, too few for windows: start with a larger -c")
    return frame


def _prepare(inputs: Sequence[Input], reader: TokenizePlan) -> list[TokenizedText]:
    limits = reader.limits
    if reader.in_windows:
        check_characters(inputs, limits)
        limits = replace(limits, max_tokens=_ANY_LENGTH)
    try:
        return prepare(inputs, reader.tokenizer, limits, truncate=reader.truncate)
    except InputTooLong as error:
        raise reader.explain(error) from None


def _prepare_one(prompt: Input, reader: TokenizePlan, index: int) -> TokenizedText | EmbedError:
    try:
        return _prepare([prompt], reader)[0]
    except (InvalidInput, InputTooLong) as error:
        return error.for_input(index)


def _read(
    prompt: Input, text: TokenizedText, how: tuple[TokenizePlan, OffsetMapper, SpecialTokens | None]
) -> TokenizedInput:
    reader, placing, frame = how
    offsets = _offsets(prompt, text, reader.n_prefix, placing) if reader.with_offsets else ()
    n_characters = len(valid_unicode(prompt)) - reader.n_prefix if isinstance(prompt, str) else 0
    if frame is None or len(text.tokens) <= reader.limits.max_tokens:
        return TokenizedInput(text.tokens, text.n_tokens, n_characters, offsets)
    n_opening, n_closing = _n_around(text.tokens, frame)
    if reader.n_prefix and isinstance(prompt, str):
        n_opening += _n_prefix_tokens(prompt, n_opening, text.tokens, (reader, placing))
    if n_opening + n_closing >= reader.limits.max_tokens:
        raise InvalidRequest(
            f"the prompt is as long as a window of {reader.limits.max_tokens} tokens: send a shorter one",
            "prompt",
        )
    windows = plan_windows(text.n_tokens, n_opening, n_closing, reader.limits.max_tokens)
    positions = [position for window in windows for position in window.positions]
    return TokenizedInput(
        [text.tokens[position] for position in positions],
        text.n_tokens,
        n_characters,
        [offsets[position] for position in positions] if offsets else (),
        windows,
    )


def _n_around(tokens: Sequence[int], frame: SpecialTokens) -> tuple[int, int]:
    """How many tokens at the ends are the model's special ones; token ids from a client may have none."""
    n_opening, n_closing = len(frame.opening), len(frame.closing)
    opens = tuple(tokens[:n_opening]) == frame.opening
    closes = tuple(tokens[len(tokens) - n_closing :]) == frame.closing
    return (n_opening if opens else 0), (n_closing if closes else 0)


def _n_prefix_tokens(prompt: str, n_opening: int, tokens: Sequence[int], how: tuple[TokenizePlan, OffsetMapper]) -> int:
    """How many tokens after the opening ones are the prompt's alone: every window begins with them."""
    reader, placing = how
    if reader.n_prefix > reader.limits.max_tokens:  # perhaps too long for a window: not worth the search for its end
        n_tokens = len(reader.tokenizer.encode(prompt[: reader.n_prefix], add_special=False))
        if n_tokens > reader.limits.max_tokens:
            return n_tokens
    return placing.count_within(prompt, reader.n_prefix, n_opening, tokens)


def _offsets(prompt: Input, text: TokenizedText, n_prefix: int, placing: OffsetMapper) -> Sequence[Span | None]:
    """In the text as it was sent, so without the prompt before it. None for all tokens of an input of ids."""
    if not isinstance(prompt, str):
        return [None] * len(text.tokens)
    return [span and _without_prefix(span, n_prefix) for span in placing.for_kept(prompt, text)]


def _without_prefix(span: Span, n_prefix: int) -> Span | None:
    start, end = max(span[0] - n_prefix, 0), span[1] - n_prefix
    return (start, end) if start < end else None
