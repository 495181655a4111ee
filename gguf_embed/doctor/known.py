"""What a model should be like, as far as its names tell: the catalog's row for it, or the family it belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from gguf_embed.model_store.catalog import CatalogRow
from gguf_embed.types import Pooling

ENDOFTEXT: Final = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a model. `because` says from where, for messages; empty when nothing is known."""

    pooling: Pooling | None = None
    certain: bool = False  # the name is the model's own, not that of something derived from it
    because: str = ""
    ends_with: str | None = None  # the token whose row is the vector, with pooling last
    context: int | None = None
    dimensions: int | None = None
    reranker: bool = False  # a name says that it scores pairs
    embedding: bool = False  # a name says that it makes vectors
    bidirectional: bool = False  # every token sees all others, though the architecture is a decoder's


@dataclass(frozen=True, slots=True)
class _Family:
    pattern: re.Pattern[str]  # over a plain name: "qwen3-embedding-0-6b"
    pooling: Pooling
    ends_with: str | None = None
    bidirectional: bool = False


def _family(pattern: str, pooling: Pooling, ends_with: str | None = None, *, bidirectional: bool = False) -> _Family:
    return _Family(re.compile(rf"(?:^|-)(?:{pattern})(?P<tail>(?:-.*)?)$"), pooling, ends_with, bidirectional)


_FAMILIES: Final = (
    # pooling: the models' own 1_Pooling/config.json, or their card. The end of Qwen3's texts: llama.cpp#14314
    _family(r"qwen3(-vl)?-reranker", Pooling.RANK),
    _family(r"bge-reranker", Pooling.RANK),
    _family(r"qwen3(-vl)?-embedding", Pooling.LAST, ENDOFTEXT),
    _family(r"gte-qwen2", Pooling.LAST, bidirectional=True),  # is_causal is false in its config.json
    _family(r"bge-(?:small|base|large)-(?:en|zh)", Pooling.CLS),
    _family(r"bge-m3", Pooling.CLS),
    _family(r"nomic-embed-text", Pooling.MEAN),
    _family(r"nomic-embed-code", Pooling.LAST),
    _family(r"e5-(?:small|base|large)", Pooling.MEAN),
    _family(r"all-minilm-l\d+", Pooling.MEAN),
    _family(r"paraphrase-multilingual-minilm-l12", Pooling.MEAN),
    _family(r"embedding-?gemma", Pooling.MEAN),
    _family(r"mxbai-embed-large", Pooling.CLS),
    _family(r"snowflake-arctic-embed", Pooling.CLS),
    _family(r"jina-embeddings-v[23]", Pooling.MEAN),
    _family(r"granite-embedding", Pooling.CLS),
)
_OWN_TAIL: Final = re.compile(
    r"(?:-(?:v?\d+|\d+[bm]|en|zh|code|de|es|small|base|large|xs|s|m|l|medium|long|english|multilingual|r2|moe|instruct"
    r"|gguf|hf|qat|ud|text|embeddings?|i?q\d\w*|tq\d\w*|b?f(?:p)?(?:16|32)|k|xl|mxfp4))*"
)
"""What follows in the names of the family's own members: sizes, versions, languages, quantisations."""

_RERANKER: Final = re.compile(r"rerank|cross-encoder|(?:^|-)ms-marco-")
_EMBEDDING: Final = re.compile(r"embed|(?:^|-)(?:bge|gte|e5|sbert|simcse|minilm|arctic-embed)(?:-|$)")
_QWEN3_RERANKER: Final = re.compile(r"(?:^|-)qwen3(-vl)?-reranker(?:-|$)")

_ARCHITECTURE_POOLING: Final = {"gemma-embedding": Pooling.MEAN}
"""Architectures that one model was made for."""


def plain_name(name: str) -> str:
    """Lower case, and one hyphen for whatever stands between letters and digits."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def expected_of(names: Iterable[tuple[str, str]], architecture: str, row: CatalogRow | None) -> Expected:
    """`names` are (where it stands, what it says), the most trustworthy first.

    The catalog's row counts most. A family's name followed by words of somebody else's ("bge-base-en-legal") is a
    hint only: a fine-tuned model may pool otherwise.
    """
    plain = [(where, plain_name(name)) for where, name in names if name]
    reranker = any(_RERANKER.search(name) for _, name in plain)
    embedding = any(_EMBEDDING.search(name) for _, name in plain)
    found = _of_family(plain)
    if row is not None and row.pooling is not None:
        return Expected(
            pooling=row.pooling,
            certain=True,
            because=f"the catalog's {row.name}",
            ends_with=found.ends_with if found.pooling is row.pooling else None,
            context=row.context,
            dimensions=row.dimensions,
            reranker=row.kind == "rerank",
            embedding=row.kind == "embedding",
            bidirectional=found.bidirectional,
        )
    pooling = found.pooling or _ARCHITECTURE_POOLING.get(architecture)
    if reranker and pooling is not Pooling.RANK:
        return Expected(reranker=True)
    return replace(
        found,
        pooling=pooling,
        certain=found.certain or not found.because,
        because=found.because or (f"architecture {architecture}" if pooling else ""),
        reranker=reranker,
        embedding=embedding,
    )


def is_qwen3_reranker(names: Iterable[str]) -> bool:
    return any(_QWEN3_RERANKER.search(plain_name(name)) for name in names)


def _of_family(plain: Iterable[tuple[str, str]]) -> Expected:
    for where, name in plain:
        for family in _FAMILIES:
            found = family.pattern.search(name)
            if found is not None:
                certain = _OWN_TAIL.fullmatch(found["tail"]) is not None
                because = f"{where} {name!r}"
                return Expected(family.pooling, certain, because, family.ends_with, bidirectional=family.bidirectional)
    return Expected()
