"""Token ids of a text, and its tokens with pieces and offsets. Any thread."""

from __future__ import annotations

from collections.abc import Sequence

from gguf_embed.model_pool.loading import LoadedModel
from gguf_embed.preprocessing.abandoned import check_abandoned
from gguf_embed.preprocessing.token_offsets import OffsetMapper, check_offset_budget
from gguf_embed.preprocessing.tokenizers import special_tokens_of
from gguf_embed.preprocessing.tokens import TokenizedText, check_characters, tokenize_input
from gguf_embed.service.embed_result import pieces_of
from gguf_embed.types import Input, TextTokens, TokenInfo


def token_ids(model: LoadedModel, content: Input, add_special: bool, parse_special: bool) -> list[int]:
    """The ids that the engine would run."""
    parts = (content,) if isinstance(content, str) else content
    tokens: list[int] = []
    for position, part in enumerate(parts):
        with_special = add_special and position == 0
        if not isinstance(part, str):
            tokens += tokenize_input((part,), model.tokenizer, model.limits.n_vocab)
        else:
            tokens += model.tokenizer.encode(part, add_special=with_special, parse_special=parse_special)
    return tokens


def tokens_of_texts(model: LoadedModel, texts: Sequence[str], add_special: bool) -> list[TextTokens]:
    """All tokens of each text. Raises `InvalidRequest` if the texts exceed the offset budget."""
    check_offset_budget(texts)
    check_characters(texts, model.limits)
    offsets = OffsetMapper(model.tokenizer)
    special = special_tokens_of(model.tokenizer)
    found: list[TextTokens] = []
    for text in texts:
        check_abandoned()
        ids = model.tokenizer.encode(text)
        spans = offsets.for_kept(text, TokenizedText(ids, len(ids))) if ids else []
        own = range(len(ids))
        if special.surround(ids):
            own = range(len(special.opening), len(ids) - len(special.closing))
        if not add_special:
            ids, spans, own = ids[own.start : own.stop], spans[own.start : own.stop], range(len(own))
        found.append(TextTokens(TokenInfo(ids, pieces_of(model.codec, ids), spans), own))
    return found
