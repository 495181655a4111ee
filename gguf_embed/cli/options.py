"""The flags of `serve`, in llama-server's names where it has one, and the configuration they make.

Environment names are llama-server's (LLAMA_ARG_…, LLAMA_API_KEY); ours begin with GGUF_EMBED_. A flag beats them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import click

from gguf_embed.durations import keep_alive_seconds, parse_go_duration
from gguf_embed.openai_tokens import TokenIdMeaning
from gguf_embed.types import Pooling

Command = Callable[..., Any]

OLLAMA_PORT = 11434
"""Where Ollama's clients look."""


@dataclass(frozen=True, slots=True)
class ServeFlags:
    """What was typed, one field per flag, checked by click for type and range only."""

    model: tuple[str, ...]
    hf_repo: tuple[str, ...]
    hf_file: str | None
    offline: bool
    alias: str | None
    models_dir: Path | None
    strict_model: bool
    prompt: tuple[str, ...]
    keep_alive: float | None
    models_max: int
    max_memory: int | None
    pooling: str | None
    embd_normalize: int
    ctx_size: int
    truncate: bool
    tokenizer: Literal["auto", "llama"]
    mmproj: Path | None
    ubatch_size: int | None
    threads: int | None
    threads_batch: int | None
    threads_alone: int | None
    workers: int | None
    flash_attn: Literal["on", "off", "auto"]
    weights: Literal["auto", "file", "bf16"]
    amx: bool
    n_gpu_layers: int | Literal["auto", "all"]
    device: str | None
    main_gpu: int
    split_mode: Literal["none", "layer", "row", "tensor"]
    tensor_split: str | None
    warmup: bool
    host: str
    port: int
    ollama_port: int | None
    api_key: str | None
    api_key_file: Path | None
    metrics: bool
    openai_token_ids: TokenIdMeaning
    allow_remote_media: str | None
    max_inputs: int
    max_body_size: int
    max_queue_tokens: int
    verbose: int


class LayerCount(click.ParamType[int | str]):
    """A number of layers, or llama-server's words auto and all."""

    name = "N|auto|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value in ("auto", "all"):
            return str(value)
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number of layers nor auto or all", param, ctx)


class Whole(click.ParamType[str]):
    """A string that may be given several times; its environment name holds one, spaces and all."""

    name = "text"

    def split_envvar_value(self, rv: str) -> list[str]:
        return [rv]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)


class KeepAlive(click.ParamType[float]):
    """Seconds, from a number or a Go duration; negative is for ever."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return keep_alive_seconds(float(value))
        except ValueError:
            pass
        try:
            return keep_alive_seconds(parse_go_duration(value))
        except ValueError:
            self.fail(f"{value!r} is neither seconds nor a duration such as 5m, 1h30m or -1 (for ever)", param, ctx)


class MemorySize(click.ParamType[int]):
    """Bytes, from a number with K, M, G or T (powers of 1024)."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(value).strip(), re.IGNORECASE)
        size = int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ")) if found else 0
        if size < 1:
            self.fail(f"{value!r} is not a size such as 512M or 4G", param, ctx)
        return size


def _option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    return click.option(*names, show_default=settings.pop("show_default", True), show_envvar=True, **settings)


POSITIVE = click.IntRange(min=1)
THREADS = click.IntRange(1, 512)  # ggml's limit

