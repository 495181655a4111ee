"""Extracts images from `input` and `content`, in both of llama-server's shapes, before the texts are parsed."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from gguf_embed.errors import InvalidRequest, NotSupported, WayOut
from gguf_embed.images.checks import MAX_BYTES, check_image, check_together
from gguf_embed.images.url_allowlist import RemoteHosts
from gguf_embed.server.context import ServerContext
from gguf_embed.server.fields.image_fetch import RemoteImage, fetch_images
from gguf_embed.server.fields.image_schemas import MEDIA_MARKER
from gguf_embed.server.fields.inputs import check_count
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.http.values import JsonObject, describe
from gguf_embed.service.embed_images import no_tower
from gguf_embed.types import ImageInput

MAX_IMAGES = 64
"""Limit per request."""

MAX_PARTS = 10_000
"""Limit on the parts of `content` per request; each takes about a microsecond."""

_JINA_KEYS = ("text", "image")
"""Jina's shape of an input: a text or an image, or both."""

_SPACES = b" \t\r\n\f\v"
_UNSUPPORTED_MEDIA = {"input_audio": "sound", "audio_url": "sound", "input_video": "video", "video_url": "video"}

_Part = str | bytes | RemoteImage


@dataclass(frozen=True, slots=True)
class ParsedImages:
    """The images in a body, and the rest of the field."""

    value: object  # the field without images: an input with images is "", parts that are texts are joined
    inputs: tuple[tuple[int, tuple[_Part, ...]], ...]  # index and parts of each input with images


@dataclass(frozen=True, slots=True)
class ImageRules:
    """What images a request may contain."""

    hosts: RemoteHosts
    max_inputs: int
    refusal: NotSupported | None = None  # raised for any image, if the model reads none


async def take_images(
    context: ServerContext, body: JsonObject, param: str | None = None
) -> tuple[JsonObject, tuple[ImageInput, ...]]:
    """The body without images, and the inputs with images, which are fetched if they are URLs.

    `param` is the field with the inputs; None: `input`, or `content` if that is absent.
    Only needed for a body with an object among its inputs, because images cannot be anywhere else.
    Raises `InvalidRequest`, and `NotSupported` if the model has no vision tower.
    """
    if param is None:
        param = "content" if body.get("input") is None else "input"
    value = body.get(param)
    options = context.options
    info = context.service.resolve(MODEL.read(body)).info
    refusal = None if info.reads_images else no_tower(info.name, _names_of_readers(context))
    rules = ImageRules(options.remote_hosts, options.max_inputs, refusal)
    parsed = await asyncio.to_thread(parse_images, value, param, rules)
    remote = [part for _, parts in parsed.inputs for part in parts if isinstance(part, RemoteImage)]
    files = await fetch_images(remote, options.max_body_bytes) if remote else []
    images = await asyncio.to_thread(_assemble, parsed, files) if parsed.inputs else ()
    return {**body, param: parsed.value}, images


def _names_of_readers(context: ServerContext) -> list[str]:
    return [status.info.name for status in context.service.models() if status.info.reads_images]


def _assemble(parsed: ParsedImages, fetched: list[bytes]) -> tuple[ImageInput, ...]:
    """The inputs, with `fetched` in place of the remote images, in order."""
    files = iter(fetched)
    found: list[ImageInput] = []
    for index, parts in parsed.inputs:
        complete: list[str | bytes] = []
        for part in parts:
            if isinstance(part, RemoteImage):
                data = next(files)
                check_image(data, part.where)
                complete.append(data)
            else:
                complete.append(part)
        check_together((part for part in complete if isinstance(part, bytes)), f"input {index}")
        found.append(ImageInput(index, tuple(complete)))
    return tuple(found)


