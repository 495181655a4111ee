"""Pooling, rank heads and attention: whether token rows are combined as the model was trained."""

from __future__ import annotations

from collections.abc import Iterator

from gguf_embed.doctor.evidence import Evidence
from gguf_embed.doctor.findings import Change, Finding, serious, sets, text, uint, warning
from gguf_embed.doctor.known import is_qwen3_reranker
from gguf_embed.doctor.llama_facts import EMBEDDING_ARCHITECTURES, ENCODERS
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.constants import POOLING_NUMBERS, RANK_HEADS
from gguf_embed.gguf_file.facts import pooling_type
from gguf_embed.gguf_file.graph_only import OWN_ARCHITECTURES
from gguf_embed.gguf_file.listwise_head import has_listwise_head
from gguf_embed.gguf_file.rerank_prompt import QWEN3_RERANK_PROMPT, RERANK_TEMPLATE
from gguf_embed.gguf_file.token_heads import has_token_heads
from gguf_embed.types import Pooling

_BERTS = (ENCODERS | OWN_ARCHITECTURES) - {"eurobert"}  # Jina's v5 models are EuroBERTs with pooling last
_MADE_FOR_VECTORS = EMBEDDING_ARCHITECTURES | OWN_ARCHITECTURES
_NO_HEAD_FIX = "use a GGUF of this model made by llama.cpp's convert_hf_to_gguf.py, or convert it yourself"


def declared_pooling(evidence: Evidence) -> Pooling | None:
    """What the file declares; None for nothing and for invalid numbers, which have their own finding."""
    try:
        return pooling_type(evidence.header)
    except ModelFileError:
        return None


def intended_pooling(evidence: Evidence) -> Pooling | None:
    """The pooling the model should have: what is known about it, else what it declares."""
    return evidence.expected.pooling or declared_pooling(evidence)


def has_head(evidence: Evidence) -> bool:
    return any(name in evidence.tensors for name in RANK_HEADS)


def is_causal(evidence: Evidence) -> bool:
    """Whether a token sees only the tokens before it."""
    if evidence.architecture in _MADE_FOR_VECTORS:
        return False
    return evidence.header.get(evidence.key("attention.causal"), bool) is not False


def check_pooling(evidence: Evidence) -> Iterator[Finding]:
    key, expected = evidence.key("pooling_type"), evidence.expected
    try:
        declared = pooling_type(evidence.header)
    except ModelFileError:
        yield _invalid(evidence, key)
        return
    if declared in (None, Pooling.NONE) and has_token_heads(evidence.header) and expected.pooling is None:
        return  # what its heads give needs none
    if declared is None:
        yield _missing(evidence, key)
        return
    if expected.pooling not in (None, declared) and not (expected.pooling is Pooling.RANK and not has_head(evidence)):
        yield _wrong(evidence, key, declared)
    elif declared is Pooling.NONE:
        yield warning(
            "pooling_none",
            f"{key} is 0 (none): every token gets its own vector, which only late-interaction models need",
            f"for one vector per text, serve it with --pooling mean, cls or last, or --fix --set {key}=1, 2 or 3",
        )
    elif declared is Pooling.CLS and is_causal(evidence):
        yield serious(
            "pooling_wrong",
            f"{key} is 2 (cls) in a decoder: the first token sees nothing after it, so all texts get similar vectors",
            f"most decoders pool last: --fix --set {key}=3, if its model card says so",
        )
    elif declared is Pooling.LAST and evidence.architecture in _BERTS:
        yield warning(
            "pooling_unusual",
            f"{key} is 3 (last) in a {evidence.architecture} model, whose last token is always the closing one",
            f"compare with its model card; mean is --fix --set {key}=1, cls is {key}=2",
        )


def _invalid(evidence: Evidence, key: str) -> Finding:
    value = evidence.header.metadata.get(key)
    message = (
        f"{key} is {value!r}, expected 0 (none), 1 (mean), 2 (cls), 3 (last) or 4 (rank): llama.cpp ends the process"
    )
    change = _known_change(evidence, key)
    return serious("pooling_invalid", message, sets(*change) if change else f"--fix --set {key}=1, 2 or 3", *change)


def _missing(evidence: Evidence, key: str) -> Finding:
    expected, change = evidence.expected, _known_change(evidence, key)
    if change:
        known = f"{expected.because} uses {expected.pooling}" if expected.because else "the file has a rank head"
        return serious(
            "pooling_missing", f"{key} is missing, so every token gets its own vector: {known}", sets(*change), *change
        )
    if expected.pooling is not None:
        fix = f"--fix --set {key}={POOLING_NUMBERS[expected.pooling]}, if its model card says {expected.pooling} too"
        known = f"{expected.because} suggests {expected.pooling}"
        return serious("pooling_missing", f"{key} is missing, so every token gets its own vector: {known}", fix)
    by_hand = f"serve it with --pooling, or --fix --set {key}=1 (mean), 2 (cls) or 3 (last), as its model card says"
    if evidence.architecture in _MADE_FOR_VECTORS or expected.embedding or expected.reranker:
        return serious("pooling_missing", f"{key} is missing, so every token gets its own vector", by_hand)
    return serious(
        "not_embedding_model",
        f"this {evidence.architecture} model does not look like an embedding model: it has no {key} and no "
        "such name, and a chat model's vectors are poor for search",
        f"use an embedding model; if this is one, {by_hand}",
    )


