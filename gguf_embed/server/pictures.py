"""Pictures in `input` and `content`, in both of llama-server's shapes, taken out before the texts are parsed."""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import dataclass

from gguf_embed.errors import InvalidRequest, NotSupported
from gguf_embed.picture_files import MAX_BYTES, check_picture
from gguf_embed.remote_hosts import RemoteHosts
from gguf_embed.server.door import Door
from gguf_embed.server.fields import JsonObject, describe, optional_str
from gguf_embed.server.remote_pictures import RemotePicture, fetch_pictures
from gguf_embed.types import PictureText

MEDIA_MARKER = "<__media__>"
"""Stands in a "prompt_string" where a picture belongs; llama.cpp's default (mtmd_default_marker)."""

MAX_PICTURES = 64
"""In one request."""

_UNHEARD = {"input_audio": "sound", "audio_url": "sound", "input_video": "video", "video_url": "video"}

_Part = str | bytes | RemotePicture


@dataclass(frozen=True, slots=True)
class ParsedPictures:
    """What a body holds of pictures."""

    value: object  # the field without them: an input with pictures is "", content parts of text are joined
    inputs: tuple[tuple[int, tuple[_Part, ...]], ...]  # index and parts of each input with pictures


async def take_pictures(door: Door, body: JsonObject) -> tuple[JsonObject, tuple[PictureText, ...]]:
    """The body with texts only, and its inputs with pictures, fetched where that is allowed.

    Every request comes through here; one without an object among its inputs leaves as it came.
    Raises `InvalidRequest`, and `NotSupported` where the model has no vision tower.
    """
    param = "content" if body.get("input") is None else "input"
    value = body.get(param)
    if not (type(value) is dict or (type(value) is list and dict in set(map(type, value)))):
        return body, ()
    parsed = await asyncio.to_thread(parse_pictures, value, param, door.options.remote_hosts)
    if parsed.inputs:
        info = door.service.resolve(optional_str(body, "model")).info
        if not info.reads_pictures:
            raise NotSupported(
                f"model {info.name!r} reads text only: start the server with --mmproj FILE, the model's vision tower"
            )
    return {**body, param: parsed.value}, await _fetched(parsed, door.options.max_body_bytes)


async def _fetched(parsed: ParsedPictures, max_bytes: int) -> tuple[PictureText, ...]:
    remote = [part for _, parts in parsed.inputs for part in parts if isinstance(part, RemotePicture)]
    files = iter(await fetch_pictures(remote, max_bytes) if remote else ())
    found: list[PictureText] = []
    for index, parts in parsed.inputs:
        texts: list[str | bytes] = []
        for part in parts:
            if isinstance(part, RemotePicture):
                data = next(files)
                check_picture(data, part.where)
                texts.append(data)
            else:
                texts.append(part)
        found.append(PictureText(index, tuple(texts)))
    return tuple(found)


def parse_pictures(value: object, param: str, hosts: RemoteHosts) -> ParsedPictures:
    """Read every entry that is an object with `multimodal_data` or `content`; leave the others for the text parser.

    Raises `InvalidRequest` naming the place, `NotSupported` for sound and video.
    """
    if param == "content" and _is_parts(value):
        value = [{"content": value}]
    is_list = isinstance(value, list)
    entries: list[object] = list(value) if isinstance(value, list) else [value]
    if {int, float} & set(map(type, entries)):
        return ParsedPictures(value, ())  # one text as token ids: the text parser refuses the object in it
    inputs: list[tuple[int, tuple[_Part, ...]]] = []
    for index, entry in enumerate(entries):
        where = f'"{param}[{index}]"' if is_list else f'"{param}"'
        if isinstance(entry, dict) and (entry.get("multimodal_data") or "content" in entry):
            parts = _read_entry(entry, where, hosts)
            texts = [part for part in parts if isinstance(part, str)]
            entries[index] = "".join(texts) if len(texts) == len(parts) else ""
            if len(texts) < len(parts):
                inputs.append((index, parts))
    n_pictures = sum(not isinstance(part, str) for _, parts in inputs for part in parts)
    if n_pictures > MAX_PICTURES:
        raise InvalidRequest(f'"{param}" holds {n_pictures} pictures, the limit per request is {MAX_PICTURES}', param)
    return ParsedPictures(entries if is_list else entries[0], tuple(inputs))


def _is_parts(value: object) -> bool:
    """Whether `content` is itself a list of parts, one input, as in a chat message."""
    return isinstance(value, list) and bool(value) and all(isinstance(p, dict) and "type" in p for p in value)


def _read_entry(entry: JsonObject, where: str, hosts: RemoteHosts) -> tuple[_Part, ...]:
    if "content" not in entry:
        return _read_marked(entry, where)
    content = entry["content"]
    if not isinstance(content, list) or not content:
        raise InvalidRequest(f"{where}.content must be an array of parts, found {describe(content)}")
    return tuple(_read_part(part, f"{where}.content[{number}]", hosts) for number, part in enumerate(content))


def _read_marked(entry: JsonObject, where: str) -> tuple[_Part, ...]:
    """`prompt_string` with a marker for each entry of `multimodal_data`."""
    text, data = entry.get("prompt_string"), entry["multimodal_data"]
    if not isinstance(text, str):
        raise InvalidRequest(f"{where}.prompt_string must be a string, found {describe(text)}")
    if not isinstance(data, list):
        raise InvalidRequest(f"{where}.multimodal_data must be an array of base64 strings, found {describe(data)}")
    texts = text.split(MEDIA_MARKER)
    if len(texts) != len(data) + 1:
        raise InvalidRequest(
            f"{where}.prompt_string has {len(texts) - 1} times {MEDIA_MARKER}, multimodal_data {len(data)} entries: "
            "write it once for each, where the picture belongs"
        )
    parts: list[_Part] = [texts[0]]
    for number, (item, following) in enumerate(zip(data, texts[1:], strict=True)):
        parts += [_read_base64(item, f"{where}.multimodal_data[{number}]"), following]
    return tuple(part for part in parts if part != "")


def _read_part(part: object, where: str, hosts: RemoteHosts) -> _Part:
    kind = part.get("type") if isinstance(part, dict) else None
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image_url", "image_url": {"url": str(url)}} | {"type": "image_url", "image_url": str(url)}:
            return _read_url(url, f"{where}.image_url", hosts)
        case _ if isinstance(kind, str) and kind in _UNHEARD:
            raise NotSupported(f"{where} is {_UNHEARD[kind]}: this server reads text and pictures only")
        case _:
            raise InvalidRequest(
                f'{where} must be {{"type": "text", "text": "…"}} or '
                f'{{"type": "image_url", "image_url": {{"url": "…"}}}}, found {describe(part)}'
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
            return RemotePicture(hosts.check(url, where), where)
        case _:
            raise InvalidRequest(f"{where}: files and other schemes are never read: send data:image/png;base64,…")


def _read_base64(value: object, where: str) -> bytes:
    if not isinstance(value, str):
        raise InvalidRequest(f"{where} must be a base64 string, found {describe(value)}")
    if len(value) > MAX_BYTES * 3 // 2:
        raise InvalidRequest(f"{where} has {len(value):,} characters, the limit is {MAX_BYTES:,} bytes decoded")
    try:
        data = base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidRequest(f"{where} is not base64 ({exc})") from exc
    check_picture(data, where)
    return data
