"""OpenAI's `/v1/files`: inputs and outputs of batches, on the disk of the server."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from aiohttp import BadContentDispositionHeader, BadContentDispositionParam, BodyPartReader, ClientPayloadError, web
from aiohttp.http import HttpProcessingError

from gguf_embed.batch.batches import Batches
from gguf_embed.batch.records import FileRecord
from gguf_embed.batch.upload import Upload
from gguf_embed.errors import InvalidRequest, NotSupported
from gguf_embed.server.context import ServerContext
from gguf_embed.server.http.auth import accepted_key
from gguf_embed.server.http.body import json_response

PURPOSE = "batch"
KEPT_S = range(3_600, 2_592_001)
"""OpenAI's bounds for `expires_after`."""

MAX_FILES_LISTED = 10_000
FIRST_DEADLINE_S = 60.0
SLOWEST_BYTES_PER_S = 10_000
"""An upload may take a minute, and longer only if it goes on at this rate."""

_BROKEN_FORM = (
    *(ValueError, AssertionError, HttpProcessingError),
    *(web.RequestPayloadError, ClientPayloadError, web.HTTPException),
)
"""What aiohttp raises while it reads a form."""

_MAX_FILENAME = 255
_MAX_FIELD_BYTES = 1024
_MAX_PARTS = 16
_CHUNK_BYTES = 2**18

for _notice in (BadContentDispositionHeader, BadContentDispositionParam):
    warnings.simplefilter("ignore", _notice)  # a part that has no name is a field that nothing reads


def batches_of(context: ServerContext) -> Batches:
    """Raises `NotSupported` if they are switched off."""
    if context.batches is None:
        raise NotSupported("batches are switched off on this server: start it with --batch-dir DIR")
    return context.batches


async def owner_of(context: ServerContext, request: web.Request) -> str:
    """Who may see what this request makes."""
    return await batches_of(context).owner_of(accepted_key(request.headers, context.options.api_keys))


@dataclass(slots=True)
class _Form:
    """What has arrived of a form."""

    upload: Upload | None = None
    filename: str = ""
    fields: dict[str, str] = field(default_factory=dict)


