"""Precision: how close the stored weights are to the original ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod

from gguf_embed.doctor.evidence import Evidence
from gguf_embed.doctor.findings import Finding, note, sets, uint, warning
from gguf_embed.gguf_file.constants import FILE_TYPES
from gguf_embed.gguf_file.facts import file_type_name

_FULL = ("F32", "F16", "BF16", "F64")
_MIDDLE = ("Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0", "Q8_1", "Q8_K")
_PLAIN_FILE_TYPES = (*_FULL, "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")  # their name is that of the tensors' type
_MEASURED = "all-MiniLM-L6-v2's vectors have cosine 0.9992 to F32 as Q8_0, 0.92 as Q4_0"
_TABLES = ("token_embd.weight", "position_embd.weight", "token_types.weight")
_FEW = 0.1  # a share of coarse weights that is not reported
_BETTER = "use the Q8_0 or F16 file of this model; precision lost by quantizing cannot be restored"


def check_precision(evidence: Evidence) -> Iterator[Finding]:
    """Judge by the types of the layers' matrices: the token table is often stored more precisely."""
    shares = weight_shares(evidence, table=False)
    if not shares:
        return
    main = next(iter(shares))
    mixed = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items() if share >= 0.005)
    coarse = sum(share for kind, share in shares.items() if kind not in (*_FULL, *_MIDDLE))
    if coarse > _FEW:
        yield warning("precision", f"the layers' weights are {mixed}: {_MEASURED}", _BETTER)
    elif main not in _FULL:
        yield note("precision", f"the layers' weights are {mixed}: {_MEASURED}", "none needed; the F16 file is exact")
    embeddings = evidence.tensors.get("token_embd.weight")
    if embeddings is not None and coarse <= _FEW and embeddings.type not in (*_FULL, *_MIDDLE):
        message = f"token_embd.weight, the token table, is {embeddings.type} although most weights are {main}"
        yield warning("precision_embeddings", message, _BETTER)
    yield from _check_file_type(evidence, main)


def weight_shares(evidence: Evidence, *, table: bool = True) -> dict[str, float]:
    """Type → its share of all numbers in matrices, the largest first. `table`: count the embedding tables too."""
    counts: Counter[str] = Counter()
    for tensor in evidence.tensors.values():
        if len(tensor.shape) > 1 and (table or tensor.name not in _TABLES):
            counts[tensor.type] += prod(tensor.shape)
    total = counts.total()
    return {kind: n / total for kind, n in counts.most_common()} if total else {}


def _check_file_type(evidence: Evidence, main: str) -> Iterator[Finding]:
    if evidence.header.get("general.file_type", int) is None:
        return
    declared = file_type_name(evidence.header)
    if declared not in _PLAIN_FILE_TYPES or declared in weight_shares(evidence):
        return
    right = next((code for code, name in FILE_TYPES.items() if name == main), None)
    changes = (uint("general.file_type", right),) if right is not None else ()
    fix = sets(*changes) if changes else "none needed: the model runs as it is"
    yield warning(
        "file_type", f"general.file_type is {declared}, but no matrix has that type; most are {main}", fix, *changes
    )
