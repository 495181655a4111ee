"""`gguf-embed pull`: downloads a model by name, so `serve` and the API can find it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from gguf_embed.cli.command import Command
from gguf_embed.cli.model_flags import MODEL_NAME
from gguf_embed.cli.pull_display import PullDisplay
from gguf_embed.cli.standard_output import Use
from gguf_embed.cli.terminal import dim
from gguf_embed.errors import ConfigError
from gguf_embed.model_store.default_model import cache_dir
from gguf_embed.model_store.names import is_quant, parse_model_name
from gguf_embed.model_store.partial_file import human_size
from gguf_embed.model_store.places import expanded

EXAMPLES = """\b
gguf-embed pull nomic-embed-text
gguf-embed pull bge-m3:Q8_0
gguf-embed pull CompendiumLabs/bge-small-en-v1.5-gguf:Q8_0
"""


@click.command(cls=Command, use=Use.REPORT, context_settings={"auto_envvar_prefix": None}, epilog=EXAMPLES)
@click.argument("name", type=MODEL_NAME, metavar="MODEL")
@click.option("--quant", metavar="TYPE", help="Type of the weights, e.g. Q8_0. The same as MODEL:TYPE.")
def pull(name: str, quant: str | None) -> None:
    """Download a model by name.

    MODEL is a name from `list --catalog`, or ORG/REPO[:QUANT] on the Hugging Face hub. The file is stored in the
    hub's own cache and verified. Serving it later needs no network. An interrupted download resumes where it stopped.
    Models without a known GGUF are converted from the original.
    """
    from gguf_embed.model_store.store import ModelStore

    if expanded(Path(name)).is_file():
        raise ConfigError(f"{name} is a file on this machine: serve it with gguf-embed serve -m {name}")
    display = PullDisplay(sys.stderr)
    try:
        entry = ModelStore(cache_dir(os.environ)).pull(with_quant(name, quant), display.show)
    except KeyboardInterrupt:
        display.end()
        click.echo(interrupted(name, display), err=True)
        raise
    finally:
        display.end()
    click.echo(f"pulled {entry.name}: {human_size(entry.size_bytes)}, {entry.path}")
    if sys.stdout.isatty():
        click.echo(dim(f"gguf-embed serve -m {entry.name}", sys.stdout))


def with_quant(name: str, quant: str | None) -> str:
    """NAME:TYPE. Raises `ConfigError` if NAME already has another type, `InvalidRequest` if it is not a valid name."""
    if quant is None:
        return name
    parsed = parse_model_name(name)
    if not is_quant(quant):
        raise ConfigError(f"--quant {quant!r} is not a weight type: use one such as Q8_0, Q4_K_M or F16")
    if parsed.tag is not None and parsed.tag.lower() != quant.lower() and is_quant(parsed.tag):
        raise ConfigError(f"{name} asks for {parsed.tag}, but --quant asks for {quant}: give only one of them")
    return f"{parsed.base}:{quant}"


def interrupted(name: str, display: PullDisplay) -> str:
    """What to print when the download is interrupted."""
    step = display.latest
    if step is None:
        return f"nothing downloaded yet for {name}"
    kept = f"{human_size(step.completed_bytes)} of {human_size(step.total_bytes)}"
    return f"kept {kept}; `gguf-embed pull {name}` resumes from there"
