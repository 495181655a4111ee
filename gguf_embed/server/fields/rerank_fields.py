"""The fields of a rerank request, which all dialects share."""

from __future__ import annotations

from dataclasses import replace

from gguf_embed.server.fields import aliases
from gguf_embed.server.fields.field import Body, Choice, Flag, Json, Shaped, Text, Whole, has
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.outputs import POOLING
from gguf_embed.server.fields.truncation import CUTTING_FIELDS
from gguf_embed.server.fields.urgency import URGENCY_FIELDS

_TEXT: Json = {"type": "string"}
_WORDS: Json = {"type": "string", "pattern": "\\S"}
SCHEMAS: Json = {
    "Document": {
        "type": "object",
        "description": "A document with its text in `text`, or in the fields that `rank_fields` names.",
        "required": ["text"],
        "properties": {"text": {"type": ["string", "number", "boolean"]}},
    }
}
_DOCUMENTS: Json = {
    "type": ["array", "boolean"],
    "items": {"anyOf": [_TEXT, {"ref": "Document"}]},
    "minItems": 1,
}
QUERY = Shaped(
    "query",
    "What the documents are ranked for: a text, or an object with it. Never truncated: an empty one, or one that "
    "leaves no room for a document, is a 400.",
    required=True,
    shape={"anyOf": [_WORDS, {"type": "object", "required": ["text"], "properties": {"text": _WORDS}}]},
)
DOCUMENTS = Shaped(
    aliases.DOCUMENTS[0],
    "Texts, or objects with `text` or the fields in `rank_fields`; 2,048 at most (`--max-inputs`). A boolean is not "
    "read.",
    also=aliases.DOCUMENTS[1:],
    default="required",
    shape=_DOCUMENTS,
)
TEI_DOCUMENTS = Shaped(
    "texts",
    "TEI's name for the documents, with which request and reply have TEI's shape. A boolean is not read.",
    shape=_DOCUMENTS,
)
TOP_N = Whole(
    aliases.TOP_N[0],
    "Return only the N best results; 0 and -1: all. All documents are scored.",
    also=aliases.TOP_N[1:],
    default="all",
    minimum=-1,
)
RETURN_DOCUMENTS = Flag(
    aliases.RETURN_DOCUMENTS[0],
    'Include each document in the reply: the object as it was sent, or `{"text": …}`; in TEI\'s shape, its `text`.',
    also=aliases.RETURN_DOCUMENTS[1:],
    default="`false`",
)
RAW_SCORES = Flag(
    next(iter(aliases.RAW_SCORES)),
    "`true`: the model's own scores. `false`: scores from 0 to 1, by a sigmoid if the model returns a logit; a 400 "
    "with `method` `embedding`. The other names but the first mean the opposite.",
    also=tuple(aliases.RAW_SCORES)[1:],
    default="`--rerank-scores`, else `true`; on `/v2/rerank` and with `texts` `false`",
)
RANK_FIELDS = Shaped(
    "rank_fields",
    "Which fields of an object are used; several become lines of `field: value`.",
    default='`["text"]`',
    shape={"type": "array", "items": _TEXT, "minItems": 1},
)
LABEL = Shaped(
    "label",
    "Which output of a classifier (`contradiction`, …) is the score. Without it, such models are a 501. Not with "
    "method `embedding`.",
    shape={"type": ["string", "integer"]},
)
METHOD = Choice(
    "method",
    "`embedding`: the cosine of an embedding model's vectors, for models without a rank head.",
    default='`"rank"`',
    words=("rank", "embedding"),
)
MAX_TOKENS_PER_DOC = Whole(
    "max_tokens_per_doc",
    "Truncate every document to this number of its own tokens, whatever `truncate` says.",
    minimum=1,
)
RERANK_POOLING = Choice(
    POOLING.name, "Only with method `embedding`.", default=POOLING.default, words=("mean", "cls", "last")
)
USE_PROMPTS = Flag(
    "use_prompts",
    "Only with method `embedding`: add the model's own prompts for queries and documents; `prompt` in the reply shows "
    "them.",
    default="`false`",
)
INSTRUCTION = Text(
    "instruction",
    "What makes a document relevant, for rerankers whose template has an `<Instruct>:` (Qwen3's) and listwise ones; a "
    "400 for others.",
    also=("rerank_instruct",),
)
_OF_RANK: Json = {"enum": ["rank", None]}
_OF_COSINES: Json = {"enum": ["embedding"]}
RERANK_REQUEST = Body(
    "RerankRequest",
    (
        *(QUERY, DOCUMENTS, TEI_DOCUMENTS, MODEL, TOP_N, RETURN_DOCUMENTS, RAW_SCORES, MAX_TOKENS_PER_DOC),
        *(RANK_FIELDS, LABEL, INSTRUCTION, METHOD, RERANK_POOLING, USE_PROMPTS),
    ),
    "Exactly one of `documents` and `texts` (TEI's shape) is required.",
    groups=(replace(CUTTING_FIELDS, default="`--truncate`; on `/v2/rerank` and with `texts` `true`"), URGENCY_FIELDS),
    rules={
        "oneOf": [has({"documents": {"type": "array"}}), has({"texts": {"type": "array"}})],
        "not": {
            "anyOf": [
                {"required": ["pooling"], "properties": {"pooling": _TEXT, "method": _OF_RANK}},
                {"required": ["use_prompts"], "properties": {"use_prompts": {"enum": [True]}, "method": _OF_RANK}},
                has({"method": _OF_COSINES, "label": {"type": ["string", "integer"]}}),
                has({"method": _OF_COSINES, "instruction": {"type": "string", "minLength": 1}}),
                has({"method": _OF_COSINES, "raw_scores": {"enum": [False]}}),
            ]
        },
    },
)
