"""`gguf-embed serve`: loads the first model, listens, and serves all models until it is stopped."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_embed import __version__
from gguf_embed.cli import configure
from gguf_embed.cli.command import Command
from gguf_embed.cli.interrupts import quit_on_interrupt
from gguf_embed.cli.log import console
from gguf_embed.cli.options import EXAMPLES, OLLAMA_PORT, ServeFlags, serve_options
from gguf_embed.cli.standard_output import StandardOutput, Use
from gguf_embed.cli.start_lines import counted, model_lines, place_lines, try_line
from gguf_embed.config import CacheConfig
from gguf_embed.errors import EmbedError
from gguf_embed.errors import describe as describe_error
from gguf_embed.images.url_allowlist import parse_hosts as parse_media_hosts
from gguf_embed.model_store.places import expanded

if TYPE_CHECKING:
    import ssl

    from gguf_embed.batch.batches import Batches
    from gguf_embed.metrics import Metrics
    from gguf_embed.server.listen import ListenAddress
    from gguf_embed.server.run import ShutdownOutcome
    from gguf_embed.server.tracing import Tracing
    from gguf_embed.service.service import EmbedService
    from gguf_embed.types import Priority

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the server can be reached."""

    addresses: tuple[ListenAddress, ...]
    tls: ssl.SSLContext | None
    prefix: str  # of every path


@click.command(cls=Command, use=Use.REPORT, context_settings={"auto_envvar_prefix": None}, epilog=EXAMPLES)
@serve_options
def serve(**typed: Any) -> None:
    """Serve embedding models and rerankers over HTTP.

    The APIs are those of OpenAI, llama.cpp, Ollama, Cohere and TEI, and Jina's rerank. Without flags, it serves
    all-MiniLM-L6-v2 on http://127.0.0.1:8080. The first model given is loaded at the start, other models on first use.
    """
    run(ServeFlags(**typed))


def run(flags: ServeFlags) -> None:
    """Returns after SIGTERM or Ctrl-C, once all in-flight requests have completed. Raises `EmbedError`s."""
    console.start_log(flags.verbose)
    if flags.log_format == "json":
        _warn_in_log()
    try:
        _run(flags)
    except EmbedError as error:
        if flags.log_format == "text":
            raise
        logger.critical(_worded(error))
        sys.exit(1)


def _warn_in_log() -> None:
    """What standard output says about itself becomes a line of the log."""
    context = click.get_current_context(silent=True)
    output = None if context is None else context.find_object(StandardOutput)
    if output is not None:
        output.warn = lambda failure: logger.warning(_worded(failure))


def _worded(error: EmbedError) -> str:
    from gguf_embed.cli.main import WORDS

    return describe_error(error, WORDS)


def _run(flags: ServeFlags) -> None:
    quit_on_interrupt()  # until the server is ready: nothing is lost, and a load cannot be broken off
    keys = configure.api_keys(flags.api_key, flags.api_key_file)
    # imported here: aiohttp and llama.cpp take half a second, which would delay `--help` and flag errors
    from gguf_embed.server.listen import check_addresses, parse_hosts
    from gguf_embed.server.tls import load_tls

    place = Place(
        parse_hosts(flags.host, flags.port, flags.ollama_port),
        load_tls(flags.ssl_cert_file, flags.ssl_key_file),
        flags.api_prefix,
    )
    check_addresses(place.addresses)
    _run_loop(_serve(flags, place, keys))


def _run_loop(main: Any) -> None:
    try:
        import uvloop
    except ImportError:  # not on Windows
        asyncio.run(main)
    else:
        uvloop.run(main)


async def _serve(flags: ServeFlags, place: Place, keys: Mapping[str, Priority | None]) -> None:
    from gguf_embed.engines.memory import available_bytes
    from gguf_embed.metrics import Metrics
    from gguf_embed.server.app import build_app
    from gguf_embed.server.context import SERVER_CONTEXT, ServerOptions
    from gguf_embed.server.run import handle_signals, serve_all

    metrics = Metrics()
    service = await asyncio.to_thread(open_service, flags, metrics)  # so that Ctrl-C is heard meanwhile
    options = ServerOptions(
        __version__,
        api_keys=tuple(keys),
        key_classes={key: priority for key, priority in keys.items() if priority is not None},
        request_timeout_s=flags.request_timeout,
        max_body_bytes=flags.max_body_size * 2**20,
        max_body_memory_bytes=configure.body_memory(flags, available_bytes()),
        token_ids=configure.token_ids(flags, os.environ, say),
        max_inputs=flags.max_inputs,
        metrics_enabled=flags.metrics,
        ollama_port=OLLAMA_PORT if flags.ollama_port is None else flags.ollama_port,
        allowed_origins=configure.origins(flags.allow_origins),
        rerank_scores=configure.rerank_scores(flags.rerank_scores),
        ollama_version=flags.ollama_version,
        remote_hosts=parse_media_hosts(flags.allow_remote_media),
        api_prefix=place.prefix,
    )
    tracing = _open_tracing(os.environ)
    try:
        await service.load_first()
        stop, batches = asyncio.Event(), open_batches(flags, len(keys))
        app = build_app(service, options, metrics, tracing=tracing, batches=batches)
        n_running: list[int] = []  # at each signal

        def on_stop(again: bool) -> None:
            n_running.append(app[SERVER_CONTEXT].in_flight.n_running)
            _report_signal(n_running[-1], again)

        handle_signals(stop, on_stop)
        gc.freeze()  # everything allocated so far is long-lived: the collector can skip it
        outcome = await serve_all(
            app,
            place.addresses,
            stop,
            lambda urls: _ready(service, place, urls, flags, bool(keys)),
            flags.drain_timeout,
            place.tls,
        )
    finally:
        await service.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)
    say(shutdown_summary(outcome, any(n_running)))
    if outcome.n_not_computed:
        sys.exit(1)


