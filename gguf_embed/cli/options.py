"""The flags of `serve`, in llama-server's names where it has one, and the configuration they make.

Environment names are llama-server's (LLAMA_ARG_…, LLAMA_API_KEY); ours begin with GGUF_EMBED_. A flag beats them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import click

from gguf_embed.cli.flag_types import Command, KeepAlive, LayerCount, MemorySize, Number, Whole, option
from gguf_embed.cli.llama_flags import FOREIGN
from gguf_embed.tokenization.openai_encodings import TokenIdMeaning
from gguf_embed.types import Pooling

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


POSITIVE = Number(min=1)
THREADS = Number(1, 512)  # ggml's limit

MODEL = (
    option("-m", "--model", type=Whole(), metavar="[NAME=]FILE", multiple=True, envvar="LLAMA_ARG_MODEL",
            help="GGUF file to serve, or a name of the catalog; several times for several models. Without -m, -hf "
                 "and --models-dir: all-MiniLM-L6-v2, which comes with the installation."),
    option("-hf", "-hfr", "--hf-repo", type=Whole(), metavar="[NAME=]ORG/REPO[:QUANT]", multiple=True,
            envvar="LLAMA_ARG_HF_REPO",
            help="Repository on the Hugging Face hub; downloaded once. HF_TOKEN and HF_ENDPOINT are honored."),
    option("-hff", "--hf-file", metavar="FILE", envvar="LLAMA_ARG_HF_FILE", help="File of that repository."),
    option("--offline", is_flag=True, envvar="LLAMA_ARG_OFFLINE", help="Use only what is on this machine."),
    option("-a", "--alias", metavar="NAME[,NAME]", envvar="LLAMA_ARG_ALIAS",
            help="Names to serve the model under; the first is the one in replies."),
    option("--models-dir", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="DIR",
            envvar="LLAMA_ARG_MODELS_DIR",
            help="Serve every GGUF in this folder, by its name; files may come and go while it runs."),
    option("--keep-alive", type=KeepAlive(), envvar="OLLAMA_KEEP_ALIVE",
            help="How long an idle model stays loaded; negative: forever.  [default: 5m; a model served alone stays]"),
    option("--models-max", type=Number(min=0), default=4, envvar="LLAMA_ARG_MODELS_MAX",
            help="Models loaded at once, 0 for no limit; the least recently used idle one makes room."),
    option("--max-memory", type=MemorySize(), envvar="GGUF_EMBED_MAX_MEMORY",
            help="Memory of all loaded models together, such as 4G; the least recently used idle one makes room."),
    option("--prompt", type=Whole(), metavar="NAME=TEXT", multiple=True, envvar="GGUF_EMBED_PROMPT",
            help='Prefix that requests may ask for by its name, e.g. "query=search_query: "; beats the model\'s own.'),
    option("--strict-model", is_flag=True, envvar="GGUF_EMBED_STRICT_MODEL",
            help="Answer 404 to a request that names another model."),
    option("--pooling", type=click.Choice([p.value for p in Pooling]), envvar="LLAMA_ARG_POOLING",
            help="How token vectors become one; none gives one per token.  [default: what the file says]"),
    option("--embd-normalize", type=Number(min=-1), default=2, envvar="GGUF_EMBED_EMBD_NORMALIZE",
            help="For /embedding: -1 none, 0 max absolute int16, 1 taxicab, 2 Euclidean, more: p-norm. "
                 "/v1/embeddings is always Euclidean."),
    option("-c", "--ctx-size", type=Number(min=0), default=0, envvar="LLAMA_ARG_CTX_SIZE",
            help="Longest text in tokens; 0: what the model was trained for, which is also the true limit."),
    option("--truncate", is_flag=True, envvar="GGUF_EMBED_TRUNCATE",
            help="Cut texts that are too long, and say so in the reply, instead of refusing them."),
    option("--tokenizer", type=click.Choice(["auto", "llama"]), default="auto", envvar="GGUF_EMBED_TOKENIZER",
            help="auto: the original model's own rules for WordPiece vocabularies; llama: llama.cpp's ids always."),
    option("-mm", "--mmproj", type=click.Path(path_type=Path), metavar="FILE", envvar="LLAMA_ARG_MMPROJ",
            help="GGUF of the model's vision tower, so that it reads images too (experimental)."),
)  # fmt: skip

COMPUTE = (
    option("-ub", "--ubatch-size", type=Number(1, 16384), envvar="LLAMA_ARG_UBATCH",
            help="Tokens computed together.  [default: measured at warm-up]"),
    option("-t", "--threads", type=THREADS, envvar="LLAMA_ARG_THREADS",
            help="Threads in all.  [default: the processors this process may use]"),
    option("-tb", "--threads-batch", type=THREADS, envvar="GGUF_EMBED_THREADS_BATCH",
            help="The same: embedding is batch work; wins over -t."),
    option("--threads-alone", type=THREADS, envvar="GGUF_EMBED_THREADS_ALONE",
            help="Threads for a batch that has the machine to itself.  [default: measured at warm-up]"),
    option("--workers", type=THREADS, envvar="GGUF_EMBED_WORKERS",
            help="Batches computed at once, sharing the threads.  [default: one per thread; 1 on a GPU]"),
    option("-fa", "--flash-attn", type=click.Choice(["on", "off", "auto"]), is_flag=False, flag_value="on",
            default="auto", envvar="LLAMA_ARG_FLASH_ATTN", help="auto: where it is faster, measured at warm-up."),
    option("--weights", type=click.Choice(["auto", "file", "bf16"]), default="auto", envvar="GGUF_EMBED_WEIGHTS",
            help="auto: run F32 and F16 weights as BF16 on CPUs with AMX; file: never; bf16: always."),
    option("--amx/--no-amx", default=True, envvar="GGUF_EMBED_AMX",
            help="Multiply BF16 weights on Intel AMX tiles where there are any."),
    option("-ngl", "--gpu-layers", "--n-gpu-layers", "n_gpu_layers", type=LayerCount(), default="auto",
            envvar="LLAMA_ARG_N_GPU_LAYERS", help="Layers on the GPU; auto: all, when there is one."),
    option("-dev", "--device", metavar="NAME[,NAME]", envvar="LLAMA_ARG_DEVICE",
            help="Devices to use, or none; llama.cpp's names."),
    option("-mg", "--main-gpu", type=Number(min=0), default=0, envvar="LLAMA_ARG_MAIN_GPU",
            help="The GPU when --split-mode is none."),
    option("-sm", "--split-mode", type=click.Choice(["none", "layer", "row", "tensor"]), default="layer",
            envvar="LLAMA_ARG_SPLIT_MODE", help="How to spread a model over several GPUs."),
    option("-ts", "--tensor-split", metavar="N,N,...", envvar="LLAMA_ARG_TENSOR_SPLIT",
            help="Share of each GPU, e.g. 3,1."),
    option("--warmup/--no-warmup", default=True, envvar="LLAMA_ARG_WARMUP",
            help="Measure at the start how batches run best here (some 0.2 s for a small model)."),
)  # fmt: skip

SERVER = (
    option("--host", default="127.0.0.1", envvar="LLAMA_ARG_HOST", help="Address to listen on."),
    option("--port", type=Number(0, 65535), default=8080, envvar="LLAMA_ARG_PORT",
            help="Port to listen on; 0 takes a free one."),
    option("--ollama-port", type=Number(0, 65535), is_flag=False, flag_value=OLLAMA_PORT,
            envvar="GGUF_EMBED_OLLAMA_PORT",
            help=f"Listen on this port as well, where Ollama's clients look; without a number: {OLLAMA_PORT}."),
    option("--api-key", metavar="KEY[,KEY]", envvar="LLAMA_API_KEY", help="Keys that clients must send."),
    option("--api-key-file", type=click.Path(path_type=Path), envvar="LLAMA_ARG_API_KEY_FILE",
            help="File with one key per line."),
    option("--metrics/--no-metrics", default=True, envvar="LLAMA_ARG_ENDPOINT_METRICS",
            help="Serve /metrics for Prometheus."),
    option("--openai-token-ids", type=click.Choice(get_args(TokenIdMeaning)), default="auto",
            envvar="GGUF_EMBED_OPENAI_TOKEN_IDS",
            help="What token ids on /v1/embeddings are; LangChain sends cl100k_base. auto: the model's own where they "
                 "stand between its special tokens and these tell, else a 400."),
    option("--allow-remote-media", metavar="HOST[,HOST]", envvar="GGUF_EMBED_ALLOW_REMOTE_MEDIA",
            help="Hosts that images named by URL may be fetched from, HOST or HOST:PORT.  [default: none]"),
    option("--max-inputs", type=POSITIVE, default=2048, envvar="GGUF_EMBED_MAX_INPUTS",
            help="Texts in one request."),
    option("--max-body-size", type=POSITIVE, default=64, envvar="GGUF_EMBED_MAX_BODY_SIZE",
            help="Size of one request's body in MiB."),
    option("--max-queue-tokens", type=POSITIVE, default=2_000_000, envvar="GGUF_EMBED_MAX_QUEUE_TOKENS",
            help="Tokens that may wait; beyond, requests get 429 with Retry-After."),
    option("-v", "--verbose", count=True, show_default=False, help="Say more; twice: llama.cpp's own log too."),
)  # fmt: skip


def serve_options(command: Command) -> Command:
    """Give a click command all of them, in this order."""
    for add in reversed((*MODEL, *COMPUTE, *SERVER, *FOREIGN)):
        command = add(command)
    return command