def parse_images(value: object, param: str, rules: ImageRules) -> ParsedImages:
    """Parse the entries that are objects with `multimodal_data` or `content`; leave the others for the text parser.

    Raises `InvalidRequest` naming the place, and `NotSupported` for sound, for video, and for images if the model reads
    none.
    """
    parser = _ImageParser(param, rules)
    if param == "content" and isinstance(value, list) and _is_parts(value):
        parts = parser.parse_parts(value, f'"{param}[', ']"')
        return ParsedImages([_text_of(parts)], _with_images([(0, parts)]))
    is_list = isinstance(value, list)
    entries: list[object] = list(value) if isinstance(value, list) else [value]
    if {int, float} & set(map(type, entries)):
        return ParsedImages(value, ())  # one text as token ids: the text parser refuses the object in it
    check_count(entries, param, rules.max_inputs)
    inputs: list[tuple[int, tuple[_Part, ...]]] = []
    for index, entry in enumerate(entries):
        if isinstance(entry, dict) and _has_parts(entry):
            parts = parser.parse_entry(entry, f'"{param}[{index}]"' if is_list else f'"{param}"')
            entries[index] = _text_of(parts)
            inputs.append((index, parts))
    return ParsedImages(entries if is_list else entries[0], _with_images(inputs))


def _has_parts(entry: JsonObject) -> bool:
    return bool(entry.get("multimodal_data")) or not {"content", *_JINA_KEYS}.isdisjoint(entry)


def _text_of(parts: tuple[_Part, ...]) -> str:
    """The text of an input without images; "" if it has images."""
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(parts) else ""


def _with_images(inputs: Sequence[tuple[int, tuple[_Part, ...]]]) -> tuple[tuple[int, tuple[_Part, ...]], ...]:
    return tuple((index, parts) for index, parts in inputs if not all(isinstance(part, str) for part in parts))


def _is_parts(value: list[object]) -> bool:
    """Whether `content` is itself a list of the parts of one input, as in a chat message."""
    return bool(value) and all(isinstance(part, dict) and "type" in part for part in value)