def _wrong(evidence: Evidence, key: str, declared: Pooling) -> Finding:
    expected = evidence.expected
    assert expected.pooling is not None
    number = POOLING_NUMBERS[expected.pooling]
    change = _known_change(evidence, key)
    message = f"{key} is {POOLING_NUMBERS[declared]} ({declared}), but {expected.because} uses {expected.pooling}"
    if change:
        return serious("pooling_wrong", message, sets(*change), *change)
    if declared is Pooling.NONE:
        return serious(
            "pooling_wrong", message, f"--fix --set {key}={POOLING_NUMBERS[expected.pooling]}, if its card says so"
        )
    return warning(
        "pooling_wrong",
        f"{message}; a model made from it may differ",
        f"compare with its model card; --fix --set {key}={number}",
    )


def _known_change(evidence: Evidence, key: str) -> tuple[Change, ...]:
    """The pooling as a change if it is certain; else empty."""
    expected = evidence.expected
    if has_head(evidence) and expected.pooling in (None, Pooling.RANK):
        return (uint(key, POOLING_NUMBERS[Pooling.RANK]),)
    if expected.pooling in (None, Pooling.RANK) or not expected.certain:
        return ()
    return (uint(key, POOLING_NUMBERS[expected.pooling]),)


def check_rank_head(evidence: Evidence) -> Iterator[Finding]:
    declared = declared_pooling(evidence)
    named = evidence.expected.reranker or evidence.expected.pooling is Pooling.RANK
    if has_listwise_head(evidence.header):
        return
    if not has_head(evidence):
        if declared is Pooling.RANK or named:
            why = "it declares pooling rank" if declared is Pooling.RANK else "by its name it is a reranker"
            yield serious(
                "rank_head_missing",
                f"{why}, but it has neither {' nor '.join(RANK_HEADS)}: scores would be noise (llama.cpp#16407)",
                _NO_HEAD_FIX,
            )
        return
    if (
        declared not in (None, Pooling.RANK, evidence.expected.pooling)
        and evidence.expected.pooling is not Pooling.RANK
    ):
        yield warning(
            "rank_pooling_unset",
            f"it has a rank head but declares pooling {declared}: it returns vectors, not scores",
            f"for scores, --fix --set {evidence.key('pooling_type')}=4",
        )
    yield from _check_complete(evidence)
    yield from _check_labels(evidence)
    yield from _check_template(evidence)


def _check_complete(evidence: Evidence) -> Iterator[Finding]:
    """A cross-encoder's head has two layers: BERT's pooler or RoBERTa's dense layer, then the one that scores."""
    if (
        evidence.architecture in _BERTS
        and "cls.output.weight" in evidence.tensors
        and "cls.weight" not in evidence.tensors
    ):
        yield serious(
            "rank_head_incomplete",
            "it has cls.output.weight but not cls.weight, the layer before it (the pooler, which older converters "
            "leave out): scores are wrong, and may rank documents in reverse",
            _NO_HEAD_FIX,
        )


def _check_labels(evidence: Evidence) -> Iterator[Finding]:
    key = evidence.key("classifier.output_labels")
    n_rows, n_labels = evidence.rows("cls.output.weight"), evidence.length(key)
    if n_rows is not None and n_rows != (n_labels or 1):
        yield serious(
            "rank_labels",
            f"cls.output.weight has {n_rows} rows, but {key} has {n_labels or 'no'} labels: llama.cpp refuses it",
            _NO_HEAD_FIX,
        )


def _check_template(evidence: Evidence) -> Iterator[Finding]:
    """A decoder that answers yes or no needs the prompt it was trained with."""
    if evidence.architecture not in ("qwen3", "qwen3vl") or RERANK_TEMPLATE in evidence.header.metadata:
        return
    message = f"{RERANK_TEMPLATE} is missing: pairs would be joined without the prompt this reranker was trained with"
    if is_qwen3_reranker(evidence.names):
        change = text(RERANK_TEMPLATE, QWEN3_RERANK_PROMPT)
        yield serious("rerank_template_missing", message, sets(change), change)
    else:
        yield serious("rerank_template_missing", message, f"--fix --set '{RERANK_TEMPLATE}=…' from its model card")


def check_attention(evidence: Evidence) -> Iterator[Finding]:
    """Bidirectional models with a decoder's architecture. Encoders need no flag: llama_encode ignores it."""
    key = evidence.key("attention.causal")
    if evidence.header.get(key, bool) is False:
        return
    if evidence.architecture == "llama-embed":
        yield warning(
            "attention_causal",
            f"{key} is not false, so tokens see only those before them; in this architecture they should see all",
            f"--fix --set {key}=bool:false, if the model's config.json says is_causal or use_bidirectional_attention",
        )
    elif evidence.expected.bidirectional:
        yield warning(
            "attention_causal",
            f"{key} is not false, so tokens see only those before them; in {evidence.expected.because} they see all",
            f"convert it again with a newer convert_hf_to_gguf.py, or --fix --set {key}=bool:false",
        )
