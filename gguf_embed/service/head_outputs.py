"""Requests for what a model's heads on token rows give: multi-vectors, sparse vectors, several kinds at once."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import numpy as np

from gguf_embed.errors import InvalidRequest, NotSupported, WayOut
from gguf_embed.model_pool.loading import LoadedModel
from gguf_embed.preprocessing.late_interaction import TextForm, text_form
from gguf_embed.preprocessing.prompt_prefixes import QUERY_NAMES, same_meaning
from gguf_embed.service.embed_checks import check_bytes
from gguf_embed.types import (
    DENSE,
    JOINT,
    MULTIVECTOR,
    MUVERA,
    SCORES,
    SPARSE,
    TOKENS,
    EmbedRequest,
    ModelInfo,
    Muvera,
    Output,
    OutputSpec,
    Pooling,
)
from gguf_embed.vectors import Rows
from gguf_embed.vectors.joint import JointOutput
from gguf_embed.vectors.muvera import MAX_DIMS, MAX_K_SIM, encode_texts
from gguf_embed.vectors.token_pooling import MAX_ROWS, pool_rows

HEAD_OUTPUTS = (MULTIVECTOR, SPARSE, JOINT)

MODELS_WITH = {
    MULTIVECTOR: "ColBERT models such as answerai-colbert-small-v1 and GTE-ModernColBERT-v1, and bge-m3",
    SPARSE: "SPLADE models such as splade-v3, and bge-m3",
}
"""For people whose server has none."""


class NoHead(NotSupported):
    """The model has no head for the requested kind of output."""

    def __init__(self, name: str, kind: str) -> None:
        self.output_kind = kind
        super().__init__(f"model {name!r} has no head for {kind} vectors")


def gives_only_multivectors(info: ModelInfo) -> bool:
    """Whether it is a ColBERT model: its token rows are of no use without the layer after them."""
    return info.pooling is Pooling.NONE and MULTIVECTOR in info.head_outputs


def check_sparse_only(info: ModelInfo, output: OutputSpec) -> None:
    """Raises `NotSupported` if the model has sparse vectors only, and the output is to be made of its rows."""
    if info.is_sparse_only and (output.kind in (DENSE, TOKENS, SCORES) or DENSE in output.parts):
        raise NotSupported(f"model {info.name!r} gives sparse vectors and no others", [WayOut.SPARSE_VECTORS])


def output_of_heads(request: EmbedRequest, info: ModelInfo, output: OutputSpec) -> OutputSpec:
    """The output to compute, as for a query if the request says that its texts are queries.

    Raises `NoHead`, and `InvalidRequest` for options that need a row for each token of the text.
    """
    if output.kind == JOINT:
        output = _with_dense(info, output)
    wanted = output.parts or (output.kind,)
    missing = next((kind for kind in (MULTIVECTOR, SPARSE) if kind in wanted and kind not in info.head_outputs), None)
    if missing is not None:
        raise NoHead(info.name, missing)
    if MULTIVECTOR in wanted and (request.return_tokens or request.cut_start):
        what = "the tokens of the texts" if request.return_tokens else "texts cut at their beginning"
        raise InvalidRequest(f"multi-vectors leave out and add tokens, so they cannot be combined with {what}")
    prompt = request.prompt
    asks_query = prompt is not None and prompt.name is not None and same_meaning(prompt.name, QUERY_NAMES[0])
    return replace(output, is_query=True) if asks_query else output


def _with_dense(info: ModelInfo, output: OutputSpec) -> OutputSpec:
    """Joint output with the pooling of its dense part, which is the first one; without dense part if there is none.

    A request that does not list the dense kind gets it beside the others, if the model has it. Raises `NotSupported`.
    """
    others = tuple(kind for kind in output.parts if kind != DENSE)
    pooling = output.pooling or info.output.pooling
    if pooling is not None:
        return replace(output, pooling=pooling, parts=(DENSE, *others))
    if DENSE in output.parts:
        raise NotSupported(f"model {info.name!r} has no dense vectors", [WayOut.POOL])
    return replace(output, parts=others)


def text_form_of(model: LoadedModel, output: OutputSpec) -> TextForm | None:
    """How texts are read for an output; None: as for any other.

    Raises `InvalidRequest` for several kinds at once if multi-vectors need other tokens than the other kinds.
    """
    late = model.heads.late if model.heads is not None else None
    if late is None or MULTIVECTOR not in (output.parts or (output.kind,)):
        return None
    form = text_form(late, is_query=output.is_query)
    if len(output.parts) > 1 and form.changes_tokens:
        raise InvalidRequest(
            "this model's multi-vectors are of texts with a prefix or with mask tokens, its other vectors are not: "
            "ask for them in two requests"
        )
    return form


def row_width(model: LoadedModel, info: ModelInfo, output: OutputSpec) -> int:
    """The largest number of dimensions that a request may ask for. Raises `InvalidRequest` for sparse vectors alone."""
    widths = {SCORES: info.n_scores}
    if model.heads is not None and model.heads.late is not None:
        widths[MULTIVECTOR] = model.heads.late.n_dims
    found = [widths.get(kind, info.n_embd) for kind in output.parts or (output.kind,) if kind != SPARSE]
    if not found:
        raise InvalidRequest("sparse vectors have no dimensions that could be left out", "dimensions")
    return min(found)


def check_muvera(request: EmbedRequest, model: LoadedModel) -> None:
    """Raises `InvalidRequest` for settings that no model can have, or that do not fit this one or the request."""
    settings = request.muvera
    if settings is None:
        return
    _check_settings(settings)
    if request.dimensions is not None:
        raise InvalidRequest(
            f"the settings of MUVERA say how many numbers a vector has ({settings.n_dims:,}): leave the number of "
            "dimensions out",
            "dimensions",
        )
    assert model.heads is not None, "the output needs a head"
    assert model.heads.late is not None, "the output needs a head"
    width = model.heads.late.n_dims
    if settings.dim_proj > width:
        raise InvalidRequest(
            f"each cluster is projected to {settings.dim_proj} numbers, and this model's multi-vectors have {width}: "
            f"set dim_proj to {width} or less",
            "muvera",
        )
    check_bytes(len(request.inputs), settings.n_dims, "MUVERA vectors")


def _check_settings(settings: Muvera) -> None:
    """Raises `InvalidRequest`."""
    if min(settings.k_sim, settings.dim_proj, settings.r_reps) < 1 or settings.random_seed < 0:
        raise InvalidRequest("k_sim, dim_proj and r_reps must be at least 1, and random_seed at least 0", "muvera")
    if settings.k_sim > MAX_K_SIM:
        raise InvalidRequest(f"k_sim is {settings.k_sim}, the limit is {MAX_K_SIM}", "muvera")
    if settings.n_dims > MAX_DIMS:
        raise InvalidRequest(
            f"r_reps {settings.r_reps} x 2**k_sim {2**settings.k_sim} x dim_proj {settings.dim_proj} are "
            f"{settings.n_dims:,} numbers per vector, the limit is {MAX_DIMS:,}: make one of them smaller",
            "muvera",
        )


def with_one_vector(output: Output, settings: Muvera, *, is_query: bool) -> Output:
    """The output with a MUVERA vector in place of each multi-vector."""
    if isinstance(output, JointOutput):
        rest = {kind: part for kind, part in output.by_kind.items() if kind != MULTIVECTOR}
        return JointOutput({**rest, MUVERA: with_one_vector(output.by_kind[MULTIVECTOR], settings, is_query=is_query)})
    assert isinstance(output, Rows), output.kind
    return encode_texts(output, settings, is_query=is_query)


def with_fewer_rows(output: Output, factor: int) -> Output:
    """The output with its multi-vectors pooled. Raises `InvalidRequest` for one with too many rows."""
    if isinstance(output, JointOutput):
        by_kind = {kind: with_fewer_rows(part, factor) for kind, part in output.by_kind.items()}
        return replace(output, by_kind=by_kind)
    if not isinstance(output, Rows) or output.kind != MULTIVECTOR:
        return output
    lengths = np.diff(output.offsets)
    if lengths.max(initial=0) > MAX_ROWS:
        raise InvalidRequest(
            f"input {int(lengths.argmax())} has {lengths.max():,} vectors, of which {MAX_ROWS:,} at most can be pooled",
            "pool_factor",
            int(lengths.argmax()),
        )
    pooled = [pool_rows(rows, factor) for rows in output.texts()]
    return Rows(MULTIVECTOR, np.concatenate(pooled), (0, *accumulate(map(len, pooled))))
