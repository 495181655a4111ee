"""The vocabulary: whether a tokenizer built from it returns the model's own ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gguf_embed.doctor.evidence import MERGES, SCORES, TOKEN_TYPES, Evidence
from gguf_embed.doctor.findings import Finding, flag, note, serious, sets, some, text, uint, warning
from gguf_embed.doctor.llama_facts import NEEDS_TOKEN_TYPES, PRE_TOKENIZERS
from gguf_embed.gguf_file.graph_only import OWN_ARCHITECTURES

MODEL = "tokenizer.ggml.model"
PRE = "tokenizer.ggml.pre"
TOKEN_TYPE_COUNT = "tokenizer.ggml.token_type_count"
CHARSMAP = "tokenizer.ggml.precompiled_charsmap"
LOWERCASE = "tokenizer.ggml.normalizer.lowercase"

_AGAIN = "convert the model again with llama.cpp's convert_hf_to_gguf.py"
_PRE_BY_ARCHITECTURE = {"qwen2": "qwen2", "qwen3": "qwen2", "modern-bert": "modern-bert", "bert": "roberta-bpe"}
_WORD_MARK = "\u2581"
_ODD_PER_THOUSAND = 1  # as in the exact tokenizer: a few cased entries do not make a vocabulary cased


def check_vocabulary(evidence: Evidence) -> Iterator[Finding]:
    """Find what llama.cpp refuses, and what leads to different ids than the original tokenizer's."""
    vocabulary = evidence.vocabulary
    if vocabulary.kind == "none" or not vocabulary.tokens:
        return  # `check_can_embed` has reported it
    if vocabulary.kind == "unknown":
        model = evidence.header.metadata.get(MODEL)
        yield serious("tokenizer_unknown", f"{MODEL} is {model!r}, which llama.cpp does not know", _AGAIN)
    yield from _check_tokens(evidence)
    yield from _check_lengths(evidence)
    if vocabulary.kind == "wpm":
        yield from _check_wordpiece(evidence)
    elif vocabulary.kind == "bpe" and evidence.header.metadata.get(MODEL) != "gemma4":  # which has its own rules
        yield from _check_bpe(evidence)
    elif vocabulary.kind == "ugm" and not evidence.length(CHARSMAP):
        yield warning(
            "charsmap_missing",
            f"{CHARSMAP} is missing: full-width letters, ligatures and the like are not normalized before tokenizing",
            _AGAIN,
        )


def _check_tokens(evidence: Evidence) -> Iterator[Finding]:
    tokens = evidence.vocabulary.tokens
    named = [token or f"[EMPTY_{index}]" for index, token in enumerate(tokens)]  # llama.cpp's names for empty tokens
    twice = [token for token, n in Counter(named).items() if n > 1]
    if twice:
        yield serious(
            "tokens_repeated",
            f"{len(twice)} entries of the vocabulary occur twice ({some(map(repr, twice))}): llama.cpp crashes",
            _AGAIN,
        )
    n_empty = sum(not token for token in tokens)
    if n_empty:
        yield note(
            "tokens_empty", f"{n_empty} entries of the vocabulary are empty: no text contains them", "none needed"
        )
    n_rows = evidence.rows("token_embd.weight")
    if n_rows is not None and n_rows != len(tokens):
        yield serious(
            "vocabulary_size",
            f"the vocabulary has {len(tokens)} entries, but token_embd.weight has {n_rows} rows: "
            "llama.cpp refuses to load it",
            _AGAIN,
        )


def _check_lengths(evidence: Evidence) -> Iterator[Finding]:
    n_tokens = len(evidence.vocabulary.tokens)
    for key in (TOKEN_TYPES, SCORES):
        length = evidence.length(key)
        if length is not None and length < n_tokens:
            message = f"{key} has {length} items for {n_tokens} tokens: llama.cpp refuses to load it"
            yield serious("vocabulary_size", message, _AGAIN)
    if evidence.vocabulary.kind in ("ugm", "spm") and evidence.length(SCORES) is None:
        yield serious("scores_missing", f"{SCORES} is missing: every way of splitting a word scores the same", _AGAIN)
    if evidence.length(TOKEN_TYPES) is None:
        message = f"{TOKEN_TYPES} is missing: special tokens that are written in a text are not recognized"
        yield warning("token_types_missing", message, _AGAIN)
    if evidence.architecture in NEEDS_TOKEN_TYPES:
        yield from _check_token_type_count(evidence)


