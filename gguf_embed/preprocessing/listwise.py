"""Builds the text that a listwise reranker (jina-reranker-v3) reads: a query, several documents, the query again.

It is the prompt of the original's `modeling.py` up to the marker after the query: what follows there is seen by no
marker. A request with more documents than fit is read in several such blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gguf_embed.engines.base import TextCodec
from gguf_embed.errors import DocumentTooLong, InvalidRequest, LoneDocumentTooLong
from gguf_embed.gguf_file.listwise_head import ListwiseHead
from gguf_embed.preprocessing.abandoned import check_abandoned
from gguf_embed.preprocessing.pairs import PairLimits
from gguf_embed.preprocessing.template import PlainTokenizer, ids_of, runs_of
from gguf_embed.preprocessing.tokenizers import Tokenizer
from gguf_embed.preprocessing.tokens import TokenizedText
from gguf_embed.types import Truncation

_SYSTEM: Final = (
    "<|im_start|>system\nYou are a search relevance expert who can determine a ranking of the passages based on how "
    "relevant they are to the query. If the query is a question, how relevant a passage is depends on how well it "
    "answers the question. If not, try to analyze the intent of the query and assess how well each passage satisfies "
    "the intent. If an instruction is provided, you should follow the instruction when determining the ranking."
    "<|im_end|>\n<|im_start|>"
)
_TASK: Final = (
    "user\nI will provide you with {n} passages, each indicated by a numerical identifier. Rank the passages based on "
    "their relevance to query: "
)

_NEAR: Final = 16
"""Documents that leave fewer tokens than this in their block are counted again in the prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block(TokenizedText):
    """A query with the documents that are read together with it."""

    documents: range  # of the request
    truncated: tuple[Truncation, ...] = ()  # tokens of the documents alone


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A document that has a place in the prompt."""

    text: str
    n_tokens: int
    n_kept: int


class ListPrompt:
    """Builds blocks for one query. Raises `InvalidRequest` for a query that is too long."""

    def __init__(
        self,
        codec: TextCodec,
        tokenizer: Tokenizer,
        head: ListwiseHead,
        limits: PairLimits,
        query: str,
        instruction: str,
    ) -> None:
        """`limits.max_tokens`: of a block."""
        self._codec, self._tokenizer, self._head, self._limits = codec, PlainTokenizer(tokenizer), head, limits
        vocabulary = codec.vocabulary()
        self._markers = [vocabulary.text_of(token) for token in (head.document_token, head.query_token)]
        self._query = self._without_markers(query)
        self._instruction = f"<instruct>\n{instruction}\n</instruct>\n" if instruction else ""
        self._opening = tuple(
            token for run in runs_of(self._tokenizer, _SYSTEM, {}) for token in ids_of(self._tokenizer, run)
        )
        closing = self._ids(f"\n</passage>\n<query>\n{self._query}")
        self._closing = (*closing, head.query_token)
        self._room = limits.max_tokens - self._n_tokens([self._run("", 0)])  # for a document alone in its block
        self._check_query()

    def blocks(self, documents: Sequence[str]) -> Iterator[Block]:
        """All documents, in order, as many as fit into each block.

        Raises `DocumentTooLong` for a document that must not be cut.
        """
        fitted = [self._fitted(document, index) for index, document in enumerate(documents)]
        begin, runs = 0, list[tuple[int, ...]]()
        for index, document in enumerate(fitted):
            check_abandoned()
            run = self._run(document.text, len(runs))
            if runs and not self._has_room(runs, run):
                yield self._block(runs, fitted, range(begin, index))
                begin, runs, run = index, [], self._run(document.text, 0)
            runs.append(run)
        yield self._block(runs, fitted, range(begin, len(fitted)))

    def _has_room(self, runs: Sequence[tuple[int, ...]], run: tuple[int, ...]) -> bool:
        return len(runs) < self._head.max_documents and self._n_tokens([*runs, run]) <= self._limits.max_tokens

    def _n_tokens(self, runs: Sequence[tuple[int, ...]]) -> int:
        return len(self._opening) + sum(map(len, runs)) + len(self._closing)

    def _block(self, runs: Sequence[tuple[int, ...]], fitted: Sequence[_Fitted], documents: range) -> Block:
        first = self._run(fitted[documents.start].text, 0, n_documents=len(documents))
        tokens = [*self._opening, *first, *(token for run in runs[1:] for token in run), *self._closing]
        cut = [(index, fitted[index]) for index in documents if fitted[index].n_kept < fitted[index].n_tokens]
        truncated = tuple(Truncation(index, document.n_tokens, document.n_kept) for index, document in cut)
        return Block(tokens, len(tokens), documents=documents, truncated=truncated)

    def _run(self, document: str, place: int, *, n_documents: int = 0) -> tuple[int, ...]:
        """The document with what stands between it and the marker before, and its own marker.

        The first one's begins with the number of documents (0: the largest).
        """
        before = "\n</passage>\n"
        if place == 0:
            before = _TASK.format(n=n_documents or self._head.max_documents) + f"{self._query}\n{self._instruction}"
        return (*self._ids(f'{before}<passage id="{place}">\n{document}'), self._head.document_token)

    def _fitted(self, document: str, index: int) -> _Fitted:
        """The document, cut as the limits say: like the original's, the text of its first tokens.

        Raises `DocumentTooLong`.
        """
        check_abandoned()
        limits, text = self._limits, self._without_markers(document)
        ids = self._ids(text)
        most = min(len(ids), limits.max_document_tokens or len(ids))
        n_kept = min(most, self._head.document_length, self._room)
        kept = self._cut(text, ids, n_kept)
        while (
            0 < n_kept > self._room - _NEAR and (over := self._n_tokens([self._run(kept, 0)]) - limits.max_tokens) > 0
        ):
            n_kept = max(0, n_kept - over)  # in the prompt, a text may have other tokens than alone
            kept = self._cut(text, ids, n_kept)
        if n_kept < most and not limits.truncate:
            raise self._too_long(index, len(ids))
        return _Fitted(kept, len(ids), n_kept)

    def _cut(self, text: str, ids: Sequence[int], n_kept: int) -> str:
        if n_kept == len(ids):
            return text
        kept = ids[len(ids) - n_kept :] if self._limits.cut_start else ids[:n_kept]
        return self._without_markers(self._codec.detokenize(kept)) if kept else ""

    def _too_long(self, index: int, n_tokens: int) -> DocumentTooLong:
        limit, own_limit = self._limits.max_tokens, self._head.document_length
        if self._room < own_limit:
            return DocumentTooLong(index, limit - self._room + n_tokens, limit)
        return LoneDocumentTooLong(index, n_tokens, own_limit)

    def _ids(self, text: str) -> tuple[int, ...]:
        """The ids of a client's text, with the prompt's around it. No marker is among them, whatever the text is."""
        markers = (self._head.document_token, self._head.query_token)
        return tuple(token for token in self._tokenizer.text(text) if token not in markers)

    def _without_markers(self, text: str) -> str:
        """As in the original: a client's text has no markers."""
        for marker in self._markers:
            text = text.replace(marker, "")
        return text

    def _check_query(self) -> None:
        n_tokens, limit = len(self._ids(self._query)), self._head.query_length
        if n_tokens > limit:
            raise InvalidRequest(
                f"the query is too large ({n_tokens} tokens, the limit is {limit}): shorten it (queries are never cut)",
                "query",
            )
        if self._room < 1:
            needed = self._limits.max_tokens - self._room
            raise InvalidRequest(
                f"the query is too large ({needed} tokens with the prompt, the limit for query and documents together "
                f"is {self._limits.max_tokens}): shorten the query (queries are never cut)",
                "query",
            )
