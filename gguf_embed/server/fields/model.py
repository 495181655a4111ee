"""The name of the model that answers."""

from __future__ import annotations

from gguf_embed.server.fields.field import Text

MODEL = Text(
    "model",
    "Model name. Without it, the first model answers. If only one model is available, any name refers to it.",
    see="Models",
)
