"""Builds the sequence that a cross-encoder reads from a query and a document, in one of three forms.

WordPiece models (BERT): [CLS] query [SEP] document [SEP]; if the model has token types, the document and the last
[SEP] get the second type. Files with a chat template "rerank" (Qwen3's): the template with both filled in. All
others: query and document, separated by the tokens that the file asks for, as in llama-server
(tools/server/server-common.cpp, format_prompt_rerank).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gguf_embed.engines.base import EngineInfo, TextCodec
from gguf_embed.errors import DocumentTooLong, InvalidRequest, NotSupported, WayOut
from gguf_embed.gguf_file.rerank_prompt import INSTRUCTION, with_place_for_instruction
from gguf_embed.preprocessing.template import PlainTokenizer, ids_of, runs_of
from gguf_embed.preprocessing.tokenizers import Tokenizer
from gguf_embed.preprocessing.tokens import CHARACTERS_PER_TOKEN, MAX_CHARACTERS, TokenizedText

QUERY: Final = "{query}"
DOCUMENT: Final = "{document}"


@dataclass(frozen=True, slots=True)
class Pair:
    """A query with a document, before truncation, which only cuts `body`, and never its first `n_fixed` tokens."""

    opening: tuple[int, ...]
    body: tuple[int, ...]  # ends with the document; may begin with text that must be tokenized together with it
    n_fixed: int  # tokens at the beginning of the body that do not belong to the document
    closing: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        return len(self.opening) + len(self.body) + len(self.closing)


PairMaker = Callable[[str], Pair]
"""Makes the pair of a fixed query and a document."""


@dataclass(frozen=True, slots=True)
class PairLimits:
    """Limits on a pair."""

    max_tokens: int
    truncate: bool
    max_document_tokens: int | None = None  # longer documents are cut, regardless of `truncate`
    cut_start: bool = False  # cut documents at their beginning instead of their end


@dataclass(frozen=True, slots=True)
class PairForm:
    """How a model expects a pair."""

    template: str = ""  # from the file; "": concatenated
    has_second_text: bool = False  # id + n_vocab means the same token with the second token type
    has_two_separators: bool = False  # of WordPiece models, which otherwise have one between the texts
    instruction: str | None = None  # instead of the template's own

    def filled_template(self) -> str:
        """The template, with a placeholder if there is an instruction. Raises `InvalidRequest` if it takes none."""
        if self.instruction is None:
            return self.template
        template = with_place_for_instruction(self.template)
        if template is None:
            raise InvalidRequest("this model was not made for instructions: leave it out", "instruction")
        return template


def pair_form(template: str, info: EngineInfo) -> PairForm:
    """The form for a loaded model. `template` is the file's, if it has one."""
    return PairForm(template, info.has_second_text, has_two_separators=info.architecture == "mpnet")


def pair_maker(codec: TextCodec, tokenizer: Tokenizer, form: PairForm, query: str) -> PairMaker:
    """A maker for pairs with `query`, in the model's form.

    Raises `NotSupported` for a template that lacks a placeholder for the query or the document.
    """
    vocabulary = codec.vocabulary()
    if form.template or form.instruction is not None:
        texts = {QUERY: query, INSTRUCTION: form.instruction or ""}
        return _templated(PlainTokenizer(tokenizer), form.filled_template(), texts)
    words = tokenizer.encode(query, add_special=False)
    bos = [vocabulary.bos_id] if vocabulary.bos_id is not None else []
    sep = [vocabulary.sep_id] if vocabulary.sep_id is not None else []
    eos = [vocabulary.eos_id] if vocabulary.eos_id is not None else sep
    if vocabulary.kind == "wpm" and tokenizer.name == "exact":
        second = len(vocabulary.entries) if form.has_second_text else 0
        last = sep or eos
        between = [*last, *last] if form.has_two_separators else last
        return _joined(tokenizer, [*bos, *words, *between], last, second)
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


def _templated(tokenizer: PlainTokenizer, template: str, texts: Mapping[str, str]) -> PairMaker:
    """Tokenize the text between special tokens in one piece, but end a piece after the document, which may be cut."""
    if template.count(DOCUMENT) != 1 or QUERY not in template:
        raise NotSupported(
            f"this file's rerank template must contain {QUERY}, and {DOCUMENT} exactly once", [WayOut.REPAIR_FILE]
        )
    before, after = template.split(DOCUMENT)
    *first, start = runs_of(tokenizer, before, texts)
    opening = tuple(token for run in first for token in ids_of(tokenizer, run))
    if isinstance(start, int):
        opening, start = (*opening, start), ""
    closing = tuple(token for run in runs_of(tokenizer, after, texts) for token in ids_of(tokenizer, run))
    n_fixed = len(tokenizer.text(start))

    def make(document: str) -> Pair:
        return Pair(opening, tokenizer.text(start + document), n_fixed, closing)

    return make


def check_query(empty: Pair, limits: PairLimits) -> None:
    """Raises `InvalidRequest` if the query leaves no room for a document. `empty` is its pair with "" as document."""
    if empty.n_tokens >= limits.max_tokens:
        raise InvalidRequest(
            f"the query is too large ({empty.n_tokens} tokens alone including special tokens, the limit for query and "
            f"document together is {limits.max_tokens}): shorten the query (queries are never cut)",
            "query",
        )


def check_characters(query: str, documents: tuple[str, ...], max_tokens: int) -> None:
    """Check sizes before tokenizing, which takes about 150 bytes and a microsecond per character."""
    limit = max(MAX_CHARACTERS, CHARACTERS_PER_TOKEN * max_tokens)
    if not query.strip():
        raise InvalidRequest("the query is empty", "query")
    if len(query) > limit:
        raise InvalidRequest(
            f"the query is too large ({len(query):,} characters, the limit is {limit:,}): shorten it", "query"
        )
    for index, document in enumerate(documents):
        if len(document) > limit:
            raise InvalidRequest(
                f"document {index} is too large ({len(document):,} characters, the limit per document is {limit:,}): "
                "split it",
                "documents",
            )


def cut_pair(pair: Pair, limits: PairLimits) -> TokenizedText:
    """The pair's tokens, with the document's end (or beginning) cut off if `limits` say so. Call `check_query` first.

    Raises `DocumentTooLong` with index 0 if the document is too long and must not be cut.
    """
    n_kept = len(pair.body)
    if limits.max_document_tokens is not None:
        n_kept = min(n_kept, pair.n_fixed + limits.max_document_tokens)
    room = limits.max_tokens - len(pair.opening) - len(pair.closing)
    if n_kept > room and not limits.truncate:
        raise DocumentTooLong(0, pair.n_tokens, limits.max_tokens)
    n_kept = min(n_kept, room)
    if limits.cut_start:
        n_dropped = len(pair.body) - n_kept
        body = (*pair.body[: pair.n_fixed], *pair.body[pair.n_fixed + n_dropped :])
    else:
        body = pair.body[:n_kept]
    return TokenizedText([*pair.opening, *body, *pair.closing], pair.n_tokens)
