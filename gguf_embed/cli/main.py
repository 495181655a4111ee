"""Entry point of the command line: the command group, and the place where errors become a message and an exit code."""

from __future__ import annotations

import sys

import click

from gguf_embed import __version__
from gguf_embed.cli.convert import convert
from gguf_embed.cli.doctor import doctor
from gguf_embed.cli.list_models import list_models
from gguf_embed.cli.ps import ps
from gguf_embed.cli.pull import pull
from gguf_embed.cli.rm import rm
from gguf_embed.cli.serve import serve
from gguf_embed.cli.show import show
from gguf_embed.errors import EmbedError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="gguf-embed")
def cli() -> None:
    """Serve GGUF embedding models and rerankers. Start with `gguf-embed serve`."""


cli.add_command(serve)
cli.add_command(convert)
cli.add_command(doctor)
cli.add_command(pull)
cli.add_command(list_models)
cli.add_command(show)
cli.add_command(rm)
cli.add_command(ps)


def main() -> None:
    """Run a command. Prints an `EmbedError` as one line and exits with 1. Wrong flags exit with 2, Ctrl-C with 130."""
    try:
        cli.main(standalone_mode=False)
    except EmbedError as error:
        fail(error.message)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)


def fail(message: str) -> None:
    click.echo(f"gguf-embed: {message}", err=True)
    sys.exit(1)
