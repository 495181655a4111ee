"""A query and a document as the one sequence that a cross-encoder reads, in three forms.

WordPiece models (BERT): [CLS] query [SEP] document [SEP], the document and the last [SEP] as the second text, where
the model has token types. Files with a chat template "rerank" (Qwen3's): that text with both put in. All others: one
after the other, with the tokens between that the file asks for, as llama-server does it
(tools/server/server-common.cpp, format_prompt_rerank).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from gguf_embed.engines.base import TextCodec
from gguf_embed.errors import DocumentTooLong, InvalidRequest, NotSupported, WayOut
from gguf_embed.preprocessing.tokens import CHARACTERS_PER_TOKEN, MAX_CHARACTERS, TokenizedText, Tokenizer
from gguf_embed.tokenization.unicode import valid_unicode

QUERY: Final = "{query}"
DOCUMENT: Final = "{document}"

_PLACES = re.compile(r"(\{query\}|\{document\})")
_MAYBE_SPECIAL = re.compile(r"(<[^<>\s]+>|\[[A-Z_]+\])")


@dataclass(frozen=True, slots=True)
class Pair:
    """One query with one document, uncut. Only `body` may be cut, at its end, down to its first `n_fixed` tokens."""

    opening: tuple[int, ...]
    body: tuple[int, ...]  # ends with the document; before it, where tokens may join the two, comes the query
    n_fixed: int  # tokens of the body that are not the document's
    closing: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        return len(self.opening) + len(self.body) + len(self.closing)


PairMaker = Callable[[str], Pair]
"""A document → the pair with the query that the maker was made for."""


@dataclass(frozen=True, slots=True)
class PairLimits:
    """What a pair may hold."""

    max_tokens: int
    truncate: bool
    max_document_tokens: int | None = None  # more are cut off whatever `truncate` says


@dataclass(frozen=True, slots=True)
class PairForm:
    """How a model reads a pair."""

    template: str = ""  # the file's; "": one text after the other
    has_second_text: bool = False  # id + n_vocab is the same token in the second text


def pair_maker(codec: TextCodec, tokenizer: Tokenizer, form: PairForm, query: str) -> PairMaker:
    """Put the query into the model's form.

    Raises `NotSupported` for a template without a place for the query or the document.
    """
    vocabulary = codec.vocabulary()
    if form.template:
        return _templated(_Plain(codec, vocabulary.composes), form.template, query)
    words = tokenizer.encode(query, add_special=False)
    bos = [vocabulary.bos_id] if vocabulary.bos_id is not None else []
    sep = [vocabulary.sep_id] if vocabulary.sep_id is not None else []
    eos = [vocabulary.eos_id] if vocabulary.eos_id is not None else sep
    if vocabulary.kind == "wpm" and tokenizer.name == "exact":
        second = len(vocabulary.entries) if form.has_second_text else 0
        last = sep or eos
        return _joined(tokenizer, [*bos, *words, *last], last, second)
    start = bos if vocabulary.adds_bos else []
    end = eos if vocabulary.adds_eos else []
    between = [*end, *(sep if vocabulary.adds_sep else [])]
    return _joined(tokenizer, [*start, *words, *between], end, 0)


def _joined(tokenizer: Tokenizer, opening: list[int], closing: list[int], second: int) -> PairMaker:
    first, last = tuple(opening), tuple(token + second for token in closing)

    def make(document: str) -> Pair:
        words = tokenizer.encode(document, add_special=False)
        return Pair(first, tuple(token + second for token in words) if second else tuple(words), 0, last)

    return make


class _Plain:
    """The vocabulary's ids, with special tokens or without: in a template only its own count, never a client's."""

    def __init__(self, codec: TextCodec, composes: bool) -> None:
        self._codec = codec
        self._composes = composes

    def text(self, text: str) -> tuple[int, ...]:
        valid = valid_unicode(text)
        read = unicodedata.normalize("NFC", valid) if self._composes else valid
        return tuple(self._codec.tokenize(read, add_special=False, parse_special=False)) if read else ()

    def special(self, text: str) -> int | None:
        """The id of a special token in its written form; None where this is ordinary text."""
        ids = self._codec.tokenize(text, add_special=False, parse_special=True)
        return ids[0] if len(ids) == 1 else None


def _templated(plain: _Plain, template: str, query: str) -> PairMaker:
    """Text between two special tokens is tokenized as a whole, but ends with the document, which may be cut there."""
    if template.count(DOCUMENT) != 1 or QUERY not in template:
        raise NotSupported(
            f"this file's rerank template must contain {QUERY}, and {DOCUMENT} once", [WayOut.REPAIR_FILE]
        )
    before, after = template.split(DOCUMENT)
    *first, start = _runs(plain, before, query)
    opening = tuple(token for run in first for token in _ids(plain, run))
    if isinstance(start, int):
        opening, start = (*opening, start), ""
    closing = tuple(token for run in _runs(plain, after, query) for token in _ids(plain, run))
    n_fixed = len(plain.text(start))

    def make(document: str) -> Pair:
        return Pair(opening, plain.text(start + document), n_fixed, closing)

    return make


def _ids(plain: _Plain, run: int | str) -> tuple[int, ...]:
    return (run,) if isinstance(run, int) else plain.text(run)


def _runs(plain: _Plain, template: str, query: str) -> list[int | str]:
    """Special tokens' ids and the texts between them, the query in its places; at least one."""
    runs: list[int | str] = [""]
    for part in _parts(template):
        token = plain.special(part) if _MAYBE_SPECIAL.fullmatch(part) else None
        last = runs[-1]
        if token is not None:
            runs.append(token)
        elif isinstance(last, str):
            runs[-1] = last + (query if part == QUERY else part)
        else:
            runs.append(query if part == QUERY else part)
    return runs


