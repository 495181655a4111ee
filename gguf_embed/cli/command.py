"""The commands' own class: groups of flags, examples, and errors that name the way out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from gguf_embed.cli.standard_output import StandardOutput, Use
from gguf_embed.errors import EngineFailure

_F = TypeVar("_F", bound=Callable[..., Any])
_Decorator = Callable[[Any], Any]

_PLACES = ("endpoint", "to", "url")

OTHER_FLAGS = "Other"
"""The group of flags that are in no other."""


class Command(click.Command):
    """A command whose help has groups of flags. rich-click, which lays it out, is imported when help is printed."""

    def __init__(self, *arguments: Any, use: Use = Use.RESULT, **settings: Any) -> None:
        """`use`: what its standard output is for."""
        super().__init__(*arguments, **settings)
        self.use = use

    def invoke(self, ctx: click.Context) -> Any:
        output = ctx.find_object(StandardOutput)
        if output is not None:
            output.check(has_file=ctx.params.get("output") is not None)
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, ConnectionResetError) as error:  # not standard output's, and click would say nothing
            raise EngineFailure(_closed_by_other(error, self._places(ctx))) from error

    def _places(self, ctx: click.Context) -> list[str]:
        """The flags and arguments that were given and name a server or a database."""
        return [
            param.opts[0] if isinstance(param, click.Option) else param.human_readable_name
            for param in self.params
            if param.name in _PLACES and ctx.params.get(param.name)
        ]

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        return ["-h", "--help"]

    def get_help(self, ctx: click.Context) -> str:
        from gguf_embed.cli.help_page import help_of

        _announce(ctx, Use.RESULT)
        return help_of(self, ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True
        _announce(ctx, self.use)
        rest = super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            raise click.UsageError(self._too_many(ctx, rest[0]), ctx)
        return rest

    def _too_many(self, ctx: click.Context, word: str) -> str:
        takes_model = any("--model" in param.opts for param in self.params)
        if takes_model and not any(isinstance(param, click.Argument) for param in self.params):
            return f"a model is named with -m: {ctx.command_path} -m {word}"
        return f"{word!r} is one argument too many"


def _closed_by_other(error: OSError, places: Sequence[str]) -> str:
    runs = f"see whether it still runs ({', '.join(places)}), and " if places else ""
    return f"a connection was closed by the other side ({error.strerror or error}): {runs}try again"


def _announce(ctx: click.Context, use: Use) -> None:
    output = ctx.find_object(StandardOutput)
    if output is not None:
        output.use = use


def in_group(title: str, *options: _Decorator) -> Callable[[_F], _F]:
    """Adds flags to a command, in this order, under a title in its help."""

    def add(command: _F) -> _F:
        known: list[click.Parameter] = getattr(command, "__click_params__", [])
        n_before = len(known)
        for option in reversed(options):
            command = option(command)
        for param in getattr(command, "__click_params__", [])[n_before:]:
            param.group = title
        return command

    return add


def groups_of(command: click.Command) -> dict[str, list[click.Option]]:
    """The flags that help shows, by the title of their group, in the order of the first flag of each."""
    groups: dict[str, list[click.Option]] = {}
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden:
            groups.setdefault(getattr(param, "group", OTHER_FLAGS), []).append(param)
    return groups


def example_lines(command: click.Command) -> Sequence[str]:
    """The lines of a command's epilog, each of which is a command to type."""
    return [line for line in (command.epilog or "").replace("\b", "").splitlines() if line.strip()]
