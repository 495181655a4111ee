"""Static models: a table of rows, run by our own engine instead of llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator

from gguf_embed.doctor.evidence import Evidence
from gguf_embed.doctor.findings import Finding, serious
from gguf_embed.gguf_file import static_format

_AGAIN = "convert the model again with gguf-embed convert"


def check_static(evidence: Evidence) -> Iterator[Finding]:
    """Whether rows, weights and vocabulary fit together."""
    table = evidence.tensors.get(static_format.TABLE)
    if table is None or len(table.shape) != 2:
        yield serious(
            "static_table", f"{static_format.TABLE} is missing: it is all that a static model consists of", _AGAIN
        )
        return
    mapping = evidence.tensors.get(static_format.MAPPING)
    n_rows = mapping.shape[0] if mapping is not None else table.shape[1]
    n_tokens = len(evidence.vocabulary.tokens)
    if n_tokens and n_tokens != n_rows:
        yield serious(
            "vocabulary_size", f"the vocabulary has {n_tokens} entries, but the table has rows for {n_rows}", _AGAIN
        )
    kind = evidence.header.get(static_format.TOKENIZER_KIND, str)
    has_rules = static_format.TOKENIZER_JSON in evidence.header.metadata
    if kind != static_format.WORD_TOKENIZER and not (kind == static_format.HUGGINGFACE_TOKENIZER and has_rules):
        message = f"{static_format.TOKENIZER_KIND} is {kind!r}, or {static_format.TOKENIZER_JSON} is missing"
        yield serious("tokenizer_unknown", message, _AGAIN)
