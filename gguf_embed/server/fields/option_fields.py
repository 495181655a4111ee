"""The declarations of the embed options, which `options.py` parses."""

from __future__ import annotations

from gguf_embed.server.fields.field import Body, Choice, Flag, Json, Shaped, has
from gguf_embed.tokenization.offsets import OffsetUnit

SCHEMAS: Json = {
    "Span": {
        "type": "array",
        "description": "`[start, end]` in characters; `end` is exclusive.",
        "items": {"type": "integer"},
        "minItems": 2,
        "maxItems": 2,
    }
}
_SPANS: Json = {"type": "array", "items": {"ref": "Span"}, "minItems": 1}
RETURN_TOKENS = Flag(
    "return_tokens",
    "Return the tokens of each input, with their pieces and character offsets.",
    default="`false`",
    see="Tokens: `return_tokens`",
)
SPANS = Shaped(
    "spans",
    "For each input, a list of `[start, end]` in characters; for a single input, also just the list. Each span gets a "
    "vector, pooled from the tokens of the whole text, which is computed once.",
    see="Parts of a text: `spans` and `late_chunking`",
    shape={"anyOf": [_SPANS, {"type": "array", "items": _SPANS, "minItems": 1}]},
)
LATE_CHUNKING = Flag(
    "late_chunking", "Jina's field: the inputs form one text, and each of them is a span of it.", default="`false`"
)
LONG_INPUT = Choice(
    "long_input",
    "`chunk_mean`: split texts over the model's limit into windows, and return the mean of their vectors.",
    default='`"error"`',
    see="Texts over the limit: `long_input`",
    words=("error", "chunk_mean"),
)
ON_ERROR = Choice(
    "on_error",
    "`skip`: omit inputs that fail, and report their errors.",
    default='`"fail"`',
    see="Inputs that fail: `on_error`",
    words=("fail", "skip"),
)
OFFSET_UNIT = Choice(
    "offset_unit",
    "Unit of spans and offsets: Python's characters, JavaScript's, or bytes.",
    default='`"codepoints"`',
    words=tuple(OffsetUnit),
)
_TRUE = {"enum": [True]}
OPTION_FIELDS = Body(
    "ExtraFields",
    (RETURN_TOKENS, SPANS, LATE_CHUNKING, LONG_INPUT, ON_ERROR, OFFSET_UNIT),
    "Options for tokens, spans, long texts and partial results.",
    rules={
        "not": {
            "anyOf": [
                has({"late_chunking": _TRUE, "spans": {"type": "array"}}),
                has({"late_chunking": _TRUE, "on_error": {"enum": ["skip"]}}),
            ]
        }
    },
    see="More than one vector per text",
)
