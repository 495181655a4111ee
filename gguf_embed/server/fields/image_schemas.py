"""JSON Schemas of inputs with images, in the shapes of each client."""

from __future__ import annotations

from gguf_embed.server.fields.field import Json

MEDIA_MARKER = "<__media__>"
"""Marks the place of an image in a "prompt_string"; llama.cpp's default (mtmd_default_marker)."""

_TEXT: Json = {"type": "string"}
_URL: Json = {"type": "object", "required": ["url"], "properties": {"url": _TEXT}}
TEXT_PART: Json = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"type": "string", "enum": ["text"]}, "text": _TEXT},
}
SCHEMAS: Json = {
    "MarkedText": {
        "type": "object",
        "required": ["prompt_string"],
        "properties": {
            "prompt_string": {
                **_TEXT,
                "description": f"The text, with `{MEDIA_MARKER}` at the position of each image.",
            },
            "multimodal_data": {
                "type": ["array", "null"],
                "items": _TEXT,
                "description": "The images as base64.",
            },
        },
        "not": {"required": ["content"]},
    },
    "ContentParts": {
        "type": "object",
        "required": ["content"],
        "properties": {"content": {"type": "array", "items": {"ref": "ContentPart"}, "minItems": 1}},
    },
    "TextOrImage": {
        "description": "Jina's: a text, or an image as base64, a data URL or an allowed URL.",
        "anyOf": [
            {"type": "object", "required": ["text"], "properties": {"text": _TEXT, "image": {"type": "null"}}},
            {
                "type": "object",
                "required": ["image"],
                "properties": {"text": {"type": ["string", "null"]}, "image": _TEXT},
            },
        ],
        "not": {"anyOf": [{"required": ["content"]}, {"required": ["prompt_string"]}]},
    },
    "ContentPart": {
        "description": "A part of type `text` or `image_url`, as in a chat message, or Voyage's `image_base64`.",
        "anyOf": [
            TEXT_PART,
            {
                "type": "object",
                "required": ["type", "image_url"],
                "properties": {
                    "type": {"type": "string", "enum": ["image_url"]},
                    "image_url": {"anyOf": [_TEXT, _URL]},
                },
            },
            {
                "type": "object",
                "required": ["type", "image_base64"],
                "properties": {"type": {"type": "string", "enum": ["image_base64"]}, "image_base64": _TEXT},
            },
        ],
    },
}
