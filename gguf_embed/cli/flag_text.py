"""A flag in words, for help and for docs/cli.md: its names and value, its meaning, its default, its variables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import click

from gguf_embed.cli.flag_types import EngineName, Number

_DEFAULT_IN_HELP = re.compile(r"\s*\[default: (?P<brackets>[^]]*)\]$|\s+Default: (?P<sentence>((?!\. ).)*?)\.?$")


@dataclass(frozen=True, slots=True)
class FlagText:
    """What is to be said about one flag."""

    names: tuple[str, ...]  # "-m", "--model"
    value: str  # "MODEL"; "" for a switch
    off_names: tuple[str, ...]  # "--no-warmup"
    meaning: str
    default: str  # in words, or a value; "" if there is none, and for a switch that is off
    default_is_value: bool
    variables: tuple[str, ...]

    @property
    def usage(self) -> str:
        """ "-m, --model MODEL", "--warmup/--no-warmup"."""
        switched = "/".join([", ".join(self.names), *self.off_names])
        return f"{switched} {self.value}".rstrip()


def flag_text(option: click.Option) -> FlagText:
    meaning, default, is_value = option.help or "", value_default(option), True
    if found := _DEFAULT_IN_HELP.search(meaning):
        default, is_value = found["brackets"] or found["sentence"], False
        meaning = meaning[: found.start()]
    return FlagText(
        tuple(option.opts), _value(option), tuple(option.secondary_opts), meaning + _limits(option), default, is_value,
        tuple(names_of(option.envvar)),
    )  # fmt: skip


def _limits(option: click.Option) -> str:
    """Both limits of a number, if they are worth a word."""
    kind = option.type
    has_both = isinstance(kind, Number) and kind.min is not None and kind.max is not None
    return f" {kind.min} to {kind.max}." if has_both and isinstance(kind, Number) else ""


def _value(option: click.Option) -> str:
    """The placeholder for the flag's value."""
    if option.is_flag or option.count:
        return ""
    if option.metavar:
        return option.metavar
    match option.type:
        case click.Choice(choices=choices) | EngineName(choices=choices):
            return "{" + ",".join(map(str, choices)) + "}"
        case click.Path():
            return "FILE"
        case kind if isinstance(kind, click.types.IntParamType):
            return "N"
        case kind:
            return kind.name.upper() if kind.name.islower() else kind.name


def value_default(option: click.Option) -> str:
    """The default as it would be typed; empty if there is none. click marks a missing one with None or a sentinel."""
    if option.is_flag:
        return "on" if option.default is True else ""
    match option.default:
        case int(value) | float(value) if not option.count:
            return f"{value:g}" if isinstance(value, float) else str(value)
        case str(value):
            return value
        case [str(value)]:
            return value
        case _:
            return ""


def names_of(envvar: str | Iterable[str] | None) -> list[str]:
    """The environment variables of one flag."""
    return [envvar] if isinstance(envvar, str) else list(envvar or ())
