"""llama-server flags that have no effect here. They are accepted with a notice so existing command lines keep working.

Only flags that do not change the answers are accepted. The others are refused, and the error names an alternative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from gguf_embed.cli.flag_types import Command, Number, option
from gguf_embed.cli.log import console

_SET_BY_USER = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT)


def _not_needed(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """A flag for something that is always done here, or that does not apply to embeddings."""
    return _accepted("not needed here", *names, **settings)


def _no_effect(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """A flag for something that is not done here."""
    return _accepted("has no effect here", *names, **settings)


def _accepted(why: str, *names: str, **settings: Any) -> Callable[[Command], Command]:
    def notify(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if ctx.get_parameter_source(param.name or "") in _SET_BY_USER:
            console.say(f"{param.opts[-1]}: accepted, but {why}")

    text = f"Accepted; {why}."
    return option(*names, expose_value=False, callback=notify, help=text, show_default=False, **settings)


def _refused(*names: str, instead: str, **settings: Any) -> Callable[[Command], Command]:
    def refuse(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if ctx.get_parameter_source(param.name or "") in _SET_BY_USER:
            raise click.UsageError(f"{param.opts[-1]} is not supported: {instead}", ctx)

    text = f"Not supported: {instead}."
    return option(*names, expose_value=False, callback=refuse, help=text, show_default=False, **settings)


# Names and environment variables are from llama.cpp's common/arg.cpp. --mmap and --mlock date from before --load-mode.
LLAMA_SERVER_FLAGS = (
    _not_needed("-b", "--batch-size", type=Number(), envvar="LLAMA_ARG_BATCH"),
    _not_needed("-np", "--parallel", type=Number(), envvar="LLAMA_ARG_N_PARALLEL"),
    _not_needed("--embedding", "--embeddings", is_flag=True, envvar="LLAMA_ARG_EMBEDDINGS"),
    _not_needed("--rerank", "--reranking", is_flag=True, envvar="LLAMA_ARG_RERANKING"),
    _not_needed("-cb", "--cont-batching", is_flag=True, envvar="LLAMA_ARG_CONT_BATCHING"),
    _not_needed("-kvu", "--kv-unified", is_flag=True, envvar="LLAMA_ARG_KV_UNIFIED"),
    _not_needed("--cache-ram", type=Number(), envvar="LLAMA_ARG_CACHE_RAM"),
    _not_needed("--slots/--no-slots", default=None, envvar="LLAMA_ARG_ENDPOINT_SLOTS"),
    _not_needed("--props", is_flag=True, envvar="LLAMA_ARG_ENDPOINT_PROPS"),
    _not_needed("--jinja/--no-jinja", default=None, envvar="LLAMA_ARG_JINJA"),
    _not_needed("--chat-template", metavar="TEMPLATE", envvar="LLAMA_ARG_CHAT_TEMPLATE"),
    _not_needed("--threads-http", type=Number(), envvar="LLAMA_ARG_THREADS_HTTP"),
    _no_effect("-ctk", "--cache-type-k", metavar="TYPE", envvar="LLAMA_ARG_CACHE_TYPE_K"),
    _no_effect("-ctv", "--cache-type-v", metavar="TYPE", envvar="LLAMA_ARG_CACHE_TYPE_V"),
    _no_effect("--mmap/--no-mmap", default=None, envvar="LLAMA_ARG_MMAP"),
    _no_effect("--mlock", is_flag=True, envvar="LLAMA_ARG_MLOCK"),
    _no_effect("-lm", "--load-mode", metavar="MODE", envvar="LLAMA_ARG_LOAD_MODE"),
    _no_effect("--numa", metavar="TYPE", envvar="LLAMA_ARG_NUMA"),
    _no_effect("-to", "--timeout", type=Number(), envvar="LLAMA_ARG_TIMEOUT"),
    _no_effect("--ui/--no-ui", "--webui/--no-webui", default=None, envvar="LLAMA_ARG_UI"),
    _no_effect("--log-disable", is_flag=True),
    _refused("--log-file", metavar="FILE", instead="redirect the output with > FILE 2>&1"),
    _refused(
        "-hft",
        "--hf-token",
        metavar="TOKEN",
        instead="set HF_TOKEN in the environment, because other users can see arguments",
    ),
)
