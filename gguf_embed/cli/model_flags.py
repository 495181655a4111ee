"""The flags that say where the model of `embed`, `rerank`, `search` and `ingest` is: in this process or on a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import click
from click.core import ParameterSource

from gguf_embed.cli.flag_types import NotEmpty
from gguf_embed.errors import ConfigError

_F = TypeVar("_F", bound=Callable[..., Any])

MODEL = "MODEL"
"""What help calls a model, however it is named."""

MODEL_HELP = "A GGUF file, a name from `list` or `list --catalog`, or ORG/REPO[:QUANT] on the hub"
MODEL_NAME = NotEmpty("a GGUF file or the name of a model")
API_KEY = click.option(
    "--api-key", envvar="GGUF_EMBED_API_KEY", show_envvar=True, metavar="KEY", help="Key for the endpoint."
)


class PlaceFlags(Protocol):
    """What all of these commands have."""

    @property
    def endpoint(self) -> str | Sequence[str] | None: ...
    @property
    def api_key(self) -> str | None: ...


def model_option(more: str = "") -> Callable[[_F], _F]:
    """-m. `more`: the rest of its help."""
    return click.option("-m", "--model", type=MODEL_NAME, metavar=MODEL, help=f"{MODEL_HELP}{more}")


def with_options(command: _F, options: Sequence[Callable[[Any], Any]]) -> _F:
    """The command with these options, in this order in its help."""
    for option in reversed(options):
        command = option(command)
    return command


def check_place(flags: PlaceFlags, pooling: str | None = None) -> None:
    """Refuse flags that the model's place would ignore: `pooling` on a server, a typed key in this process.

    A key in the environment is for whichever command needs it. Raises `ConfigError`.
    """
    if flags.endpoint and pooling:
        raise ConfigError(
            f"--pooling {pooling} is for a model in this process, an --endpoint has its own: leave it out, or start "
            f"that server with --pooling {pooling}"
        )
    if flags.api_key and not flags.endpoint and _is_typed("api_key"):
        raise ConfigError("--api-key is for an --endpoint: name one, or leave the key out")


def _is_typed(name: str) -> bool:
    context = click.get_current_context(silent=True)
    return context is None or context.get_parameter_source(name) is ParameterSource.COMMANDLINE
