"""Checks what a request may ask of a model, and which options conflict."""

from __future__ import annotations

from dataclasses import replace

from gguf_embed.errors import GivesScoresOnly, InvalidRequest, NotSupported, WayOut
from gguf_embed.preprocessing.tokenizers import Tokenizer, special_tokens_of
from gguf_embed.preprocessing.tokens import TokenLimits
from gguf_embed.types import DENSE, TOKENS, EmbedRequest, ModelInfo, OutputSpec, Pooling

MAX_TOKEN_ROW_BYTES = 1_000_000_000
"""Limit on the token rows, or the MUVERA vectors, of one request, which are held until the reply is written."""

MIN_INPUT_TOKENS = 2
"""The smallest limit per text that makes sense: one token and one special token."""


def check_scores(request: EmbedRequest, info: ModelInfo) -> None:
    """Raises `NotSupported` if the model has no rank head, or if the request did not ask for scores."""
    if request.output is None and not (request.scores and info.n_scores):
        raise GivesScoresOnly(
            f"model {info.name!r} is a reranker: it returns scores, and vectors only if the request names a pooling",
            [WayOut.RERANK, WayOut.POOL],
        )
    if not info.n_scores:
        raise NotSupported(f"model {info.name!r} has no rank head, so it returns no scores", [WayOut.POOL])


def check_dimensions(dimensions: int, width: int) -> None:
    """Raises `InvalidRequest` for more dimensions than a row has."""
    if not 1 <= dimensions <= width:
        raise InvalidRequest(
            f"the request asks for {dimensions} dimensions, this model has {width}: ask for 1 to {width}", "dimensions"
        )


def check_bytes(n_rows: int, n_embd: int, what: str = "one vector per token") -> None:
    """Raises `InvalidRequest` if the rows of a request would take too much memory."""
    size_bytes = 4 * n_embd * n_rows
    if size_bytes > MAX_TOKEN_ROW_BYTES:
        raise InvalidRequest(
            f"{what} would take {size_bytes:,} bytes, the limit per request is {MAX_TOKEN_ROW_BYTES:,}",
            ways_out=[WayOut.FEWER_INPUTS],
        )


def text_limits(n_ctx: int, limits: TokenLimits) -> TokenLimits:
    """The limits with a request's own maximum of tokens per text, if that is shorter than the model's."""
    if n_ctx >= limits.max_tokens:
        return limits
    if n_ctx < MIN_INPUT_TOKENS:
        raise InvalidRequest(
            f"a text needs at least {MIN_INPUT_TOKENS} tokens, and the request limits texts to {n_ctx}",
            "options",
            ways_out=[WayOut.LARGER_CONTEXT],
        )
    return replace(limits, max_tokens=n_ctx)


def requested_limits(n_tokens: int, limits: TokenLimits, tokenizer: Tokenizer) -> TokenLimits:
    """The limits with a request's own `max_tokens`, if that is less than the model's. Raises `InvalidRequest`."""
    if n_tokens >= limits.max_tokens:
        return limits
    special = special_tokens_of(tokenizer)
    n_special = len(special.opening) + len(special.closing)
    if n_tokens <= n_special:
        raise InvalidRequest(
            f"the request limits texts to {n_tokens} tokens, and {n_special} of these are the model's special tokens: "
            f"ask for at least {n_special + 1}"
        )
    return replace(limits, max_tokens=n_tokens)


def check_combination(request: EmbedRequest, info: ModelInfo, output: OutputSpec) -> None:
    """Refuse options that conflict. Raises `InvalidRequest` or `NotSupported`."""
    if request.spans:
        _check_spans(request, info, output)
    if request.cut_start and (request.spans or request.return_tokens):
        raise InvalidRequest(
            "offsets of tokens and spans need the beginning of a text, and this request has it cut: have the end cut "
            "instead, or ask for one of them"
        )
    if request.long_input == "error":
        return
    if request.max_tokens is not None:
        raise InvalidRequest(
            "a limit per text cuts a long text, and an average over windows covers all of it: ask for one of them",
            "long_input",
        )
    if output.kind == TOKENS:
        raise InvalidRequest(
            "an average over windows is one vector per text, and pooling none gives one per token: ask for one of them",
            "long_input",
        )
    if output.kind != DENSE:
        raise NotSupported(f"{output.kind} cannot be averaged over the windows of a text", [WayOut.NO_AVERAGE])
    if request.truncate:
        raise InvalidRequest(
            "truncation cuts a long text, and an average over windows covers all of it: ask for one of them",
            "long_input",
        )


def _check_spans(request: EmbedRequest, info: ModelInfo, output: OutputSpec) -> None:
    assert len(request.spans) == len(request.inputs), request.spans
    if output.kind not in (DENSE, TOKENS):
        raise NotSupported(f"this model returns {output.kind}, so spans have no vectors: use an embedding model")
    if output.pooling is not Pooling.MEAN and request.output is not None:
        raise InvalidRequest(
            "the vector of a span is the mean of its token vectors, and this request asks for pooling "
            f"{output.pooling_name}: ask for pooling mean, or for none in particular",
            "pooling",
        )
    if output.pooling is not Pooling.MEAN:
        raise InvalidRequest(
            f"the vector of a span is the mean of its token vectors, and {info.name} was probably not trained for "
            f"that, because its pooling is {output.pooling_name}: ask for pooling mean to get it nevertheless",
            "pooling",
        )
    if request.long_input != "error":
        what = "chunks" if request.spans_are_inputs else "spans"
        raise InvalidRequest(
            f"{what} are read in the context of the whole text, and an average over windows splits the text: ask for "
            "one of them",
            "long_input",
        )
