"""`gguf-embed rm`: take pulled models away again."""

from __future__ import annotations

import os

import click

from gguf_embed.model_store.default_model import cache_dir
from gguf_embed.model_store.partial_file import human_size


@click.command(context_settings={"auto_envvar_prefix": None})
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def rm(names: tuple[str, ...]) -> None:
    """Remove pulled models, and their files where no other pulled model uses them. Asks nothing."""
    from gguf_embed.model_store.store import ModelStore

    store = ModelStore(cache_dir(os.environ))
    for name in names:
        removed = store.remove(name)
        click.echo(f"removed {name}: {freed_summary(removed.freed_bytes, removed.still_used_by)}")


def freed_summary(freed_bytes: int, users: tuple[str, ...]) -> str:
    if users:
        kept = f"its file stays for {', '.join(users)}"
        return f"{human_size(freed_bytes)} freed, {kept}" if freed_bytes else kept
    return f"{human_size(freed_bytes)} freed" if freed_bytes else "nothing freed, its file is not ours or was gone"
