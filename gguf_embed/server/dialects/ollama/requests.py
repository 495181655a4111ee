"""The fields of Ollama's requests for vectors."""

from __future__ import annotations

from dataclasses import replace

from gguf_embed.server.dialects.ollama.model_names import MODEL
from gguf_embed.server.dialects.ollama.options import KEEP_ALIVE, OPTIONS
from gguf_embed.server.fields import aliases
from gguf_embed.server.fields.field import Body, Shaped, Text, has
from gguf_embed.server.fields.prompt_prefix import MAX_PROMPT_CHARACTERS, PROMPT, PROMPT_WORDS
from gguf_embed.server.fields.truncation import CUTTING_FIELDS
from gguf_embed.server.fields.urgency import URGENCY_FIELDS

_TEXT = {"type": "string"}
_NO_PREFIX = {"anyOf": [{"type": "array"}, {"type": "string", "minLength": MAX_PROMPT_CHARACTERS + 1}]}
EMBED = Body(
    "OllamaEmbedRequest",
    (
        MODEL,
        Shaped(
            "input",
            "A text or texts; empty or absent: load the model, or unload it with `keep_alive` 0.",
            also=aliases.texts_besides("input"),
            see="Inputs",
            shape={"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]},
        ),
        Shaped(
            "dimensions",
            "Keep the first N numbers and renormalize. Zero, negative numbers and more than the model has mean all.",
            also=aliases.DIMENSIONS[1:],
            default="all",
            shape={"type": "integer"},
        ),
        Shaped(
            PROMPT.name,
            "Without `input`, or equal to it: the text or texts; the reply then also has `embedding`, and options may "
            f"be top-level fields. Otherwise the prefix itself, up to {MAX_PROMPT_CHARACTERS:,} characters.",
            see="Prompts",
            shape={"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]},
        ),
        KEEP_ALIVE,
        OPTIONS,
    ),
    rules={"not": has({"input": {"not": {"type": "null"}}, PROMPT.name: _NO_PREFIX})},
    groups=(PROMPT_WORDS, replace(CUTTING_FIELDS, default="`true`"), URGENCY_FIELDS),
)
PROMPT_TEXT = Text("prompt", "The text; empty or absent: load the model.", also=aliases.INPUTS)
EMBEDDINGS = Body(
    "OllamaEmbeddingsRequest",
    (MODEL, PROMPT_TEXT, KEEP_ALIVE, OPTIONS),
    groups=(PROMPT_WORDS, replace(CUTTING_FIELDS, default="`true`"), URGENCY_FIELDS),
)
