"""The optional fields shared by OpenAI's and llama.cpp's embedding routes: JSON → `EmbedFields`.

To keep requests without any of them cheap, check `EMBED_FIELDS` and `options.FIELDS` before calling the parsers.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf_embed.server.fields import aliases, head_outputs, output_types, prompt_prefix
from gguf_embed.server.fields.field import Flag
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.output_types import OutputType
from gguf_embed.server.fields.outputs import parse_pooling
from gguf_embed.server.fields.truncation import NO_CUTTING, Cutting, parse_cutting
from gguf_embed.server.http.values import JsonObject
from gguf_embed.types import Muvera, OutputSpec, PromptChoice

NORMALIZE = Flag(aliases.NORMALIZE[0], "Return vectors of length 1.", also=aliases.NORMALIZE[1:])
OWN_INPUTS = ("input", "content")
"""The texts' names on these routes; the first takes precedence, as in llama-server."""

EMBED_FIELDS = frozenset(
    {
        "model",
        "pooling",
        *aliases.KNOWN_FIELDS,
        *(name for name in aliases.INPUTS if name not in OWN_INPUTS),
        *prompt_prefix.FIELDS,
        *output_types.FIELDS,
        *head_outputs.NAMES,
    }
)


@dataclass(frozen=True, slots=True)
class EmbedFields:
    """The parsed fields. None and (): absent."""

    model: str | None = None
    output: OutputSpec | None = None
    pool_factor: int = 1
    muvera: Muvera | None = None
    dimensions: int | None = None
    cutting: Cutting = NO_CUTTING
    normalize: bool | None = None
    prompt: PromptChoice | None = None
    output_types: tuple[OutputType, ...] = ()


NO_EMBED_FIELDS = EmbedFields()


def parse_embed_fields(body: JsonObject) -> EmbedFields:
    """Raises `InvalidRequest` naming the field."""
    aliases.refuse_unsupported(body, head_outputs.NAMES)
    aliases.inputs_field(body, OWN_INPUTS)
    types = output_types.parse_output_types(body)
    output = head_outputs.parse_head_outputs(body, parse_pooling(body))
    return EmbedFields(
        model=MODEL.read(body),
        output=output,
        pool_factor=head_outputs.parse_pool_factor(body, output),
        muvera=head_outputs.parse_muvera(body, output, types),
        dimensions=output_types.parse_dimensions(body),
        cutting=parse_cutting(body),
        normalize=NORMALIZE.read(body),
        prompt=prompt_prefix.parse_prompt_choice(body),
        output_types=types,
    )
