"""Reads tokenizer.json and the files that belong to it, independent of how they are written into a GGUF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf_embed.convert.source import ModelSourceDirectory, read_json
from gguf_embed.errors import ModelFileError

ROLES = ("bos", "eos", "unk", "sep", "pad", "mask", "cls")

_CONFIG_IDS = ("bos", "eos", "sep", "pad")
"""Roles for which config.json may have an id, such as `bos_token_id`."""


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is looked for in the text before all other steps."""

    id: int
    text: str
    special: bool
    normalized: bool  # looked for in the normalized text instead of the original one


@dataclass(frozen=True, slots=True)
class FastTokenizer:
    """A parsed tokenizer.json. Its parts stay JSON: each kind of vocabulary reads what it needs."""

    path: Path
    model: dict[str, Any]
    normalizer: Any
    pre_tokenizer: Any
    post_processor: Any
    added: tuple[AddedToken, ...]
    roles: dict[str, int]  # role → id, from the tokenizer's own settings, else from config.json

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
    """The steps of a normalizer, pre-tokenizer or post-processor in order; sequences (under `key`) are flattened."""
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
    roles = {role: _role_id(source, role, declared.get(f"{role}_token"), ids) for role in ROLES}
    return {role: token for role, token in roles.items() if token is not None}


def _role_id(source: ModelSourceDirectory, role: str, declared: object, ids: dict[str, int]) -> int | None:
    """The id of a role: of the token that is declared, a string or an object with it, else as config.json has it."""
    text = declared.get("content") if isinstance(declared, dict) else declared
    if isinstance(text, str) and text in ids:
        return ids[text]
    if role not in _CONFIG_IDS:
        return None
    token = source.config.get(f"{role}_token_id")
    return token if isinstance(token, int) and token in ids.values() else None