MODEL = (
    _option("-m", "--model", type=Whole(), metavar="[NAME=]FILE", multiple=True, envvar="LLAMA_ARG_MODEL",
            help="GGUF file to serve, or a name of the catalogue; several times for several models. Without -m, -hf "
                 "and --models-dir: all-MiniLM-L6-v2, which comes with the installation."),
    _option("-hf", "-hfr", "--hf-repo", type=Whole(), metavar="[NAME=]ORG/REPO[:QUANT]", multiple=True,
            envvar="LLAMA_ARG_HF_REPO",
            help="Repository on the Hugging Face hub; downloaded once. HF_TOKEN and HF_ENDPOINT are honoured."),
    _option("-hff", "--hf-file", metavar="FILE", envvar="LLAMA_ARG_HF_FILE", help="File of that repository."),
    _option("--offline", is_flag=True, envvar="LLAMA_ARG_OFFLINE", help="Use only what is on this machine."),
    _option("-a", "--alias", metavar="NAME[,NAME]", envvar="LLAMA_ARG_ALIAS",
            help="Names to serve the model under; the first is the one in replies."),
    _option("--models-dir", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="DIR",
            envvar="LLAMA_ARG_MODELS_DIR",
            help="Serve every GGUF in this folder, by its name; files may come and go while it runs."),
    _option("--keep-alive", type=KeepAlive(), envvar="OLLAMA_KEEP_ALIVE",
            help="How long an idle model stays loaded; negative: for ever.  [default: 5m; a model served alone stays]"),
    _option("--models-max", type=click.IntRange(min=0), default=4, envvar="LLAMA_ARG_MODELS_MAX",
            help="Models loaded at once, 0 for no limit; the least recently used idle one makes room."),
    _option("--max-memory", type=MemorySize(), envvar="GGUF_EMBED_MAX_MEMORY",
            help="Memory of all loaded models together, such as 4G; the least recently used idle one makes room."),
    _option("--prompt", type=Whole(), metavar="NAME=TEXT", multiple=True, envvar="GGUF_EMBED_PROMPT",
            help='Prefix that requests may ask for by its name, e.g. "query=search_query: "; beats the model\'s own.'),
    _option("--strict-model", is_flag=True, envvar="GGUF_EMBED_STRICT_MODEL",
            help="Answer 404 to a request that names another model."),
    _option("--pooling", type=click.Choice([p.value for p in Pooling]), envvar="LLAMA_ARG_POOLING",
            help="How token vectors become one; none gives one per token.  [default: what the file says]"),
    _option("--embd-normalize", type=click.IntRange(min=-1), default=2, envvar="GGUF_EMBED_EMBD_NORMALIZE",
            help="For /embedding: -1 none, 0 max absolute int16, 1 taxicab, 2 Euclidean, more: p-norm. "
                 "/v1/embeddings is always Euclidean."),
    _option("-c", "--ctx-size", type=click.IntRange(min=0), default=0, envvar="LLAMA_ARG_CTX_SIZE",
            help="Longest text in tokens; 0: what the model was trained for, which is also the true limit."),
    _option("--truncate", is_flag=True, envvar="GGUF_EMBED_TRUNCATE",
            help="Cut texts that are too long, and say so in the reply, instead of refusing them."),
    _option("--tokenizer", type=click.Choice(["auto", "llama"]), default="auto", envvar="GGUF_EMBED_TOKENIZER",
            help="auto: the original model's own rules for WordPiece vocabularies; llama: llama.cpp's ids always."),
    _option("-mm", "--mmproj", type=click.Path(path_type=Path), metavar="FILE", envvar="LLAMA_ARG_MMPROJ",
            help="GGUF of the model's vision tower, so that it reads pictures too (experimental)."),
)  # fmt: skip

COMPUTE = (
    _option("-ub", "--ubatch-size", type=click.IntRange(1, 16384), envvar="LLAMA_ARG_UBATCH",
            help="Tokens computed together.  [default: measured at warm-up]"),
    _option("-t", "--threads", type=THREADS, envvar="LLAMA_ARG_THREADS",
            help="Threads in all.  [default: the processors this process may use]"),
    _option("-tb", "--threads-batch", type=THREADS, envvar="GGUF_EMBED_THREADS_BATCH",
            help="The same: embedding is batch work; wins over -t."),
    _option("--threads-alone", type=THREADS, envvar="GGUF_EMBED_THREADS_ALONE",
            help="Threads for a batch that has the machine to itself.  [default: measured at warm-up]"),
    _option("--workers", type=THREADS, envvar="GGUF_EMBED_WORKERS",
            help="Batches computed at once, sharing the threads.  [default: one per thread; 1 on a GPU]"),
    _option("-fa", "--flash-attn", type=click.Choice(["on", "off", "auto"]), is_flag=False, flag_value="on",
            default="auto", envvar="LLAMA_ARG_FLASH_ATTN", help="auto: where it is faster, measured at warm-up."),
    _option("--weights", type=click.Choice(["auto", "file", "bf16"]), default="auto", envvar="GGUF_EMBED_WEIGHTS",
            help="auto: run F32 and F16 weights as BF16 on CPUs with AMX; file: never; bf16: always."),
    _option("--amx/--no-amx", default=True, envvar="GGUF_EMBED_AMX",
            help="Multiply BF16 weights on Intel AMX tiles where there are any."),
    _option("-ngl", "--gpu-layers", "--n-gpu-layers", "n_gpu_layers", type=LayerCount(), default="auto",
            envvar="LLAMA_ARG_N_GPU_LAYERS", help="Layers on the GPU; auto: all, when there is one."),
    _option("-dev", "--device", metavar="NAME[,NAME]", envvar="LLAMA_ARG_DEVICE",
            help="Devices to use, or none; llama.cpp's names."),
    _option("-mg", "--main-gpu", type=click.IntRange(min=0), default=0, envvar="LLAMA_ARG_MAIN_GPU",
            help="The GPU when --split-mode is none."),
    _option("-sm", "--split-mode", type=click.Choice(["none", "layer", "row", "tensor"]), default="layer",
            envvar="LLAMA_ARG_SPLIT_MODE", help="How to spread a model over several GPUs."),
    _option("-ts", "--tensor-split", metavar="N,N,...", envvar="LLAMA_ARG_TENSOR_SPLIT",
            help="Share of each GPU, e.g. 3,1."),
    _option("--warmup/--no-warmup", default=True, envvar="LLAMA_ARG_WARMUP",
            help="Measure at the start how batches run best here (some 0.2 s for a small model)."),
)  # fmt: skip

