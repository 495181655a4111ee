"""The optional fields shared by OpenAI's and llama.cpp's embedding routes: JSON → `EmbedFields`.

To keep requests without any of them cheap, check `EMBED_FIELDS` and `options.FIELDS` before calling the parsers.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf_embed.server.fields import output_types, prompt_prefix
from gguf_embed.server.fields.output_types import OutputType
from gguf_embed.server.fields.outputs import parse_pooling
from gguf_embed.server.http.values import JsonObject, optional_bool, optional_str
from gguf_embed.types import OutputSpec, PromptChoice

EMBED_FIELDS = frozenset(
    {
        "model",
        "pooling",
        "dimensions",
        "output_dimension",
        "truncate",
        *prompt_prefix.FIELDS,
        *output_types.FIELDS,
    }
)


@dataclass(frozen=True, slots=True)
class EmbedFields:
    """The parsed fields. None and (): absent."""

    model: str | None = None
    output: OutputSpec | None = None
    dimensions: int | None = None
    truncate: bool | None = None
    prompt: PromptChoice | None = None
    output_types: tuple[OutputType, ...] = ()


NO_EMBED_FIELDS = EmbedFields()


def parse_embed_fields(body: JsonObject) -> EmbedFields:
    """Raises `InvalidRequest` naming the field."""
    return EmbedFields(
        model=optional_str(body, "model"),
        output=parse_pooling(body),
        dimensions=output_types.parse_dimensions(body),
        truncate=optional_bool(body, "truncate"),
        prompt=prompt_prefix.parse_prompt_choice(body),
        output_types=output_types.parse_output_types(body),
    )