def _parts(template: str) -> Iterator[str]:
    for piece in _PLACES.split(template):
        yield from ([piece] if _PLACES.fullmatch(piece) else (part for part in _MAYBE_SPECIAL.split(piece) if part))


def check_query(empty: Pair, limits: PairLimits) -> None:
    """Raise `InvalidRequest` where the query leaves no room for a document; `empty` is its pair with none."""
    if empty.n_tokens >= limits.max_tokens:
        raise InvalidRequest(
            f"the query alone takes {empty.n_tokens} tokens with what is put around it, the limit for query and "
            f"document together is {limits.max_tokens}: shorten the query (a query is never cut)",
            "query",
        )


def check_characters(query: str, documents: tuple[str, ...], max_tokens: int) -> None:
    """Before tokenizing, which takes some 150 bytes of memory and a microsecond per character."""
    limit = max(MAX_CHARACTERS, CHARACTERS_PER_TOKEN * max_tokens)
    if not query.strip():
        raise InvalidRequest("the query is empty", "query")
    if len(query) > limit:
        raise InvalidRequest(f"the query has {len(query):,} characters, the limit is {limit:,}: shorten it", "query")
    for index, document in enumerate(documents):
        if len(document) > limit:
            raise InvalidRequest(
                f"document {index} has {len(document):,} characters, the limit per document is {limit:,}: split it",
                "documents",
            )


def cut_pair(pair: Pair, limits: PairLimits, index: int) -> TokenizedText:
    """The pair's tokens, the end of its document cut off where asked. `check_query` was passed before.

    Raises `DocumentTooLong`, naming the document by `index`, where it may not be cut.
    """
    n_kept = len(pair.body)
    if limits.max_document_tokens is not None:
        n_kept = min(n_kept, pair.n_fixed + limits.max_document_tokens)
    room = limits.max_tokens - len(pair.opening) - len(pair.closing)
    if n_kept > room and not limits.truncate:
        raise DocumentTooLong(index, pair.n_tokens, limits.max_tokens)
    return TokenizedText([*pair.opening, *pair.body[: min(n_kept, room)], *pair.closing], pair.n_tokens)
