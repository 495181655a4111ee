"""Entry point of the command line: the command group, and the place where errors become a message and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import cast

import click

from gguf_embed import __version__
from gguf_embed.cli.interrupts import EXIT_CODE, quit_on_interrupt, raise_on_interrupt
from gguf_embed.errors import EmbedError, WayOut, describe

COMMANDS = {
    "serve": "serve",
    "convert": "convert",
    "doctor": "doctor",
    "pull": "pull",
    "list": "list_models",
    "show": "show",
    "rm": "rm",
    "ps": "ps",
    "ingest": "ingest",
    "search": "search",
    "embed": "embed",
    "rerank": "rerank",
    "batch": "batch",
}
"""Name → module and function in `gguf_embed.cli`."""

WORDS: Mapping[WayOut, str] = {
    WayOut.REPAIR_FILE: "run gguf-embed doctor --fix on the file",
    WayOut.LARGER_CONTEXT: "use a larger -c",
    WayOut.MORE_MEMORY: "use a larger --max-memory",
    WayOut.FREE_SPACE: "free some space",
    WayOut.OTHER_FOLDER: "choose a folder that exists and that you can write to",
    WayOut.OTHER_CACHE: "set GGUF_EMBED_CACHE to a folder that you can write to",
    WayOut.KEEP_WEIGHTS: "use --weights file, which needs no copy",
    WayOut.LLAMA_TOKENIZER: "use --tokenizer llama",
    WayOut.OTHER_FILE: "use another GGUF of the model",
    WayOut.EXAMINE_FILE: "run gguf-embed doctor on the file",
    WayOut.SKIP_CHECK: "use --check-files off",
    WayOut.ADD_TOWER: "add --mmproj FILE, the model's vision tower",
    WayOut.ALLOW_HOST: "add --allow-remote-media HOST",
}


class LazyGroup(click.Group):
    """Imports a command's module when the command is used: `serve` starts without those of the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = load_command(cmd_name)
        raise_on_interrupt()
        return command


def load_command(name: str) -> click.Command:
    """One of `COMMANDS`."""
    module = import_module(f"gguf_embed.cli.{COMMANDS[name]}")
    return cast(click.Command, getattr(module, COMMANDS[name]))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="gguf-embed")
def cli() -> None:
    """Serve GGUF embedding models and rerankers. Start with `gguf-embed serve`."""


def main() -> None:
    """Run a command. Prints an `EmbedError` as one line and exits with 1. Wrong flags exit with 2, Ctrl-C with 130."""
    logging.getLogger("gguf_embed").addHandler(logging.NullHandler())  # `serve` sets up its own
    try:
        cli.main(standalone_mode=False)
    except EmbedError as error:
        fail(describe(error, WORDS))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(EXIT_CODE)
    finally:
        quit_on_interrupt()


def fail(message: str) -> None:
    click.echo(f"gguf-embed: {message}", err=True)
    sys.exit(1)