def open_batches(flags: ServeFlags, n_keys: int) -> Batches | None:
    """--batch-dir and --batch-max-bytes; None: off. Touches no file."""
    from gguf_embed.batch.batches import Batches
    from gguf_embed.batch.records import BatchLimits
    from gguf_embed.model_store.default_model import cache_dir

    if flags.batch_dir == "off":
        return None
    folder = cache_dir(os.environ) / "batches" if flags.batch_dir is None else expanded(Path(flags.batch_dir))
    limits = BatchLimits(
        max_total_bytes=flags.batch_max_bytes,
        max_line_bytes=flags.max_body_size * 2**20,
        is_shared=n_keys > 1,
    )
    return Batches(folder, limits)


def _open_tracing(environ: Mapping[str, str]) -> Tracing | None:
    """OpenTelemetry, if the environment names a collector. Says so if its packages are missing."""
    if not wants_tracing(environ):
        return None
    try:
        from gguf_embed.server.tracing import open_tracing
    except ImportError:
        say('no traces are sent, because OpenTelemetry is missing: install it with pip install "gguf-embed[otel]"')
        return None
    return open_tracing(environ, __version__)


def wants_tracing(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables name a collector for traces, and none of them switches it off."""
    named = any(environ.get(name) for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    return named and not is_off


def open_service(flags: ServeFlags, metrics: Metrics) -> EmbedService:
    """Locates, downloads or converts the named models, and builds the service for all models. Loads none of them."""
    from gguf_embed.engines.select import supports_gpu
    from gguf_embed.model_store.default_model import cache_dir
    from gguf_embed.service import open as service_open

    base = configure.model_config(flags, supports_gpu(), say)
    options = service_open.ServiceOptions(
        cache_dir(os.environ),
        [
            (source, replace(base, aliases=names, mmproj=flags.mmproj))
            for names, source in configure.named_models(flags)
        ],
        base,
        configure.pool_config(flags),
        configure.prompts(flags),
        flags.models_dir,
        configure.serves_pulled(flags),
        configure.is_alone(flags),
        flags.strict_model,
        flags.offline,
        flags.check_files == "auto",
        check_vocabularies=True,
        cache=CacheConfig(flags.cache_size or 0, flags.cache_disk or 0),
    )
    return service_open.open_service(options, metrics, say)


def say(line: str) -> None:
    """Prints one line."""
    console.say(line)


def _ready(service: EmbedService, place: Place, urls: Sequence[str], flags: ServeFlags, needs_key: bool) -> None:
    from gguf_embed.server.listen import url_to_try

    loaded, served = service.loaded(), service.models()
    for line in (
        *model_lines(loaded, served, facts=flags.verbose > 0),
        *place_lines(place.addresses, urls, place.prefix, needs_key=needs_key),
        try_line(url_to_try(urls[0], place.prefix), loaded, served, flags.models_dir, needs_key=needs_key),
    ):
        say(line)


def _report_signal(n_running: int, again: bool) -> None:
    for line in on_signal(n_running, again):
        say(line)


def on_signal(n_running: int, again: bool) -> list[str]:
    """What to print on a stop signal. Nothing on the first one if no request is running."""
    if again:
        return [f"stopped: {counted(n_running, 'request')} aborted"]
    if n_running == 0:
        return []
    return [f"stopping: waiting for {counted(n_running, 'request')} to complete; press Ctrl-C again to stop now"]


def shutdown_summary(outcome: ShutdownOutcome, had_requests: bool) -> str:
    """`had_requests`: some were in flight when the signal came."""
    problems = []
    if n := outcome.n_not_computed:
        problems.append(f"{counted(n, 'request')} could not be computed in time and got a 503")
    if n := outcome.n_not_read:
        problems.append(f"{counted(n, 'reply', 'replies')} could not be delivered, because nobody reads")
    if not problems and not had_requests:
        return "stopped"
    return f"stopped: {'; '.join(problems) or 'all in-flight requests completed'}"
