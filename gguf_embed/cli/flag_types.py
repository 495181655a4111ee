"""Parameter types for flags, and the decorator that adds a flag."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from gguf_embed.durations import keep_alive_seconds, parse_go_duration, parse_seconds

Command = Callable[..., Any]


class Number(click.IntRange):
    """An integer, called "whole number" in error messages, which name the limits in words."""

    name = "whole number"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number", param, ctx)
        if (self.min is not None and number < self.min) or (self.max is not None and number > self.max):
            self.fail(f"{number} is out of range: {self._describe_range()}", param, ctx)
        return number

    def _describe_range(self) -> str:
        """In words, where click writes x>=1."""
        if self.min is None and self.max is None:
            return "any number"
        if self.max is None:
            return f"{self.min} or more"
        return f"{self.max} or less" if self.min is None else f"{self.min} to {self.max}"


class LayerCount(click.ParamType[int | str]):
    """A number of layers, or "auto" or "all" as in llama-server."""

    name = "N|auto|all"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value in ("auto", "all"):
            return str(value)
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of layers, auto or all", param, ctx)


class EngineName(click.ParamType[str]):
    """ "auto", or an engine that is registered when the flag is read."""

    name = "engine"

    @property
    def choices(self) -> tuple[str, ...]:
        from gguf_embed.engines.select import engine_names  # imported here, because other commands have no engines

        return ("auto", *engine_names())

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(self.choices)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return click.Choice(self.choices).convert(value, param, ctx)


class Switch(click.types.BoolParamType):
    """Yes or no, from an environment variable."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        known = self.str_to_bool(value)
        if known is None:
            self.fail(f"{value!r} is neither yes nor no: use true, yes, on or 1, or false, no, off or 0", param, ctx)
        return known


class OnePerVariable(click.ParamType[str]):
    """A string for repeatable flags. Its environment variable holds one value; click would split it at spaces."""

    name = "text"

    def split_envvar_value(self, rv: str) -> list[str]:
        return [rv]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)


class NotEmpty(OnePerVariable):
    """A string that must not be empty. `example`: what to give instead."""

    def __init__(self, example: str) -> None:
        self._example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not str(value).strip():
            self.fail(f"it is empty; give {self._example}", param, ctx)
        return str(value)


class FilePath(click.Path):
    """The path of a file. pathlib would take an empty one for the current folder."""

    def __init__(self, *, exists: bool = False, dir_okay: bool = False, allow_dash: bool = False) -> None:
        super().__init__(exists=exists, dir_okay=dir_okay, allow_dash=allow_dash, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value):
            self.fail("it is empty; give the name of a file", param, ctx)
        if self.exists and not os.path.exists(value) and not (self.allow_dash and str(value) == "-"):
            self.fail(f"there is no file {str(value)!r}; check the path", param, ctx)
        if not self.dir_okay and os.path.isdir(value):
            self.fail(f"{str(value)!r} is a folder; give the name of a file", param, ctx)
        return super().convert(value, param, ctx)


class FolderPath(click.Path):
    """The path of a folder that exists."""

    def __init__(self) -> None:
        super().__init__(exists=True, file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.path.isdir(value):
            problem = "is a file" if os.path.exists(value) else "does not exist"
            self.fail(f"{str(value)!r} {problem}; give the name of a folder that exists", param, ctx)
        return super().convert(value, param, ctx)


class PathPrefix(click.ParamType[str]):
    """The beginning of a URL's path: "/a/b". A missing first slash is added, and a last one is removed."""

    name = "PATH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = str(value).strip("/")
        if path and not re.fullmatch(r"[\w.~-]+(/[\w.~-]+)*", path, re.ASCII):
            self.fail(f"{value!r} is not a path such as /embeddings, of letters, digits and . _ ~ -", param, ctx)
        return f"/{path}" if path else ""


class KeepAlive(click.ParamType[float]):
    """Seconds, from a number or a Go duration; negative is forever."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = _number_or_duration(value)
        if math.isnan(seconds):
            self.fail(
                f"{value!r} is not a number of seconds or a duration such as 5m, 1h30m or -1 (forever)", param, ctx
            )
        return keep_alive_seconds(seconds)


def _number_or_duration(text: str) -> float:
    """Seconds; NaN for what is neither."""
    for read in (float, parse_go_duration):
        with suppress(ValueError):
            return read(text)
    return math.nan


class Seconds(click.ParamType[float]):
    """Seconds, from a number or a Go duration, not negative. With `positive`, not 0 either."""

    name = "DURATION"

    def __init__(self, *, positive: bool = False) -> None:
        self._positive = positive

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = parse_seconds(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if self._positive and not seconds:
            self.fail(f"{value!r} must be more than 0", param, ctx)
        return seconds


class MemorySize(click.ParamType[int]):
    """A number of bytes, optionally with K, M, G or T: powers of 1024 for memory, of 1000 for files."""

    name = "SIZE"

    def __init__(self, base: int = 1024) -> None:
        self._base = base

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(value).strip(), re.IGNORECASE)
        size = float(found[1]) * self._base ** " KMGT".index(found[2].upper() or " ") if found else 0.0
        if not 1 <= size < math.inf:
            self.fail(f"{value!r} is not a size such as 512M or 4G", param, ctx)
        return int(size)


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """Adds a flag. --help shows its default and environment variable."""
    if settings.get("is_flag") or "/" in names[0]:
        settings.setdefault("type", Switch())
    return click.option(*names, show_default=settings.pop("show_default", True), show_envvar=True, **settings)
