"""How documents are cut into chunks, and the flag that says it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final, Literal, get_args

from gguf_embed.errors import ConfigError

ChunkBy = Literal["auto", "sentence", "paragraph", "markdown"]
"""Where chunks prefer to end. "auto": at headings of Markdown, and at paragraphs and sentences of any text."""

MIN_SIZE: Final = 8
"""Tokens. Smaller chunks could not hold a character that has several tokens, and mean nothing."""

WHOLE_DOCUMENTS: Final = "{}"

_EXAMPLES: Final = "use a number of tokens such as 256, also with 256,overlap=32,by=markdown, or none"


@dataclass(frozen=True, slots=True)
class ChunkSettings:
    """Sizes in tokens of the model. Raises `ConfigError` for values that contradict each other."""

    size: int  # the longest chunk, without special tokens
    overlap: int = 0  # at most so many tokens of a chunk are repeated in the next one
    by: ChunkBy = "auto"

    def __post_init__(self) -> None:
        if self.size < MIN_SIZE:
            raise ConfigError(f"a chunk size of {self.size} tokens is too small: use at least {MIN_SIZE}")
        if self.overlap < 0 or 2 * self.overlap >= self.size:
            raise ConfigError(
                f"a chunk overlap of {self.overlap} tokens does not fit a size of {self.size}: use 0 to "
                f"{(self.size - 1) // 2}, which is less than half of the size"
            )
        if self.by not in get_args(ChunkBy):
            raise ConfigError(f"chunks cannot be made by {self.by!r}: use {_in_words(get_args(ChunkBy))}")

    def to_json(self) -> str:
        """The same text for the same settings, for manifests."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


def settings_json(settings: ChunkSettings | None) -> str:
    """What a manifest says; "{}" for documents that are stored whole."""
    return WHOLE_DOCUMENTS if settings is None else settings.to_json()


def in_words(chunking: str) -> str:
    """What a manifest says, for people: "256 tokens, overlap 32"."""
    if chunking == WHOLE_DOCUMENTS:
        return "whole documents"
    settings = ChunkSettings(**json.loads(chunking))
    overlap = f", overlap {settings.overlap}" if settings.overlap else ""
    by = "" if settings.by == "auto" else f", by {settings.by}"
    return f"{settings.size} tokens{overlap}{by}"


def flag_of(chunking: str) -> str:
    """The value of `--chunk` for what a manifest says."""
    if chunking == WHOLE_DOCUMENTS:
        return "none"
    settings = ChunkSettings(**json.loads(chunking))
    overlap = f",overlap={settings.overlap}" if settings.overlap else ""
    by = "" if settings.by == "auto" else f",by={settings.by}"
    return f"{settings.size}{overlap}{by}"


def parse_chunk_flag(flag: str) -> ChunkSettings | None:
    """The settings of "256" or "256,overlap=32,by=markdown"; None for "none". Raises `ConfigError`."""
    if flag.strip().lower() == "none":
        return None
    first, *rest = [part.strip() for part in flag.split(",")]
    size = _whole_number(flag, "size", first.removeprefix("size="))
    fields: dict[str, str] = {}
    for part in rest:
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in ("overlap", "by"):
            raise ConfigError(f"--chunk {flag}: {part!r} is neither overlap=TOKENS nor by=KIND: {_EXAMPLES}")
        if name in fields:
            raise ConfigError(f"--chunk {flag} has two values for {name}: leave one out")
        fields[name] = value
    try:
        return _settings(flag, size, fields)
    except ConfigError as error:
        raise ConfigError(f"--chunk {flag}: {error.message}") from None


def _settings(flag: str, size: int, fields: Mapping[str, str]) -> ChunkSettings:
    overlap = _whole_number(flag, "overlap", fields["overlap"]) if "overlap" in fields else 0
    by = fields.get("by", "auto").lower()
    return ChunkSettings(size, overlap, by)  # type: ignore[arg-type] # checked by the class


def _whole_number(flag: str, name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ConfigError(f"--chunk {flag}: the {name} {text!r} is not a number of tokens: {_EXAMPLES}")
    return int(text)


def _in_words(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