class _ImageParser:
    """Parses the entries of one request, and enforces the limits on images and parts."""

    def __init__(self, param: str, rules: ImageRules) -> None:
        self._param = param
        self._rules = rules
        self._n_images = 0
        self._n_parts = 0

    def parse_entry(self, entry: JsonObject, where: str) -> tuple[_Part, ...]:
        if "content" not in entry:
            is_jina = not entry.get("multimodal_data")
            return self._parse_text_and_image(entry, where) if is_jina else self._parse_prompt_string(entry, where)
        content = entry["content"]
        if not isinstance(content, list) or not content:
            raise InvalidRequest(f"{where}.content must be an array of parts, found {describe(content)}")
        return self.parse_parts(content, f"{where}.content[", "]")

    def parse_parts(self, content: list[object], before: str, after: str) -> tuple[_Part, ...]:
        """`before`, a part's number and `after` name the part in errors."""
        self._n_parts += len(content)
        if self._n_parts > MAX_PARTS:
            raise InvalidRequest(
                f'"{self._param}" has over {MAX_PARTS:,} parts, which is the limit per request: join the texts',
                self._param,
            )
        return tuple(self._parse_part(part, f"{before}{number}{after}") for number, part in enumerate(content))

    def _parse_text_and_image(self, entry: JsonObject, where: str) -> tuple[_Part, ...]:
        """Jina's `{"text": …}`, `{"image": …}`, or both."""
        parts: list[_Part] = []
        for key in _JINA_KEYS:
            value = entry.get(key)
            if value is None:
                continue
            if not isinstance(value, str):
                raise InvalidRequest(f"{where}.{key} must be a string, found {describe(value)}")
            if key == "image":
                self._count_images(1)
            parts.append(value if key == "text" else _read_url(value, f"{where}.image", self._rules.hosts))
        if not parts:
            raise InvalidRequest(f"{where} has neither a text nor an image")
        return tuple(parts)

    def _parse_prompt_string(self, entry: JsonObject, where: str) -> tuple[_Part, ...]:
        """`prompt_string` has a marker for each entry of `multimodal_data`."""
        text, data = entry.get("prompt_string"), entry["multimodal_data"]
        if not isinstance(text, str):
            raise InvalidRequest(f"{where}.prompt_string must be a string, found {describe(text)}")
        if not isinstance(data, list):
            raise InvalidRequest(f"{where}.multimodal_data must be an array of base64 strings, found {describe(data)}")
        self._count_images(len(data))
        n_markers = text.count(MEDIA_MARKER)
        if n_markers != len(data):
            raise InvalidRequest(
                f"{where}.prompt_string contains {MEDIA_MARKER} {n_markers} times, and multimodal_data has {len(data)} "
                "entries: write it once for each image, where the image belongs"
            )
        texts = text.split(MEDIA_MARKER)
        parts: list[_Part] = [texts[0]]
        for number, (item, following) in enumerate(zip(data, texts[1:], strict=True)):
            parts += [_read_base64(item, f"{where}.multimodal_data[{number}]"), following]
        return tuple(part for part in parts if part != "")

    def _parse_part(self, part: object, where: str) -> _Part:
        kind = part.get("type") if isinstance(part, dict) else None
        match part:
            case {"type": "text", "text": str(text)}:
                return text
            case {"type": "image_url", "image_url": {"url": str(url)}} | {"type": "image_url", "image_url": str(url)}:
                self._count_images(1)
                return _read_url(url, f"{where}.image_url", self._rules.hosts)
            case {"type": "image_base64", "image_base64": str(data)}:  # Voyage's
                self._count_images(1)
                return _read_url(data, f"{where}.image_base64", self._rules.hosts)
            case _ if isinstance(kind, str) and kind in _UNSUPPORTED_MEDIA:
                raise NotSupported(f"{where} is {_UNSUPPORTED_MEDIA[kind]}: this server reads only text and images")
            case _:
                raise InvalidRequest(
                    f'{where} must be {{"type": "text", "text": "…"}} or '
                    f'{{"type": "image_url", "image_url": {{"url": "…"}}}}, found {describe(part)}'
                )

    def _count_images(self, n_more: int) -> None:
        """Check the number of images before they are decoded."""
        if self._rules.refusal is not None:
            raise self._rules.refusal
        self._n_images += n_more
        if self._n_images > MAX_IMAGES:
            raise InvalidRequest(
                f'"{self._param}" has over {MAX_IMAGES} images, which is the limit per request: send several requests',
                self._param,
            )


def _read_url(url: str, where: str, hosts: RemoteHosts) -> _Part:
    scheme, colon, rest = url.partition(":")
    match scheme.lower() if colon else "":
        case "":
            return _read_base64(url, where)
        case "data":
            kind, comma, data = rest.partition(",")
            if not comma or not kind.lower().startswith("image/") or not kind.lower().endswith(";base64"):
                raise InvalidRequest(f"{where} must be data:image/png;base64,… or data:image/jpeg;base64,…")
            return _read_base64(data, where)
        case "http" | "https":
            return RemoteImage(hosts.check(url, where), where)
        case _:
            raise InvalidRequest(
                f"{where}: only http, https and data URLs are supported", ways_out=[WayOut.SEND_INLINE]
            )


def _read_base64(value: object, where: str) -> bytes:
    if not isinstance(value, str):
        raise InvalidRequest(f"{where} must be a base64 string, found {describe(value)}")
    if len(value) > MAX_BYTES * 3 // 2:
        raise InvalidRequest(f"{where} has {len(value):,} characters, the limit is {MAX_BYTES:,} bytes when decoded")
    try:
        data = base64.b64decode(value.encode("ascii").translate(None, _SPACES), validate=True)
    except UnicodeEncodeError as exc:
        raise InvalidRequest(f"{where} is not base64 (it has non-ASCII characters)") from exc
    except binascii.Error as exc:
        raise InvalidRequest(f"{where} is not base64 ({exc})") from exc
    check_image(data, where)
    return data
