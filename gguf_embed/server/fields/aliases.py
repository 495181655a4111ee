"""What each API calls a field that several of them have: a new client's word is one line here.

The parsers in this folder read these tables, so a name works on every route that has the field.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.http.values import JsonObject

CutRole = Literal["whether", "side", "cut_to", "limit"]

CUTTING: Mapping[str, CutRole] = {
    "truncate": "whether",  # TEI, Ollama, Cohere, NVIDIA
    "truncation": "whether",  # Voyage, Hugging Face
    "auto_truncate": "whether",  # Vertex AI
    "autoTruncate": "whether",  # Vertex AI over HTTP
    "long_text_mode": "whether",  # Nomic
    "truncation_direction": "side",  # TEI
    "truncation_side": "side",  # vLLM
    "truncate_prompt_tokens": "cut_to",  # vLLM
    "truncate_input_tokens": "cut_to",  # watsonx
    "max_tokens": "limit",  # Cohere
    "max_length": "limit",  # FlagEmbedding's servers
    "max_seq_length": "limit",  # sentence-transformers
}
"""Names of what says whether and where a text is cut.

`whether`: one of `CUT_WORDS`; `side`: left or right; `cut_to`: cut to this many tokens, -1 is the model's limit;
`limit`: a limit per text, over which a text is cut or refused as the other fields say.
"""

CUT_WORDS: Mapping[str, Literal["none", "end", "start"]] = {
    "none": "none",
    "false": "none",
    "disabled": "none",  # OpenAI's word in other routes
    "end": "end",
    "true": "end",
    "right": "end",  # Cohere's older word
    "auto": "end",  # OpenAI's word in other routes
    "truncate": "end",  # Nomic
    "start": "start",
    "left": "start",  # Cohere's older word
}
"""Values of the names with the role `whether`, in lower case."""

DIMENSIONS = (
    "dimensions",  # OpenAI, Jina, Ollama, TEI
    "output_dimension",  # Voyage, Mistral, Cohere
    "output_dimensionality",  # Google
    "outputDimensionality",  # Google over HTTP
    "dimensionality",  # Nomic
    "truncate_dim",  # sentence-transformers
    "matryoshka_dim",  # servers around sentence-transformers
    "embed_dim",
)
"""Names of the number of dimensions that vectors are cut to."""

OUTPUT_TYPES = (
    "output_dtype",  # Voyage, Mistral
    "embedding_types",  # Cohere
    "embedding_type",  # Jina
    "embed_dtype",  # vLLM
)
"""Names of the number types of vectors."""

INPUTS = (
    "input",  # OpenAI, Ollama, Voyage, NVIDIA
    "inputs",  # TEI, Hugging Face, Cohere
    "texts",  # Cohere, Nomic
    "text",
    "content",  # llama.cpp
    "contents",  # Google
    "sentences",  # servers around sentence-transformers
)
"""Names of the texts to embed."""

TEXTS_ELSEWHERE = (
    "prompts",
    "query",
    "queries",
    "sentence",
    "document",
    "documents",
    "passages",
    "docs",
    "message",
    "data",
)
"""Names that have a text on other routes or servers. Where a text may be absent, they are refused, not ignored."""

DOCUMENTS = (
    "documents",  # Jina, Cohere, llama.cpp, Voyage
    "texts",  # TEI
    "passages",  # NVIDIA
    "input",  # Mixedbread
    "docs",
)
"""Names of the documents to rank."""

TOP_N = (
    "top_n",  # Jina, Cohere, llama.cpp
    "top_k",  # Voyage, Mixedbread
)
"""Names of the number of results to return; 0 and -1 mean all."""

RETURN_DOCUMENTS = (
    "return_documents",  # Jina, Cohere, Voyage
    "return_text",  # TEI
    "return_input",  # Mixedbread
)
"""Names of the flag that adds the documents to the reply."""

RAW_SCORES: Mapping[str, bool] = {
    "raw_scores": True,  # TEI
    "use_activation": False,  # vLLM
    "activation": False,  # vLLM's older name
    "apply_softmax": False,
    "normalize": False,  # FlagEmbedding
}
"""Names of the scale of scores, and whether their value `true` means the head's own numbers."""

