"""vLLM's and Infinity's shapes of images in a request, rewritten to `input` with content parts."""

from __future__ import annotations

from gguf_embed.errors import InvalidRequest, NotSupported
from gguf_embed.server.fields.entries import parse_each
from gguf_embed.server.fields.field import Body, Choice, Json, Shaped
from gguf_embed.server.http.values import JsonObject, describe, wrong_value

_CONTENT: Json = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"ref": "ContentPart"}, "minItems": 1}]}
_MESSAGE: Json = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"type": "string", "enum": ["user"]}, "content": _CONTENT},
}
MESSAGES = Shaped(
    "messages",
    "vLLM's shape of one input, instead of `input`: one message of the role `user`. No chat template is applied.",
    shape={"type": "array", "items": _MESSAGE, "minItems": 1, "maxItems": 1},
)
MODALITY = Choice(
    "modality",
    "Infinity's: what the strings in `input` are. With `image`: images as base64, data URLs or allowed URLs.",
    default='`"text"`',
    words=("text", "image"),
)
MEDIA_FIELDS = Body(
    "MediaFields",
    (MESSAGES, MODALITY),
    "Images and texts as vLLM's and Infinity's clients send them.",
    see="Images",
)
MEDIA_NAMES = frozenset(field.name for field in MEDIA_FIELDS.fields)


def with_content_parts(body: JsonObject) -> JsonObject:
    """The body with `input` instead of these fields. Raises `InvalidRequest`, `NotSupported` for sound."""
    rest = {name: value for name, value in body.items() if name not in MEDIA_NAMES}
    if body.get(MESSAGES.name) is not None:
        if rest.get("input") is not None:
            raise InvalidRequest('"messages" and "input" are both the input: send only one of them', MESSAGES.name)
        rest["input"] = [{"content": _content_of(body[MESSAGES.name])}]
    modality = body.get(MODALITY.name)
    if isinstance(modality, str) and modality.lower() == "audio":
        raise NotSupported('"modality" is audio: this server reads only text and images')
    if modality is not None and _is_zero(rest.get("dimensions")):  # Infinity's client sends it for all
        del rest["dimensions"]
    if MODALITY.read(body) == "image":
        rest["input"] = _as_images(rest.get("input"))
    return rest


def _is_zero(value: object) -> bool:
    return value == 0 and not isinstance(value, bool)


def _content_of(messages: object) -> list[object]:
    """The parts of the only message."""
    match messages:
        case [{"role": "user", "content": str(text)}]:
            return [{"type": "text", "text": text}]
        case [{"role": "user", "content": list(parts)}]:
            return parts
        case list() if len(messages) != 1:
            raise InvalidRequest(
                f'"messages" has {len(messages)} messages, and no chat template is applied here that could join them: '
                "send one message of the role user",
                MESSAGES.name,
            )
    raise InvalidRequest(
        f'"messages[0]" must be {{"role": "user", "content": …}} with a string or an array of parts, found '
        f"{describe(messages[0] if isinstance(messages, list) else messages)}",
        MESSAGES.name,
    )


def _as_images(given: object) -> list[object]:
    entries = given if isinstance(given, list) else [given]
    return list(parse_each(entries, _as_image))


def _as_image(entry: object, index: int) -> object:
    if not isinstance(entry, str):
        raise wrong_value(f"input[{index}]", 'a string with an image, because "modality" is image', entry)
    return {"image": entry}
