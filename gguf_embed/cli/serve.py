"""`gguf-embed serve`: load one model, listen, answer, drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from typing import TYPE_CHECKING, Any

import click

from gguf_embed import __version__
from gguf_embed.cli.configure import api_keys, model_config, model_source
from gguf_embed.cli.options import ServeFlags, serve_options

if TYPE_CHECKING:
    from gguf_embed.registry.loading import LoadedModel

CURL = """curl {url}/v1/embeddings -H 'Content-Type: application/json'{key} -d '{{"input": "hello"}}'"""


@click.command(context_settings={"auto_envvar_prefix": None})
@serve_options
def serve(**typed: Any) -> None:
    """Serve one model's vectors over OpenAI's /v1/embeddings and llama.cpp's /embedding.

    Without flags: all-MiniLM-L6-v2 on http://127.0.0.1:8080.
    """
    run(ServeFlags(**typed))


def run(flags: ServeFlags) -> None:
    """Returns after SIGTERM or Ctrl-C, when all accepted requests are answered. Raises `EmbedError`s."""
    _log_to_stderr(flags.verbose)
    keys = api_keys(flags.api_key, flags.api_key_file)
    # imported here: aiohttp and llama.cpp take half a second that `--help` and wrong flags need not wait for
    from gguf_embed.server.run import ListenAddress, check_address

    address = ListenAddress(flags.host, flags.port)
    check_address(address)
    _run_loop(_serve(flags, address, keys))


def _run_loop(main: Any) -> None:
    try:
        import uvloop
    except ImportError:  # not on Windows
        asyncio.run(main)
    else:
        uvloop.run(main)


async def _serve(flags: ServeFlags, address: Any, keys: tuple[str, ...]) -> None:
    from gguf_embed.engines import llama
    from gguf_embed.metrics import Metrics
    from gguf_embed.model_files.default_model import cache_dir
    from gguf_embed.model_files.locate import locate_model
    from gguf_embed.registry.loading import load_model
    from gguf_embed.server.app import build_app
    from gguf_embed.server.door import ServerOptions
    from gguf_embed.server.run import handle_signals
    from gguf_embed.server.run import serve as serve_app
    from gguf_embed.service import EmbedService

    metrics, cache = Metrics(), cache_dir(os.environ)
    config = model_config(flags, llama.supports_gpu(), say)
    loaded = load_model(locate_model(model_source(flags), cache, say), config, cache, metrics, say)
    service = EmbedService(loaded, metrics)
    options = ServerOptions(
        __version__,
        api_keys=keys,
        max_body_bytes=flags.max_body_size * 2**20,
        max_inputs=flags.max_inputs,
        metrics_enabled=flags.metrics,
    )
    stop = asyncio.Event()
    handle_signals(stop)
    gc.freeze()  # what is loaded now stays: the collector need not walk it again
    try:
        n_unanswered = await serve_app(
            build_app(service, options, metrics), address, stop, lambda url: _ready(loaded, url, bool(keys))
        )
    finally:
        await asyncio.to_thread(service.close)
    say(farewell(n_unanswered))


def say(line: str) -> None:
    """One line for the person at the terminal."""
    click.echo(line)


def _ready(loaded: LoadedModel, url: str, needs_key: bool) -> None:
    for line in banner(loaded, url, needs_key):
        say(line)


def banner(loaded: LoadedModel, url: str, needs_key: bool) -> list[str]:
    """What is served and how, and one line to copy."""
    info, chosen = loaded.info, loaded.choices
    weights = info.file_type if info.weights_type == info.file_type else f"{info.file_type} run as {info.weights_type}"
    how = "measured at warm-up" if chosen.measured else "not measured"
    return [
        f"model    {info.name}: {info.n_embd} dimensions, pooling {info.pooling}, "
        f"context {info.n_ctx}, up to {info.max_input_tokens} tokens per text",
        f"weights  {weights}, {chosen.kernels} kernels, tokenizer {info.tokenizer}",
        f"compute  {counted(chosen.n_workers, 'context')} on {counted(chosen.n_threads, 'thread')}, "
        f"{counted(chosen.alone_threads, 'thread')} for a batch alone",
        f"batches  {chosen.batch_tokens} tokens, flash attention {chosen.flash} ({how})",
        f"serving  {url}",
        CURL.format(url=url, key=" -H 'Authorization: Bearer YOUR_KEY'" if needs_key else ""),
    ]


def farewell(n_unanswered: int) -> str:
    if n_unanswered == 0:
        return "stopped: everything accepted was answered"
    return f"stopped: {counted(n_unanswered, 'request')} took too long and got no answer"


def counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _log_to_stderr(verbose: int) -> None:
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if not verbose:  # it logs a traceback for every malformed request line, so anyone could fill the log
        logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