SERVER = (
    _option("--host", default="127.0.0.1", envvar="LLAMA_ARG_HOST", help="Address to listen on."),
    _option("--port", type=click.IntRange(0, 65535), default=8080, envvar="LLAMA_ARG_PORT",
            help="Port to listen on; 0 takes a free one."),
    _option("--ollama-port", type=click.IntRange(0, 65535), is_flag=False, flag_value=OLLAMA_PORT,
            envvar="GGUF_EMBED_OLLAMA_PORT",
            help=f"Listen on this port as well, where Ollama's clients look; without a number: {OLLAMA_PORT}."),
    _option("--api-key", metavar="KEY[,KEY]", envvar="LLAMA_API_KEY", help="Keys that clients must send."),
    _option("--api-key-file", type=click.Path(path_type=Path), envvar="LLAMA_ARG_API_KEY_FILE",
            help="File with one key per line."),
    _option("--metrics/--no-metrics", default=True, envvar="LLAMA_ARG_ENDPOINT_METRICS",
            help="Serve /metrics for Prometheus."),
    _option("--openai-token-ids", type=click.Choice(get_args(TokenIdMeaning)), default="auto",
            envvar="GGUF_EMBED_OPENAI_TOKEN_IDS",
            help="What token ids on /v1/embeddings are; LangChain sends cl100k_base. auto: the model's own where they "
                 "begin or end as no text of OpenAI's does, else a 400."),
    _option("--allow-remote-media", metavar="HOST[,HOST]", envvar="GGUF_EMBED_ALLOW_REMOTE_MEDIA",
            help="Hosts that pictures named by URL may be fetched from, HOST or HOST:PORT.  [default: none]"),
    _option("--max-inputs", type=POSITIVE, default=2048, envvar="GGUF_EMBED_MAX_INPUTS",
            help="Texts in one request."),
    _option("--max-body-size", type=POSITIVE, default=64, envvar="GGUF_EMBED_MAX_BODY_SIZE",
            help="Size of one request's body in MiB."),
    _option("--max-queue-tokens", type=POSITIVE, default=2_000_000, envvar="GGUF_EMBED_MAX_QUEUE_TOKENS",
            help="Tokens that may wait; beyond, requests get 429 with Retry-After."),
    _option("-v", "--verbose", count=True, show_default=False, help="Say more; twice: llama.cpp's own log too."),
)  # fmt: skip


def _say_not_needed(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    source = ctx.get_parameter_source(param.name or "")
    if source in (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT):
        click.echo(f"{param.opts[-1]}: accepted, but not needed here")


def _not_needed(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """A flag of llama-server's that has no meaning here: taken, so that its users' command lines work, and said."""
    text = "Accepted for llama-server's sake; not needed here."
    return _option(*names, expose_value=False, callback=_say_not_needed, help=text, show_default=False, **settings)


NOT_NEEDED = (
    _not_needed("-b", "--batch-size", type=int, envvar="LLAMA_ARG_BATCH"),
    _not_needed("-np", "--parallel", type=int, envvar="LLAMA_ARG_N_PARALLEL"),
    _not_needed("--embedding", "--embeddings", is_flag=True, envvar="LLAMA_ARG_EMBEDDINGS"),
    _not_needed("-cb", "--cont-batching", is_flag=True, envvar="LLAMA_ARG_CONT_BATCHING"),
    _not_needed("-kvu", "--kv-unified", is_flag=True, envvar="LLAMA_ARG_KV_UNIFIED"),
    _not_needed("--cache-ram", type=int, envvar="LLAMA_ARG_CACHE_RAM"),
    _not_needed("--slots/--no-slots", default=None, envvar="LLAMA_ARG_ENDPOINT_SLOTS"),
    _not_needed("--props", is_flag=True, envvar="LLAMA_ARG_ENDPOINT_PROPS"),
)


def serve_options(command: Command) -> Command:
    """Give a click command all of them, in this order."""
    for option in reversed((*MODEL, *COMPUTE, *SERVER, *NOT_NEEDED)):
        command = option(command)
    return command