def _check_token_type_count(evidence: Evidence) -> Iterator[Finding]:
    """The number of BERT's segments (A, B), which llama.cpp reads from the tokenizer's keys."""
    n_rows, declared = evidence.rows("token_types.weight"), evidence.header.metadata.get(TOKEN_TYPE_COUNT)
    if declared is None or declared == 0 or (n_rows is not None and declared != n_rows):
        said = "missing" if declared is None else declared
        change = uint(TOKEN_TYPE_COUNT, n_rows or 1)
        message = (
            f"{TOKEN_TYPE_COUNT} is {said}, token_types.weight has {n_rows or 'no'} rows: llama.cpp refuses to load it"
        )
        yield serious("token_type_count", message, sets(change), change)


def _check_bpe(evidence: Evidence) -> Iterator[Finding]:
    pre = evidence.vocabulary.pre
    if evidence.length(MERGES) is None and pre != "kimi-k2":
        yield serious("merges_missing", f"{MERGES} is missing: llama.cpp refuses to load it", _AGAIN)
    if pre in ("", "default"):
        right = _PRE_BY_ARCHITECTURE.get(evidence.architecture)
        said = "missing" if not pre else "'default'"
        message = f"{PRE} is {said}: llama.cpp splits by GPT-2's rules, so the ids may differ from the model's own"
        if right is not None:
            change = text(PRE, right)
            yield serious("pre_missing", message, sets(change), change)
        else:
            yield warning(
                "pre_missing", message, f"{_AGAIN}, or --fix --set {PRE}=NAME with llama.cpp's name of its rules"
            )
    elif pre not in PRE_TOKENIZERS:
        message = f"{PRE} is {pre!r}, which this version of llama.cpp does not know: it refuses to load the file"
        yield serious("pre_unknown", message, "upgrade gguf-embed and llama-cpp-python, or convert the model again")


def _check_wordpiece(evidence: Evidence) -> Iterator[Finding]:
    tokens = evidence.vocabulary.tokens
    n_hashed = sum(token.startswith("##") and len(token) > 2 for token in tokens)
    n_marked = sum(token.startswith(_WORD_MARK) for token in tokens)
    if n_hashed > len(tokens) // 100 or n_marked == 0:
        form = f"{n_hashed} entries begin with ##" if n_hashed else f"no entry begins with {_WORD_MARK}"
        yield serious(
            "wordpiece_form",
            f"{form}: the vocabulary is not in llama.cpp's form, so llama.cpp would find almost no word in it",
            _AGAIN,
        )
        return
    yield from _check_casing(evidence)
    if evidence.architecture in OWN_ARCHITECTURES:
        return  # llama.cpp's tokenizer never reads it
    yield note(
        "tokenizer_differs",
        "llama.cpp's WordPiece returns different ids than the model's own tokenizer for Korean (cosine 0.72), Hindi "
        "(0.97) and words of more than 100 letters (0.30 for 300); gguf-embed uses the model's own tokenizer",
        "none needed; for an index built with another llama.cpp program, serve with --tokenizer llama",
    )


def _check_casing(evidence: Evidence) -> Iterator[Finding]:
    """Compare the flag with the vocabulary. Our tokenizer looks at the vocabulary, llama.cpp's only at the flag."""
    words = [token for token in evidence.vocabulary.tokens if token.rstrip("]>") == token]
    n_cased = sum(word.lower() != word for word in words)
    cased = n_cased > len(words) * _ODD_PER_THOUSAND / 1000
    declared = evidence.header.get(LOWERCASE, bool)
    if cased and declared is not False:
        change = flag(LOWERCASE, False)
        said = "missing" if declared is None else "true"
        message = f"{LOWERCASE} is {said}, but the vocabulary is cased: llama.cpp's tokenizer would lowercase texts"
        yield warning("lowercase_flag", message, sets(change), change)
    elif not n_cased and declared is False:
        change = flag(LOWERCASE, True)
        message = f"{LOWERCASE} is false, but no entry has a capital letter: words with capitals would be unknown"
        yield warning("lowercase_flag", message, sets(change), change)
