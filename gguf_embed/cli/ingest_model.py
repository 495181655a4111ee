"""The flags that name the model of `ingest` and `search`, and what they open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from gguf_embed.cli.flag_types import Number
from gguf_embed.cli.model_flags import API_KEY, check_place, model_option, with_options
from gguf_embed.errors import ConfigError

if TYPE_CHECKING:
    from gguf_embed.ingest.pool.base import EmbedPool, ModelFacts
    from gguf_embed.types import Muvera

KINDS = ("dense", "sparse", "multivector", "muvera")

_F = TypeVar("_F", bound=Callable[..., Any])


_OPTIONS = (
    click.option(
        "--endpoint",
        multiple=True,
        metavar="URL",
        help="Embed on this server instead of in this process; several share the work.",
    ),
    API_KEY,
    click.option(
        "--pooling",
        type=click.Choice(["mean", "cls", "last"]),
        help="How a text's token vectors become one. Default: the model's own.",
    ),
    click.option("--dimensions", type=Number(min=1), metavar="N", help="Keep the first N dimensions."),
    click.option("--truncate", is_flag=True, help="Cut texts over the model's limit instead of rejecting them."),
)


_RUNNER_OPTIONS = (
    click.option(
        "--runner",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Where the model runs: in this process, or in actors on the machines of a Ray cluster.",
    ),
    click.option(
        "--ray-address",
        metavar="ADDRESS",
        help="The Ray cluster: HOST:PORT, or auto for the one that this machine is in. Default: RAY_ADDRESS, else a "
        "cluster of this machine alone, which ends with the job.",
    ),
)


class ModelFlags(Protocol):
    """The flags that `model_options` adds."""

    @property
    def model(self) -> str | None: ...
    @property
    def endpoint(self) -> Sequence[str]: ...
    @property
    def api_key(self) -> str | None: ...
    @property
    def input_type(self) -> str | None: ...
    @property
    def pooling(self) -> str | None: ...
    @property
    def dimensions(self) -> int | None: ...
    @property
    def truncate(self) -> bool: ...


class JobFlags(ModelFlags, Protocol):
    """With those of `ingest` alone."""

    @property
    def vectors(self) -> str: ...
    @property
    def muvera(self) -> str | None: ...
    @property
    def runner(self) -> str: ...
    @property
    def ray_address(self) -> str | None: ...


def model_options(default: str, input_type: str) -> Callable[[_F], _F]:
    """-m, --endpoint, --api-key, --input-type, --pooling, --dimensions and --truncate.

    `default`: of -m, in words. `input_type`: the default of --input-type.
    """
    model = model_option(f"; with --endpoint, the name that the server knows.  [default: {default}]")
    prompt = click.option(
        "--input-type",
        metavar="NAME",
        help=f"Prompt before each text, e.g. document or query. Default: {input_type}, if the model has one.",
    )
    return lambda command: with_options(command, (model, *_OPTIONS[:2], prompt, *_OPTIONS[2:]))


def runner_options(command: _F) -> _F:
    """--runner and --ray-address."""
    return with_options(command, _RUNNER_OPTIONS)


def kinds_of_vectors(flags: JobFlags) -> tuple[str, ...]:
    """Of --vectors, each once, in a fixed order; MUVERA vectors are dense. Raises `ConfigError`."""
    words = _words(flags)
    unknown = next((word for word in words if word not in KINDS), None)
    if unknown is not None:
        raise ConfigError(f"--vectors {flags.vectors}: {unknown!r} is not one of {', '.join(KINDS)}")
    if set(words) != {"dense"} and (flags.endpoint or flags.runner == "ray"):
        raise ConfigError(
            "sparse vectors, multi-vectors and MUVERA are computed by a model in this process: leave out --endpoint "
            "and --runner, or --vectors"
        )
    if "muvera" in words and {"dense", "multivector"} & set(words):
        raise ConfigError(
            f"--vectors {flags.vectors}: muvera stands in the place of dense, and is made of multivector: leave it or "
            "both of them out"
        )
    if flags.muvera and "muvera" not in words:
        raise ConfigError("--muvera needs --vectors muvera")
    stored = {"dense" if word == "muvera" else word for word in words}
    return tuple(kind for kind in KINDS if kind in stored)


def _words(flags: JobFlags) -> list[str]:
    return [word.strip().lower() for word in flags.vectors.split(",")]


def muvera_settings(flags: JobFlags) -> Muvera | None:
    """None for a job without MUVERA vectors. Raises `ConfigError`."""
    from gguf_embed.ingest.pool.muvera_words import parse_muvera_flag
    from gguf_embed.types import Muvera

    if "muvera" not in _words(flags):
        return None
    return parse_muvera_flag(flags.muvera) if flags.muvera else Muvera()


def open_job_pool(flags: JobFlags) -> EmbedPool:
    """`open_pool`, or the actors of a Ray cluster."""
    if flags.runner != "ray":
        if flags.ray_address:
            raise ConfigError("--ray-address needs --runner ray")
        pool = open_pool(flags, kinds_of_vectors(flags), muvera_settings(flags))
        check_dense(pool.facts)
        return pool
    check_place(flags)
    if flags.endpoint:
        raise ConfigError("--runner ray loads the model itself, an --endpoint has it: give only one of them")
    if flags.pooling:
        raise ConfigError("--runner ray uses the pooling of the model's file: leave --pooling out")
    from gguf_embed.ingest.pool.ray_actors import RayPool

    return RayPool(
        flags.model,
        address=flags.ray_address,
        prompt=flags.input_type or "document",
        dimensions=flags.dimensions,
        truncate=flags.truncate,
    )


def check_dense(facts: ModelFacts) -> None:
    """Raises `ConfigError` if dense vectors are to be stored of a model that gives only others."""
    if facts.vectors == KINDS[:1] and not facts.dimensions:
        raise ConfigError(f"{facts.name} gives sparse vectors and no others: add --vectors sparse")


def open_pool(flags: ModelFlags, vectors: tuple[str, ...] = KINDS[:1], muvera: Muvera | None = None) -> EmbedPool:
    """Loads the model, or asks the endpoints for theirs. Raises `EmbedError`s."""
    check_place(flags, flags.pooling)
    if flags.endpoint:
        from gguf_embed.ingest.pool.endpoints import EndpointOptions, EndpointPool

        options = EndpointOptions(
            model=flags.model,
            api_key=flags.api_key,
            prompt=flags.input_type or "document",
            dimensions=flags.dimensions,
            truncate=flags.truncate,
        )
        return EndpointPool(flags.endpoint, options)
    from gguf_embed.embedder.embedder import Embedder
    from gguf_embed.ingest.pool.local import LocalPool

    return LocalPool(
        Embedder(flags.model, pooling=flags.pooling),
        prompt=flags.input_type or "document",
        dimensions=flags.dimensions,
        truncate=flags.truncate,
        vectors=vectors,
        muvera=muvera,
    )
