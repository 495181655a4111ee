"""OpenAI's `/v1/batches`: many requests in one file, computed in the background."""

from __future__ import annotations

import orjson
from aiohttp import web

from gguf_embed.batch.batches import NewBatch
from gguf_embed.batch.records import Batch
from gguf_embed.durations import parse_go_duration
from gguf_embed.errors import InvalidRequest, NotSupported
from gguf_embed.server.batch_lines import line_routes
from gguf_embed.server.context import ServerContext
from gguf_embed.server.dialects.openai.files import batches_of, owner_of, page, parse_kept_s
from gguf_embed.server.http.body import json_response, read_json_object
from gguf_embed.server.http.values import JsonObject, describe, wrong_value

DEFAULT_LISTED, MAX_LISTED = 20, 100
MIN_WINDOW_S, MAX_WINDOW_S = 60, 30 * 86_400
MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512
"""OpenAI's limits on `metadata`."""

_MAX_USER_AGENT = 200


async def create(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /v1/batches`."""
    owner = await owner_of(context, request)
    body = await read_json_object(context, request)
    batches = batches_of(context)
    window, window_s = _parse_window(body)
    kept = body.get("output_expires_after")
    new = NewBatch(
        endpoint=_parse_endpoint(context, body),
        input_file_id=_string(body, "input_file_id", "the id of an uploaded file"),
        completion_window=window,
        window_s=window_s,
        output_kept_s=batches.limits.kept_s if kept is None else parse_kept_s(kept, "output_expires_after"),
        metadata=_parse_metadata(body),
        user_agent=request.headers.get("User-Agent", "")[:_MAX_USER_AGENT].encode("utf-8", "replace").decode(),
    )
    return _reply(await batches.create(owner, new))


def _string(body: JsonObject, name: str, expected: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise wrong_value(name, expected, value)
    return value


def _parse_endpoint(context: ServerContext, body: JsonObject) -> str:
    endpoint, known = _string(body, "endpoint", "the path of a route"), sorted(line_routes(context.dialects))
    if endpoint not in known:
        raise NotSupported(
            f"batches for {endpoint[:60]!r} are not supported here: the endpoint can be {' or '.join(known)}"
        )
    return endpoint


def _parse_window(body: JsonObject) -> tuple[str, int]:
    """`completion_window` as it was sent, and in seconds."""
    text = _string(body, "completion_window", 'a duration such as "24h"')
    try:
        seconds = parse_go_duration(text)
    except ValueError:
        seconds = -1.0
    if not MIN_WINDOW_S <= seconds <= MAX_WINDOW_S:
        raise InvalidRequest(
            f'"completion_window" must be a duration from "1m" to "720h", such as "24h", found {describe(text)}',
            "completion_window",
        )
    return text, int(seconds)


def _parse_metadata(body: JsonObject) -> dict[str, str] | None:
    value = body.get("metadata")
    if value is None:
        return None
    if isinstance(value, dict) and len(value) <= MAX_PAIRS:
        texts = {key: text for key, text in value.items() if isinstance(text, str) and len(text) <= MAX_VALUE}
        if len(texts) == len(value) and all(len(key) <= MAX_KEY for key in texts):
            return texts
    raise InvalidRequest(
        f'"metadata" must be an object of at most {MAX_PAIRS} strings of {MAX_VALUE} characters, whose keys have at '
        f"most {MAX_KEY}",
        "metadata",
    )


async def list_batches(context: ServerContext, request: web.Request) -> web.Response:
    """`GET /v1/batches`."""
    owner = await owner_of(context, request)
    listed = [format_batch(batch) for batch in await batches_of(context).batches(owner)]
    return json_response(orjson.dumps(page(listed, request.query, DEFAULT_LISTED, MAX_LISTED)))


async def show(context: ServerContext, request: web.Request) -> web.Response:
    """`GET /v1/batches/{batch_id}`."""
    owner = await owner_of(context, request)
    return _reply(await batches_of(context).batch(owner, request.match_info["batch_id"]))


async def cancel(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /v1/batches/{batch_id}/cancel`. A body is ignored."""
    owner = await owner_of(context, request)
    return _reply(await batches_of(context).cancel(owner, request.match_info["batch_id"]))


def _reply(batch: Batch) -> web.Response:
    return json_response(orjson.dumps(format_batch(batch)))


def format_batch(batch: Batch) -> dict[str, object]:
    """OpenAI's batch object. Its files are named when they are there."""
    errors = [
        {"code": error.code, "line": error.line, "message": error.message, "param": error.param}
        for error in batch.errors
    ]
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status.value,
        "output_file_id": batch.output_file_id if batch.is_over else None,
        "error_file_id": batch.error_file_id if batch.is_over else None,
        "created_at": batch.created_at,
        "in_progress_at": batch.in_progress_at,
        "expires_at": batch.expires_at,
        "finalizing_at": batch.finalizing_at,
        "completed_at": batch.completed_at,
        "failed_at": batch.failed_at,
        "expired_at": batch.expired_at,
        "cancelling_at": batch.cancelling_at,
        "cancelled_at": batch.cancelled_at,
        "request_counts": {
            "total": batch.n_requests,
            "completed": batch.n_completed,
            "failed": batch.n_failed,
        },
        "usage": {
            "input_tokens": batch.n_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": batch.n_tokens,
        },
        "metadata": batch.metadata,
    }
