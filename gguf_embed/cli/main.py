"""Entry point of the command line: the command group, and the place where errors become a message and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import cast

import click
from click.core import ParameterSource

from gguf_embed import __version__
from gguf_embed.cli.interrupts import EXIT_CODE, quit_on_interrupt, raise_on_interrupt
from gguf_embed.cli.standard_output import READER_GONE_CODE, ReaderGone, keep_standard_descriptors, standard_output
from gguf_embed.cli.terminal import red
from gguf_embed.errors import EmbedError, WayOut, cannot_be_written, describe, refuses_writing

NAME = "gguf-embed"

COMMANDS = {
    "serve": "serve",
    "list": "list_models",
    "pull": "pull",
    "show": "show",
    "rm": "rm",
    "ps": "ps",
    "embed": "embed",
    "rerank": "rerank",
    "search": "search",
    "ingest": "ingest",
    "batch": "batch",
    "convert": "convert",
    "doctor": "doctor",
}
"""Name → module and function in `gguf_embed.cli`."""

SUMMARIES = {
    "serve": "Serve embedding models and rerankers over HTTP",
    "list": "List the models on this machine, or those that can be pulled",
    "pull": "Download a model by name",
    "show": "Describe a model: its file, prompts and limits",
    "rm": "Remove pulled models",
    "ps": "List the models loaded by a running server",
    "embed": "Print the vectors of texts",
    "rerank": "Print documents by relevance to a query, best first",
    "search": "Print the rows nearest to a query",
    "ingest": "Embed documents, and store them in a vector database",
    "batch": "Compute the requests of a file in the format of OpenAI's Batch API",
    "convert": "Convert an original model to GGUF",
    "doctor": "Check a model's file for problems, and suggest fixes",
}
"""The first sentence of each command's help, so that the list of commands imports none of them."""

TITLES = {
    "Server": ("serve", "ps"),
    "Models": ("list", "pull", "show", "rm", "convert", "doctor"),
    "Without a server": ("embed", "rerank", "batch"),
    "Vector databases": ("ingest", "search"),
}
"""The groups in which help shows the commands."""

WORDS: Mapping[WayOut, str] = {
    WayOut.REPAIR_FILE: "run gguf-embed doctor --fix on the file",
    WayOut.LARGER_CONTEXT: "use a larger -c",
    WayOut.MORE_MEMORY: "use a larger --max-memory",
    WayOut.FREE_SPACE: "free some space",
    WayOut.OTHER_FOLDER: "choose a folder that exists and that you can write to",
    WayOut.OTHER_OUTPUT: "name another file with -o",
    WayOut.REDIRECT: "send it elsewhere",
    WayOut.OTHER_TEMPORARY: "set TMPDIR to a folder that you can write to",
    WayOut.LARGER_FILES: "raise the limit on the size of a file (ulimit -f)",
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0] if args else ""
        if word and not word.startswith("-") and word not in COMMANDS:
            raise click.UsageError(unknown_command(word), ctx)
        return super().resolve_command(ctx, args)

    def get_help(self, ctx: click.Context) -> str:
        from gguf_embed.cli.help_page import help_of_group

        return help_of_group(self, ctx, SUMMARIES, TITLES)


def unknown_command(word: str) -> str:
    """What is wrong with the first argument, and the way out: a command that is spelled almost like it."""
    from difflib import get_close_matches

    found = get_close_matches(word.lower(), COMMANDS, 1)
    if found:
        return f"there is no command {word!r}; did you mean {found[0]}?"
    if word.lower().endswith(".gguf"):
        return f"there is no command {word!r}; to serve a model: gguf-embed serve -m {word}"
    return f"there is no command {word!r}; the commands are {', '.join(COMMANDS)}"


def load_command(name: str) -> click.Command:
    """One of `COMMANDS`."""
    module = import_module(f"gguf_embed.cli.{COMMANDS[name]}")
    return cast(click.Command, getattr(module, COMMANDS[name]))


EXAMPLES = """\b
gguf-embed serve                      serve the built-in model
gguf-embed list --catalog             see which models there are
gguf-embed serve -m nomic-embed-text  download a model and serve it
gguf-embed embed "a cat on a mat"     compute a vector without a server
gguf-embed COMMAND --help             read all about one command
"""


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXAMPLES)
@click.version_option(__version__, prog_name=NAME)
def cli() -> None:
    """Serve GGUF embedding models and rerankers. Start here: gguf-embed serve."""


def main() -> None:
    """Run a command. Prints an `EmbedError` as one line and exits with 1. Wrong flags exit with 2, Ctrl-C with 130."""
    logging.getLogger("gguf_embed").addHandler(logging.NullHandler())  # `serve` sets up its own
    keep_standard_descriptors()
    try:
        _run()
    except ReaderGone:
        sys.exit(READER_GONE_CODE)
    except EmbedError as error:
        fail(describe(error, WORDS))
    except click.UsageError as error:
        refuse(error)
    except click.ClickException as error:
        fail(error.format_message(), error.exit_code)
    except OSError as error:
        if not refuses_writing(error):
            raise
        fail(describe(cannot_be_written(error.filename or "a file", error, [WayOut.OTHER_FOLDER]), WORDS))
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(EXIT_CODE)
    finally:
        quit_on_interrupt()


def _run() -> None:
    """Without arguments, prints help."""
    with standard_output(lambda failure: say_error(describe(failure, WORDS))) as output:
        try:
            cli.main(standalone_mode=False, prog_name=NAME, obj=output)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())


def fail(message: str, code: int = 1) -> None:
    say_error(message)
    sys.exit(code)


def say_error(message: str) -> None:
    click.echo(f"{red(NAME, sys.stderr)}: {message}", err=True)


def typed_flag(error: click.BadParameter) -> str | None:
    """The flag without its environment variable if the wrong value was typed; None if it was not."""
    if error.ctx is None or not isinstance(error.param, click.Option) or error.param.name is None:
        return None
    if error.ctx.get_parameter_source(error.param.name) is not ParameterSource.COMMANDLINE:
        return None
    return click.Parameter.get_error_hint(error.param, error.ctx)


def refuse(error: click.UsageError) -> None:
    """Wrong flags or arguments: the reason, and where the right ones are described."""
    command = error.ctx.command_path if error.ctx is not None else NAME
    if isinstance(error, click.BadParameter) and error.param_hint is None:
        error.param_hint = typed_flag(error)
    say_error(error.format_message())
    click.echo(f"`{command} --help` describes all flags", err=True)
    sys.exit(error.exit_code)
