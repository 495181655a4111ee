"""What a tokenizer.json and its companions say, before anyone decides how to write it into a GGUF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf_embed.convert.source import ModelSourceDirectory, read_json
from gguf_embed.errors import ModelFileError

ROLES = ("bos", "eos", "unk", "sep", "pad", "mask", "cls")

_CONFIG_IDS = ("bos", "eos", "sep", "pad")
"""Roles that config.json may name by id, as `bos_token_id`."""


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is found in the text before anything else is done to it."""

    id: int
    text: str
    special: bool
    normalized: bool  # looked for in the normalized text instead of the text as it came


@dataclass(frozen=True, slots=True)
class FastTokenizer:
    """A parsed tokenizer.json. Its parts stay JSON: each kind of vocabulary reads its own."""

    path: Path
    model: dict[str, Any]
    normalizer: Any
    pre_tokenizer: Any
    post_processor: Any
    added: tuple[AddedToken, ...]
    roles: dict[str, int]  # id by role: what the tokenizer's own settings declare, else config.json

    def refuse(self, what: str, way_out: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {what} cannot be converted ({way_out})")


def read_fast_tokenizer(source: ModelSourceDirectory) -> FastTokenizer:
    """Read `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`. May raise KeyError or TypeError."""
    path = source.path / "tokenizer.json"
    fast = read_json(path)
    added = tuple(_added_token(entry) for entry in fast.get("added_tokens") or [])
    model = fast["model"]
    vocab = model["vocab"]
    ids = dict(vocab) if isinstance(vocab, dict) else {entry[0]: index for index, entry in enumerate(vocab)}
    ids |= {token.text: token.id for token in added}
    return FastTokenizer(
        path=path,
        model=model,
        normalizer=fast.get("normalizer"),
        pre_tokenizer=fast.get("pre_tokenizer"),
        post_processor=fast.get("post_processor"),
        added=added,
        roles=_read_roles(source, ids),
    )


def steps(part: Any, key: str) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or post-processor in order, sequences of them opened (under `key`)."""
    if part is None:
        return
    if part["type"] == "Sequence":
        for inner in part[key]:
            yield from steps(inner, key)
        return
    yield part


def _added_token(entry: dict[str, Any]) -> AddedToken:
    return AddedToken(
        id=int(entry["id"]),
        text=str(entry["content"]),
        special=bool(entry.get("special")),
        normalized=bool(entry.get("normalized")),
    )


def _read_roles(source: ModelSourceDirectory, ids: dict[str, int]) -> dict[str, int]:
    declared: dict[str, object] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = source.path / name
        declared |= {key: value for key, value in (read_json(path) if path.is_file() else {}).items() if value}
    roles: dict[str, int] = {}
    for role in ROLES:
        value = declared.get(f"{role}_token")
        text = value.get("content") if isinstance(value, dict) else value
        named = source.config.get(f"{role}_token_id") if role in _CONFIG_IDS else None
        if isinstance(text, str) and text in ids:
            roles[role] = ids[text]
        elif isinstance(named, int) and named in ids.values():
            roles[role] = named
    return roles
