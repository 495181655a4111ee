"""What is known about a model by its name: from its row in the catalog, or from the family it belongs to."""

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
    """What is known about a model. `because` names the source, for messages; empty if nothing is known."""

    pooling: Pooling | None = None
    certain: bool = False  # the name is that of the model itself, not of one derived from it
    because: str = ""
    ends_with: str | None = None  # the token whose row is the vector, with pooling last
    context: int | None = None
    dimensions: int | None = None
    reranker: bool = False  # by its name, it scores pairs
    embedding: bool = False  # by its name, it makes vectors
    bidirectional: bool = False  # every token sees all others, although it is a decoder


@dataclass(frozen=True, slots=True)
class _Family:
    pattern: re.Pattern[str]  # matched against a plain name: "qwen3-embedding-0-6b"
    pooling: Pooling
    ends_with: str | None = None
    bidirectional: bool = False


def _family(pattern: str, pooling: Pooling, ends_with: str | None = None, *, bidirectional: bool = False) -> _Family:
    return _Family(re.compile(rf"(?:^|-)(?:{pattern})(?P<tail>(?:-.*)?)$"), pooling, ends_with, bidirectional)


_FAMILIES: Final = (
    # Poolings are from each model's 1_Pooling/config.json or card, the end of Qwen3's texts from llama.cpp#14314.
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
"""What may follow a family's name in the names of its own models: sizes, versions, languages, quantizations."""

_RERANKER: Final = re.compile(r"rerank|cross-encoder|(?:^|-)ms-marco-")
_EMBEDDING: Final = re.compile(r"embed|(?:^|-)(?:bge|gte|e5|sbert|simcse|minilm|arctic-embed)(?:-|$)")
_QWEN3_RERANKER: Final = re.compile(r"(?:^|-)qwen3(-vl)?-reranker(?:-|$)")

_ARCHITECTURE_POOLING: Final = {"gemma-embedding": Pooling.MEAN}
"""Architectures made for a single model."""


def plain_name(name: str) -> str:
    """Lower case, with one hyphen for each run of other characters than letters and digits."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def expected_of(names: Iterable[tuple[str, str]], architecture: str, row: CatalogRow | None) -> Expected:
    """Combine the catalog's row, if there is one, with what the names suggest.

    `names` are (source, name), the most trustworthy first. The catalog's row wins. A family's name with unknown words
    after it ("bge-base-en-legal") is only a hint: a fine-tuned model may use another pooling.
    """
    plain = [(where, plain_name(name)) for where, name in names if name]
    found = _of_family(plain)
    if row is not None and row.pooling is not None:
        return _of_row(row, row.pooling, found)
    reranker = any(_RERANKER.search(name) for _, name in plain)
    pooling = found.pooling or _ARCHITECTURE_POOLING.get(architecture)
    if reranker and pooling is not Pooling.RANK:
        return Expected(reranker=True)
    if not found.because:  # no family has such a name
        because = "" if pooling is None else f"architecture {architecture}"
        found = Expected(pooling=pooling, certain=True, because=because)
    return replace(found, reranker=reranker, embedding=any(_EMBEDDING.search(name) for _, name in plain))


def _of_row(row: CatalogRow, pooling: Pooling, family: Expected) -> Expected:
    return Expected(
        pooling=pooling,
        certain=True,
        because=f"the catalog's {row.name}",
        ends_with=family.ends_with if family.pooling is pooling else None,
        context=row.context,
        dimensions=row.dimensions,
        reranker=row.kind == "rerank",
        embedding=row.kind == "embedding",
        bidirectional=family.bidirectional,
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