NORMALIZE = (
    "normalize",  # TEI, vLLM
    "normalized",  # Jina, Mixedbread
    "normalize_embeddings",  # sentence-transformers
)
"""Names of the flag for vectors of length 1."""

_OTHER_KINDS = "POST /v1/embeddings returns multi-vectors and sparse vectors"
_PREFIX = 'send the whole prefix as "prompt"'

UNSUPPORTED: Mapping[str, str] = {
    "messages": "send it to POST /v1/embeddings",  # vLLM
    "instruction": _PREFIX,
    "instruct": _PREFIX,
    "prompt_template": _PREFIX,  # Fireworks
    "images": "send images to POST /v1/embeddings as content parts, or to POST /v2/embed",  # Cohere
    "return_sparse": _OTHER_KINDS,  # FlagEmbedding
    "return_sparse_embedding": _OTHER_KINDS,
    "return_colbert_vecs": _OTHER_KINDS,  # FlagEmbedding
    "return_multivector": _OTHER_KINDS,  # Jina
    "output": _OTHER_KINDS,
    "muvera": _OTHER_KINDS,
    "max_chunks_per_doc": 'documents are not split here: send "max_tokens_per_doc"',  # Cohere's older rerank
}
"""Fields that change another server's answer and cannot change this one's, each with what to do instead."""

UNSUPPORTED_IF_FALSE: Mapping[str, str] = {
    "add_special_tokens": "special tokens are always added to texts: send token ids to leave them out",  # vLLM
    "return_dense": 'POST /v1/embeddings takes "output": ["sparse"] for sparse vectors alone',  # FlagEmbedding
}
"""Flags whose default is true."""

KNOWN_FIELDS = frozenset((*CUTTING, *DIMENSIONS, *NORMALIZE, *UNSUPPORTED, *UNSUPPORTED_IF_FALSE))
"""All of these names but those of texts: a body with none of them needs no parser of this folder."""


def set_names(body: JsonObject, names: Iterable[str]) -> list[str]:
    """Those of `names` that the body has with a value other than null."""
    return [name for name in names if body.get(name) is not None]


def texts_besides(*own: str) -> tuple[str, ...]:
    """The names of the texts that are not the route's own."""
    return tuple(name for name in INPUTS if name not in own)


def inputs_field(body: JsonObject, own: Sequence[str]) -> str:
    """The field with the texts: one of the route's `own` names in this order, else another API's; the first if none.

    An empty array counts only if there is nothing else.

    Raises `InvalidRequest` if another API's name has other texts.
    """
    found = [name for name in own if body.get(name) not in (None, [])]
    foreign = [name for name in INPUTS if name not in own and body.get(name) not in (None, "", [])]
    if not foreign:
        return next(iter((*found, *set_names(body, own), *set_names(body, INPUTS))), own[0])
    field = found[0] if found else foreign[0]
    for name in foreign:
        if _as_list(body[name]) != _as_list(body[field]):
            raise InvalidRequest(f'"{field}" and "{name}" mean the same here: send only one of them', name)
    return field


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def refuse_unsupported(body: JsonObject, taken: Collection[str] = ()) -> None:
    """Refuse what other servers honor and this one cannot, instead of ignoring it; `taken` are names that it can.

    Raises `InvalidRequest`.
    """
    for name, instead in UNSUPPORTED.items():
        if name not in taken and body.get(name) not in (None, False, "", []):
            raise InvalidRequest(f'"{name}" is not supported: {instead}, or leave it out', name)
    for name, instead in UNSUPPORTED_IF_FALSE.items():
        if body.get(name) is False:
            raise InvalidRequest(f'"{name}" cannot be false: {instead}', name)


def refuse_lost_text(body: JsonObject, own: str) -> None:
    """For routes on which a body without a text loads the model: refuse one whose text has a name of another route.

    `own`: the route's own name beside `INPUTS`. Raises `InvalidRequest`.
    """
    lost = next(iter(set_names(body, TEXTS_ELSEWHERE)), None)
    if lost is not None and not set_names(body, (own, *INPUTS)):
        raise InvalidRequest(f'"{lost}" is not a field of this route: send the text as "input"', lost)
