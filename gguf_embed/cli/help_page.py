"""Lays out help with rich-click. Imported only to print it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from rich.table import Table
from rich.text import Text
from rich_click import RichCommand, RichContext, RichGroup, RichHelpConfiguration, RichHelpFormatter
from rich_click.rich_panel import RichCommandPanel, RichOptionPanel, RichPanel

from gguf_embed.cli.command import OTHER_FLAGS, example_lines, groups_of
from gguf_embed.cli.flag_text import FlagText, flag_text
from gguf_embed.cli.terminal import has_color

MAX_COLUMNS = 120
_FLAG_COLUMNS = 32


class _Flags(RichOptionPanel):
    """A group of flags. Long flags are wrapped instead of pushing all meanings to the right."""

    def get_table(self, command: Any, ctx: Any, formatter: Any) -> Table:
        options = [option for option in self.get_objects(command, ctx) if isinstance(option, click.Option)]
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(max_width=_FLAG_COLUMNS, overflow="fold", style=formatter.config.style_option)
        table.add_column(overflow="fold")
        for option in options:
            text = flag_text(option)
            table.add_row(Text(text.usage), Text.assemble(*_meaning(text, has_effect=option.expose_value)))
        return table


def _meaning(text: FlagText, *, has_effect: bool) -> Iterator[str | tuple[str, str]]:
    yield text.meaning
    if text.default:
        yield (f" [default: {text.default}]", "dim")
    if text.variables and has_effect:
        yield (f" [{', '.join(f'${name}' for name in text.variables)}]", "dim")


class _Page(RichCommand):
    """A command as rich-click shows it, with examples at the end."""

    def format_epilog(self, ctx: RichContext, formatter: RichHelpFormatter) -> None:  # type: ignore[override]
        lines = example_lines(self)
        if lines:
            formatter.write(Text("Examples:", style=formatter.config.style_options_panel_title_style))
            formatter.write(Text("\n".join(f"  {line}" for line in lines)), soft_wrap=True)


class _GroupPage(_Page, RichGroup):  # type: ignore[misc]
    """The same with commands under titles."""


def help_of(command: click.Command, ctx: click.Context) -> str:
    """The help of a command with its flags in groups."""
    groups = groups_of(command)
    groups.setdefault(OTHER_FLAGS, []).extend(_own_options(command, ctx))
    if len(groups) == 1:
        groups = {"Options": groups[OTHER_FLAGS]}
    panels: list[RichPanel[Any, Any]] = [_Flags(title, options=_names(options)) for title, options in groups.items()]
    page = _Page(
        name=command.name, params=command.get_params(ctx), help=command.help, epilog=command.epilog, panels=panels,
        callback=command.callback, add_help_option=False,
    )  # fmt: skip
    return _printed(page, ctx)


def _own_options(command: click.Command, ctx: click.Context) -> list[click.Option]:
    """click's own: --help, --version."""
    own = (param for param in command.get_params(ctx) if param not in command.params)
    return [param for param in own if isinstance(param, click.Option)]


def help_of_group(
    group: click.Group, ctx: click.Context, summaries: Mapping[str, str], titles: Mapping[str, Sequence[str]]
) -> str:
    """The help of a group whose commands stand under titles, each with its summary."""
    panels: list[Any] = [RichCommandPanel(title, commands=list(names)) for title, names in titles.items()]
    panels.append(
        _Flags(OTHER_FLAGS, options=_names([*groups_of(group).get(OTHER_FLAGS, []), *_own_options(group, ctx)]))
    )
    page = _GroupPage(
        name=group.name, params=group.get_params(ctx), help=group.help, epilog=group.epilog, panels=panels,
        commands={name: click.Command(name, help=summary) for name, summary in summaries.items()},
        add_help_option=False,
    )  # fmt: skip
    return _printed(page, ctx)


def _printed(page: RichCommand, ctx: click.Context) -> str:
    config = RichHelpConfiguration(
        theme="default-slim",
        enable_theme_env_var=False,
        text_markup=None,
        style_options_panel_title_style="not dim bold",
        style_commands_panel_title_style="not dim bold",
        style_helptext="",
        color_system="auto" if has_color(sys.stdout) else None,
    )
    name = ctx.command_path if ctx.parent is None else f"{ctx.parent.command_path} {ctx.info_name}"
    own = RichContext(page, info_name=name, max_content_width=MAX_COLUMNS, rich_help_config=config)
    return "\n".join(line.rstrip() for line in page.get_help(own).splitlines())


def _names(options: Sequence[click.Option]) -> list[str]:
    return [option.opts[-1] for option in options]
