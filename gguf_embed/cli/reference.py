"""docs/cli.md, made from the commands themselves: `python -m gguf_embed.cli.reference` prints it."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click

from gguf_embed.cli.main import cli

HEAD = """\
# Command line

*Made by `make docs` from the flags themselves; a test keeps it equal to them. Do not edit it.*

A flag beats its environment name. A switch's environment name takes `1`, `true`, `yes`, `on` or the opposite. Exit
codes: 0 after SIGTERM or Ctrl-C, when everything accepted was answered; 1 when starting fails, with one line that says
why; 2 for a wrong flag; 130 for Ctrl-C before it listens, and for a second one, which does not wait (143 for SIGTERM).
"""

TAIL = """\
## Environment without a flag

| Name | Meaning |
|---|---|
| `GGUF_EMBED_CACHE` | Folder for models that are converted or re-typed here. Default: `$XDG_CACHE_HOME/gguf-embed`, \
else `~/.cache/gguf-embed`. |
| `HF_TOKEN` | For gated and private repositories of `-hf`. |
| `HF_ENDPOINT` | Another hub than `https://huggingface.co`. |
| `HF_HUB_CACHE` | Where downloads are kept. Default: `~/.cache/huggingface/hub`. |
| `HF_HUB_OFFLINE` | The same as `--offline`. |
| `TIKTOKEN_CACHE_DIR` | Where the files for `--openai-token-ids` are. Default: \
`data-gym-cache` in the folder for temporary files, as for tiktoken. |
"""

_DEFAULT_IN_HELP = re.compile(r"\s*\[default: ([^]]*)\]$")


def render() -> str:
    """The whole page."""
    commands = [describe_command(command, f"gguf-embed {name}") for name, command in sorted(cli.commands.items())]
    return "\n".join([HEAD, *commands, TAIL])


def describe_command(command: click.Command, name: str) -> str:
    """Its first words, and one table row per flag."""
    options = [param for param in command.params if isinstance(param, click.Option)]
    return "\n".join(
        [
            f"## `{name}`",
            "",
            " ".join((command.help or "").split()),
            "",
            "| Flag | Environment | Default | Meaning |",
            "|---|---|---|---|",
            *map(describe_option, options),
            "",
        ]
    )


def describe_option(option: click.Option) -> str:
    """One table row."""
    meaning = option.help or ""
    if found := _DEFAULT_IN_HELP.search(meaning):
        meaning, default = meaning[: found.start()], found[1]
    else:
        default = _default(option)
    cells = (_flags(option), ", ".join(_code(names_of(option.envvar))), default, meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _flags(option: click.Option) -> str:
    names = [f"{name} {_value(option)}".rstrip() if name == option.opts[-1] else name for name in option.opts]
    return ", ".join(_code([*names, *option.secondary_opts]))


def _value(option: click.Option) -> str:
    """What follows the flag, as a person would write it."""
    if option.is_flag or option.count:
        return ""
    if option.metavar:
        return option.metavar
    match option.type:
        case click.Choice(choices=choices):
            return "{" + ",".join(map(str, choices)) + "}"
        case click.Path():
            return "FILE"
        case kind if isinstance(kind, click.types.IntParamType):
            return "N"
        case kind:
            return kind.name.upper() if kind.name.islower() else kind.name


def _default(option: click.Option) -> str:
    """The default in words; empty where there is none. Click marks "none given" by None or a sentinel of its own."""
    if option.is_flag:
        return "on" if option.default is True else "off"
    match option.default:
        case int(value) if not option.count:
            return f"`{value}`"
        case str(value):
            return f"`{value}`"
        case _:
            return ""


def names_of(envvar: str | Iterable[str] | None) -> list[str]:
    """The environment names of one flag."""
    return [envvar] if isinstance(envvar, str) else list(envvar or ())


def _code(names: Iterable[str]) -> list[str]:
    return [f"`{name}`" for name in names]


if __name__ == "__main__":
    click.echo(render(), nl=False)
