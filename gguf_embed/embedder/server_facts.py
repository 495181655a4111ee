"""What a server tells about its model, in the replies of `/v1/models` and of TEI's `/info`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OURS = "gguf-embed"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Facts about a model on a server; the defaults mean that they are not known."""

    name: str = ""
    pooling: str = ""
    max_tokens: int | None = None
    max_batch_texts: int | None = None  # in one request
    prompts: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()  # adapters, each chosen by the prompt of its name
    fingerprint: str = ""


def facts_of(model: str | None, models: Any, info: Any) -> ServerFacts:
    """From the parsed replies, which may be anything; None: the server has no such route."""
    entry = _entry_of(model, models)
    meta, info = _dict(entry.get("meta")), _dict(info)
    is_ours = entry.get("owned_by") == OURS
    revision = info.get("model_sha")
    embedding = _dict(_dict(info.get("model_type")).get("embedding"))
    return ServerFacts(
        name=_str(entry.get("id")) or _str(info.get("model_id")),
        pooling=_str(meta.get("pooling")) or _str(embedding.get("pooling")).removesuffix("_token"),
        max_tokens=_int(meta.get("max_input_tokens")) or _int(info.get("max_input_length")),
        max_batch_texts=_int(info.get("max_client_batch_size")),
        prompts={name: text for name, text in _dict(meta.get("prompts")).items() if isinstance(text, str)},
        tasks=tuple(task for task in _list(meta.get("tasks")) if isinstance(task, str)),
        # ours is a digest of the file's header only, which a fine-tuned model can share
        fingerprint=f"revision:{revision}" if isinstance(revision, str) and revision and not is_ours else "",
    )


def _entry_of(model: str | None, models: Any) -> dict[str, Any]:
    """The entry of the named model, by its id or an alias; of the only or first one if none is named."""
    data = _dict(models).get("data")
    entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    if model is None:
        return entries[0] if entries else {}
    named = [
        entry
        for entry in entries
        if entry.get("id") == model or (isinstance(entry.get("aliases"), list) and model in entry["aliases"])
    ]
    if not named and len(entries) == 1 and entries[0].get("owned_by") == OURS:
        return entries[0]  # a server with one model answers to any name
    return named[0] if named else {}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _str(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
