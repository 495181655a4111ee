"""`gguf-embed rm`: removes pulled models."""

from __future__ import annotations

import os

import click

from gguf_embed.cli.command import Command
from gguf_embed.cli.standard_output import Use
from gguf_embed.model_store.default_model import cache_dir
from gguf_embed.model_store.partial_file import human_size

EXAMPLE = """\b
gguf-embed rm nomic-embed-text
"""


@click.command(cls=Command, use=Use.REPORT, context_settings={"auto_envvar_prefix": None}, epilog=EXAMPLE)
@click.argument("names", metavar="MODEL...", nargs=-1, required=True)
def rm(names: tuple[str, ...]) -> None:
    """Remove pulled models.

    MODEL is a name from `list`. Deletes their files, unless another pulled model uses them. Does not ask for
    confirmation.
    """
    from gguf_embed.model_store.store import ModelStore

    store = ModelStore(cache_dir(os.environ))
    for name in names:
        removed = store.remove(name)
        click.echo(f"removed {name}: {freed_summary(removed.freed_bytes, removed.still_used_by)}")


def freed_summary(freed_bytes: int, users: tuple[str, ...]) -> str:
    """The disk space freed, and why not all of it was."""
    if users:
        kept = f"file kept, still used by {', '.join(users)}"
        return f"{human_size(freed_bytes)} freed, {kept}" if freed_bytes else kept
    return (
        f"{human_size(freed_bytes)} freed" if freed_bytes else "nothing freed: file outside the caches or already gone"
    )
