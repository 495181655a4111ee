"""llama-server's flags that do nothing here: taken, so that its users' command lines work, and said.

Only flags without which the answers are the same are taken; what would be missed is refused with another way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from gguf_embed.cli.flag_types import Command, Number, option

_GIVEN = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT)


def _not_needed(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """What it asks for is done anyway, or has no meaning for vectors."""
    return _taken("not needed here", *names, **settings)


def _without_effect(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """What it asks for is not done."""
    return _taken("without effect here", *names, **settings)


def _taken(why: str, *names: str, **settings: Any) -> Callable[[Command], Command]:
    def say(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if ctx.get_parameter_source(param.name or "") in _GIVEN:
            click.echo(f"{param.opts[-1]}: accepted, but {why}")

    text = f"Accepted for llama-server's sake; {why}."
    return option(*names, expose_value=False, callback=say, help=text, show_default=False, **settings)


def _refused(*names: str, instead: str, **settings: Any) -> Callable[[Command], Command]:
    def refuse(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if ctx.get_parameter_source(param.name or "") in _GIVEN:
            raise click.UsageError(f"{param.opts[-1]} is not taken here: {instead}", ctx)

    text = f"llama-server's; refused here: {instead}."
    return option(*names, expose_value=False, callback=refuse, help=text, show_default=False, **settings)


# names and environment: llama.cpp, common/arg.cpp; --mmap and --mlock are those before --load-mode
FOREIGN = (
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
    _without_effect("-ctk", "--cache-type-k", metavar="TYPE", envvar="LLAMA_ARG_CACHE_TYPE_K"),
    _without_effect("-ctv", "--cache-type-v", metavar="TYPE", envvar="LLAMA_ARG_CACHE_TYPE_V"),
    _without_effect("--mmap/--no-mmap", default=None, envvar="LLAMA_ARG_MMAP"),
    _without_effect("--mlock", is_flag=True, envvar="LLAMA_ARG_MLOCK"),
    _without_effect("-lm", "--load-mode", metavar="MODE", envvar="LLAMA_ARG_LOAD_MODE"),
    _without_effect("--numa", metavar="TYPE", envvar="LLAMA_ARG_NUMA"),
    _without_effect("-to", "--timeout", type=Number(), envvar="LLAMA_ARG_TIMEOUT"),
    _without_effect("--ui/--no-ui", "--webui/--no-webui", default=None, envvar="LLAMA_ARG_UI"),
    _without_effect("--log-disable", is_flag=True),
    _refused("--log-file", metavar="FILE", instead="send the output there with > FILE 2>&1"),
    _refused(
        "-hft", "--hf-token", metavar="TOKEN", instead="set HF_TOKEN in the environment, arguments are seen by others"
    ),
)