async def upload(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /v1/files`. The content goes to the disk as it arrives."""
    batches, owner = batches_of(context), await owner_of(context, request)
    if request.content_type != "multipart/form-data" or "Content-Encoding" in request.headers:
        raise InvalidRequest('send the file as multipart/form-data, with the fields "file" and "purpose"')
    form, task = _Form(), asyncio.current_task()
    assert task is not None
    try:
        await _read_form(request, batches, owner, form)
        _check_purpose(form.fields.get("purpose"))
        kept_s = _kept_s(form.fields, batches.limits.kept_s)
        if form.upload is None:
            raise InvalidRequest('"file" must be provided: the lines of a batch, as JSONL', "file")
        context.in_flight.enter(task)
        record = await form.upload.finish(form.filename, PURPOSE, kept_s)
    finally:
        if form.upload is not None:
            await form.upload.abort()
    return json_response(orjson.dumps(format_file(record)))


async def _read_form(request: web.Request, batches: Batches, owner: str, form: _Form) -> None:
    loop = asyncio.get_running_loop()
    began_s, n_parts = loop.time(), 0
    try:
        async with asyncio.timeout(FIRST_DEADLINE_S) as deadline:
            async for part in await request.multipart():
                n_parts += 1
                if n_parts > _MAX_PARTS or not isinstance(part, BodyPartReader):
                    raise InvalidRequest(f"the form has more than {_MAX_PARTS} parts, or a form in one of them")
                if part.name != "file":
                    form.fields[part.name or ""] = await _text_of(part)
                    continue
                if form.upload is not None:
                    raise InvalidRequest("the form has several files: upload them one by one", "file")
                form.filename = _clean(part.filename or "file")
                form.upload = await batches.begin_upload(owner)
                while chunk := await part.read_chunk(_CHUNK_BYTES):
                    await form.upload.write(chunk)
                    granted_s = FIRST_DEADLINE_S + form.upload.n_bytes / SLOWEST_BYTES_PER_S
                    deadline.reschedule(began_s + granted_s)
    except TimeoutError as exc:
        raise InvalidRequest("the file arrived too slowly: send it again") from exc
    except _BROKEN_FORM as exc:
        raise InvalidRequest("the body is not a complete form in multipart/form-data") from exc


async def _text_of(part: BodyPartReader) -> str:
    raw = bytearray()
    while chunk := await part.read_chunk(_CHUNK_BYTES):
        raw += chunk
        if len(raw) > _MAX_FIELD_BYTES:
            raise InvalidRequest(f'"{_clean(part.name or "")}" is over {_MAX_FIELD_BYTES} bytes', part.name)
    return raw.decode("utf-8", "replace")


def _clean(name: str) -> str:
    return "".join(character for character in name if character.isprintable())[:_MAX_FILENAME]


def _check_purpose(purpose: str | None) -> None:
    if purpose != PURPOSE:
        found = "nothing" if purpose is None else f'"{purpose[:60]}"'
        raise InvalidRequest(f'"purpose" can only be "{PURPOSE}" here, found {found}', "purpose")


def _kept_s(fields: Mapping[str, str], default_s: int) -> int:
    """How long the file is kept, from the form's `expires_after[…]`."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return default_s
    is_number = seconds is not None and seconds.isascii() and seconds.isdigit() and len(seconds) < 10
    return parse_kept_s({"anchor": anchor, "seconds": int(seconds or 0) if is_number else seconds}, "expires_after")


def parse_kept_s(policy: object, param: str) -> int:
    """The seconds of an expiration policy. Raises `InvalidRequest`."""
    match policy:
        case {"anchor": "created_at", "seconds": int(seconds)} if seconds in KEPT_S:
            return seconds
    raise InvalidRequest(
        f'"{param}" must have "anchor": "created_at", and "seconds" from {KEPT_S.start} to {KEPT_S.stop - 1}', param
    )


async def list_files(context: ServerContext, request: web.Request) -> web.Response:
    """`GET /v1/files`."""
    owner, query = await owner_of(context, request), request.query
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest('"order" must be "asc" or "desc"', "order")
    found = await batches_of(context).files(owner, query.get("purpose"))
    listed = [format_file(record) for record in (found if order == "asc" else reversed(found))]
    return json_response(orjson.dumps(page(listed, query, MAX_FILES_LISTED, MAX_FILES_LISTED)))


def page(
    listed: Sequence[dict[str, object]], query: Mapping[str, str], default: int, maximum: int
) -> dict[str, object]:
    """The part of a list that `limit` and `after` ask for. Raises `InvalidRequest`."""
    text = query.get("limit", str(default))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if not 1 <= limit <= maximum:
        raise InvalidRequest(f'"limit" must be a number from 1 to {maximum}', "limit")
    start, after = 0, query.get("after")
    if after is not None:
        positions = [at for at, entry in enumerate(listed) if entry["id"] == after]
        if not positions:
            raise InvalidRequest('"after" must be the id of an object in this list', "after")
        start = positions[0] + 1
    shown = listed[start : start + limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": start + limit < len(listed),
    }


async def show(context: ServerContext, request: web.Request) -> web.Response:
    """`GET /v1/files/{file_id}`."""
    owner = await owner_of(context, request)
    return json_response(orjson.dumps(format_file(await batches_of(context).file(owner, _id(request)))))


async def content(context: ServerContext, request: web.Request) -> web.FileResponse:
    """`GET /v1/files/{file_id}/content`."""
    owner = await owner_of(context, request)
    path = await batches_of(context).content(owner, _id(request))
    return web.FileResponse(path, headers={"Content-Type": "application/octet-stream"})


async def delete(context: ServerContext, request: web.Request) -> web.Response:
    """`DELETE /v1/files/{file_id}`."""
    owner, file_id = await owner_of(context, request), _id(request)
    await batches_of(context).delete_file(owner, file_id)
    return json_response(orjson.dumps({"id": file_id, "object": "file", "deleted": True}))


def _id(request: web.Request) -> str:
    return request.match_info["file_id"]


def format_file(record: FileRecord) -> dict[str, object]:
    """OpenAI's file object."""
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.n_bytes,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
    }
