"""Token sequences of queries and documents for late interaction (ColBERT): prefix, limit, expansion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gguf_embed.errors import InvalidRequest, WayOut
from gguf_embed.gguf_file.token_heads import LateInteraction
from gguf_embed.preprocessing.tokenizers import Tokenizer, special_tokens_of
from gguf_embed.preprocessing.tokens import TokenizedText, TokenLimits, prepare
from gguf_embed.types import Input


@dataclass(frozen=True, slots=True)
class TextForm:
    """How a model reads its queries, or its documents."""

    prefix: tuple[int, ...]  # ids after the tokens that open a text, as in PyLate and Stanford's ColBERT
    length: int | None  # limit in tokens; None: the model's
    expansion: int | None = None  # the token that fills a short text; None: nothing does
    expanded_length: int = 0  # up to so many tokens

    @property
    def changes_tokens(self) -> bool:
        """Whether a short text has other tokens than without this form."""
        return bool(self.prefix) or self.expansion is not None


def text_form(late: LateInteraction, *, is_query: bool) -> TextForm:
    if is_query:
        return TextForm(late.query_prefix, late.query_length, late.expansion_token, late.expansion_length)
    return TextForm(late.document_prefix, late.document_length)


def prepare_in_form(
    inputs: Sequence[Input], tokenizer: Tokenizer, limits: TokenLimits, form: TextForm, *, truncate: bool
) -> list[TokenizedText]:
    """Tokenize and check all inputs, in order. Raises what `prepare` raises, and `InvalidRequest` for a tiny limit."""
    limit = limits.max_tokens if form.length is None else min(limits.max_tokens, form.length)
    special, n_prefix = special_tokens_of(tokenizer), len(form.prefix)
    n_fixed = len(special.opening) + n_prefix + len(special.closing)
    if limit <= n_fixed:
        raise InvalidRequest(
            f"a limit of {limit} tokens leaves no room for a text: {n_fixed} are special tokens",
            ways_out=[WayOut.LARGER_CONTEXT],
        )
    texts = prepare(inputs, tokenizer, replace(limits, max_tokens=limit - n_prefix), truncate=truncate)
    return [_in_form(text, len(special.opening), limit, form) for text in texts]


def _in_form(text: TokenizedText, n_opening: int, limit: int, form: TextForm) -> TokenizedText:
    tokens = [*text.tokens[:n_opening], *form.prefix, *text.tokens[n_opening:]]
    if form.expansion is not None:
        tokens += [form.expansion] * (min(form.expanded_length, limit) - len(tokens))
    return TokenizedText(tokens, text.n_tokens + len(form.prefix))
