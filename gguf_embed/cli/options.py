"""The flags of `serve`. Where llama-server has a flag for the same thing, the name is the same.

The same holds for environment variables (LLAMA_ARG_…, LLAMA_API_KEY); our own start with GGUF_EMBED_. Flags take
precedence over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import click

from gguf_embed.cli.command import in_group
from gguf_embed.cli.engine_flags import COMPUTE, GPU
from gguf_embed.cli.flag_types import (
    Command,
    FilePath,
    FolderPath,
    KeepAlive,
    MemorySize,
    NotEmpty,
    Number,
    OnePerVariable,
    PathPrefix,
    Seconds,
    option,
)
from gguf_embed.cli.llama_flags import LLAMA_SERVER_FLAGS
from gguf_embed.cli.log import LogFormat, choose_format
from gguf_embed.cli.model_flags import MODEL_HELP, MODEL_NAME
from gguf_embed.tokenization.openai_encodings import TokenIdMeaning
from gguf_embed.types import Pooling

OLLAMA_VERSION = "0.12.6"
"""The version in Ollama's API: clients refuse old ones (VS Code below 0.6.4, others below 0.10.0)."""

OLLAMA_PORT = 11434
"""The port that Ollama's clients use by default."""


@dataclass(frozen=True, slots=True)
class ServeFlags:
    """The parsed flags, one field each. click has checked only their types and ranges."""

    model: tuple[str, ...]
    hf_repo: tuple[str, ...]
    hf_file: str | None
    offline: bool
    alias: str | None
    models_dir: Path | None
    pulled: bool
    strict_model: bool
    prompt: tuple[str, ...]
    keep_alive: float | None
    models_max: int
    max_memory: int | None
    cache_size: int | None
    cache_disk: int | None
    pooling: str | None
    embd_normalize: int
    ctx_size: int
    truncate: bool
    tokenizer: Literal["auto", "llama"]
    check_files: Literal["auto", "off"]
    isolate: bool
    strict: bool
    mmproj: Path | None
    ubatch_size: int | None
    threads: int | None
    threads_batch: int | None
    threads_alone: int | None
    workers: int | None
    engine: str  # "auto", or a name
    precision: Literal["auto", "f32", "bf16"]
    flash_attn: Literal["on", "off", "auto"]
    weights: Literal["auto", "file", "bf16"]
    amx: bool
    n_gpu_layers: int | Literal["auto", "all"]
    device: str | None
    main_gpu: int
    split_mode: Literal["none", "layer", "row", "tensor"]
    tensor_split: str | None
    warmup: bool
    host: tuple[str, ...]
    port: int
    api_prefix: str
    ssl_key_file: Path | None
    ssl_cert_file: Path | None
    ollama_port: int | None
    api_key: str | None
    api_key_file: Path | None
    metrics: bool
    openai_token_ids: TokenIdMeaning
    allow_origins: str | None
    rerank_scores: tuple[str, ...]
    ollama_version: str
    allow_remote_media: str | None
    max_inputs: int
    max_body_size: int
    max_body_memory: int | None
    drain_timeout: float
    max_queue: float
    max_queue_tokens: int | None
    max_wait: float
    request_timeout: float | None
    batch_dir: str | None
    batch_max_bytes: int
    log_format: LogFormat
    verbose: int


EXAMPLES = """\b
gguf-embed serve
gguf-embed serve -m nomic-embed-text
gguf-embed serve -m small=bge-small-en-v1.5 -m rerank=models/reranker.gguf
gguf-embed serve --models-dir models --keep-alive 10m --max-memory 4G
gguf-embed serve --host 0.0.0.0 --api-key SECRET
"""

POSITIVE = Number(min=1)

MODEL = in_group(
    "Model",
    option("-m", "--model", type=MODEL_NAME, metavar="[NAME=]MODEL", multiple=True, envvar="LLAMA_ARG_MODEL",
            help=f"{MODEL_HELP}; repeat for several models.  [default: all-MiniLM-L6-v2, which is built in]"),
    option("-hf", "-hfr", "--hf-repo", type=NotEmpty("ORG/REPO"), metavar="[NAME=]ORG/REPO[:QUANT]", multiple=True,
            envvar="LLAMA_ARG_HF_REPO",
            help="Repository on the Hugging Face hub; downloaded once. HF_TOKEN and HF_ENDPOINT are honored."),
    option("-hff", "--hf-file", metavar="FILE", envvar="LLAMA_ARG_HF_FILE", help="File in the repository of -hf."),
    option("-mm", "--mmproj", type=FilePath(dir_okay=True), metavar="FILE", envvar="LLAMA_ARG_MMPROJ",
            help="GGUF of the model's vision tower (experimental), or of the image tower in its space: a CLIP's, "
                 "or nomic-embed-vision."),
    option("-a", "--alias", metavar="NAME[,NAME]", envvar="LLAMA_ARG_ALIAS",
            help="Names to serve the model under; replies use the first."),
    option("--offline", is_flag=True, envvar="LLAMA_ARG_OFFLINE", help="Download nothing; use models on this machine."),
    option("--check-files", type=click.Choice(["auto", "off"]), default="auto", envvar="GGUF_EMBED_CHECK_FILES",
            help="auto: a file that has not run on this machine before is first tried in a child process, so that a "
                 "damaged one cannot end the server; off: never."),
    option("--strict", is_flag=True, envvar="GGUF_EMBED_STRICT",
            help="Refuse a file with a problem that gguf-embed doctor calls serious, which is otherwise only said."),
    option("--isolate", is_flag=True, envvar="GGUF_EMBED_ISOLATE",
            help="Run each model's engine in a process of its own, which is restarted if it ends or hangs: requests in "
                 "flight then get a 503 with Retry-After, and the other models go on."),
)  # fmt: skip

MODELS = in_group(
    "Several models",
    option("--models-dir", type=FolderPath(), metavar="DIR",
            envvar="LLAMA_ARG_MODELS_DIR",
            help="Serve every GGUF in this folder by its name. Files can be added and removed while the server runs."),
    option("--pulled", is_flag=True, envvar="GGUF_EMBED_PULLED",
            help="Also serve all pulled models on every route. Without -m, -hf and --models-dir this is the default; "
                 "Ollama's API has them always."),
    option("--keep-alive", type=KeepAlive(), envvar="OLLAMA_KEEP_ALIVE",
            help="How long an idle model stays loaded; negative: forever.  [default: 5m; the only one named stays]"),
    option("--models-max", type=Number(min=0), default=4, envvar="LLAMA_ARG_MODELS_MAX",
            help="Maximum number of loaded models, 0 for no limit; the least recently used idle model is unloaded."),
    option("--max-memory", type=MemorySize(), envvar="GGUF_EMBED_MAX_MEMORY",
            help="Maximum memory of all loaded models, such as 4G; the least recently used idle model is unloaded."),
    option("--strict-model", is_flag=True, envvar="GGUF_EMBED_STRICT_MODEL",
            help="Answer 404 if a request names another model."),
)  # fmt: skip

VECTORS = in_group(
    "Vectors and scores",
    option("--pooling", type=click.Choice([p.value for p in Pooling]), envvar="LLAMA_ARG_POOLING",
            help="How token vectors are combined; none returns one per token.  [default: from the file]"),
    option("--embd-normalize", type=Number(min=-1), default=2, envvar="GGUF_EMBED_EMBD_NORMALIZE",
            help="Normalization for /embedding: -1 none, 0 max absolute int16, 1 taxicab, 2 Euclidean, more: p-norm. "
                 "/v1/embeddings is always Euclidean."),
    option("--rerank-scores", type=OnePerVariable(), metavar="[NAME=]raw|sigmoid", multiple=True,
            envvar="GGUF_EMBED_RERANK_SCORES",
            help="Scale of rerank scores if a request does not say; repeat for several models.  [default: raw; sigmoid "
                 "in TEI's and Cohere's shape]"),
    option("--cache-size", type=MemorySize(), envvar="GGUF_EMBED_CACHE_SIZE",
            help="Memory for vectors and scores that were computed, such as 64M: equal texts are computed once.  "
                 "[default: none]"),
    option("--cache-disk", type=MemorySize(), envvar="GGUF_EMBED_CACHE_DISK",
            help="The same on the disk, in the folder for derived files; kept when the server ends.  [default: none]"),
)  # fmt: skip

TEXTS = in_group(
    "Texts and images",
    option("-c", "--ctx-size", type=Number(min=0), default=0, envvar="LLAMA_ARG_CTX_SIZE",
            help="Maximum text length in tokens; 0: what the model was trained for, which is always the upper limit."),
    option("--truncate", is_flag=True, envvar="GGUF_EMBED_TRUNCATE",
            help="Truncate texts that are too long, and report it in the reply, instead of refusing them."),
    option("--prompt", type=OnePerVariable(), metavar="NAME=TEXT", multiple=True, envvar="GGUF_EMBED_PROMPT",
            help='Prompt (prefix) that requests can select by name, e.g. "query=search_query: "; overrides the '
                 "model's own prompt of that name."),
    option("--tokenizer", type=click.Choice(["auto", "llama"]), default="auto", envvar="GGUF_EMBED_TOKENIZER",
            help="auto: the original model's tokenizer for WordPiece vocabularies; llama: always llama.cpp's."),
    option("--openai-token-ids", type=click.Choice(get_args(TokenIdMeaning)), default="auto",
            envvar="GGUF_EMBED_OPENAI_TOKEN_IDS",
            help="Tokenizer of token ids sent to /v1/embeddings; LangChain sends cl100k_base. auto: that of OpenAI's "
                 "clients is cl100k_base, anyone else's the model's own."),
    option("--allow-remote-media", metavar="HOST[,HOST]", envvar="GGUF_EMBED_ALLOW_REMOTE_MEDIA",
            help="Hosts that image URLs may point to, as HOST or HOST:PORT.  [default: none]"),
)  # fmt: skip

NETWORK = in_group(
    "Network and keys",
    option("--host", type=OnePerVariable(), metavar="ADDRESS[,ADDRESS]", multiple=True, default=("127.0.0.1",),
            envvar="LLAMA_ARG_HOST",
            help="Addresses to listen on; :: alone also takes IPv4. A path that ends in .sock is a Unix socket, for "
                 "its owner and group."),
    option("--port", type=Number(0, 65535), default=8080, envvar="LLAMA_ARG_PORT",
            help="Port to listen on; 0 picks a free one."),
    option("--ollama-port", type=Number(0, 65535), is_flag=False, flag_value=OLLAMA_PORT,
            envvar="GGUF_EMBED_OLLAMA_PORT",
            help=f"Also listen on this port, for Ollama's clients; without a number: {OLLAMA_PORT}, Ollama's port."),
    option("--api-prefix", type=PathPrefix(), default="", envvar="LLAMA_ARG_API_PREFIX",
            help="Path before every route, such as /embeddings, for a proxy that does not strip it."),
    option("--api-key", metavar="KEY[,KEY]", envvar="LLAMA_API_KEY", help="Keys that clients must send."),
    option("--api-key-file", type=FilePath(dir_okay=True), envvar="LLAMA_ARG_API_KEY_FILE",
            help="File with one key per line. After a key may be high, normal, low or batch, the class of its "
                 "requests, which may ask for a lower one only."),
    option("--ssl-key-file", type=FilePath(dir_okay=True), metavar="FILE", envvar="LLAMA_ARG_SSL_KEY_FILE",
            help="Private key in PEM, not encrypted; serves HTTPS together with --ssl-cert-file."),
    option("--ssl-cert-file", type=FilePath(dir_okay=True), metavar="FILE", envvar="LLAMA_ARG_SSL_CERT_FILE",
            help="Certificate in PEM, with those of its issuers after it."),
    option("--allow-origins", metavar="ORIGIN[,ORIGIN]", envvar="OLLAMA_ORIGINS",
            help="Web pages of other hosts that may use a server without keys, as https://chat.example.com; * is any "
                 "text.  [default: pages of this machine]"),
    option("--ollama-version", metavar="VERSION", default=OLLAMA_VERSION, envvar="GGUF_EMBED_OLLAMA_VERSION",
            help="Version of Ollama in /api/version, which some clients check."),
)  # fmt: skip

LIMITS = in_group(
    "Limits and load",
    option("--max-inputs", type=POSITIVE, default=2048, envvar="GGUF_EMBED_MAX_INPUTS",
            help="Maximum number of texts per request."),
    option("--max-body-size", type=POSITIVE, default=64, envvar="GGUF_EMBED_MAX_BODY_SIZE",
            help="Maximum size of a request body in MiB."),
    option("--max-body-memory", type=MemorySize(), envvar="GGUF_EMBED_MAX_BODY_MEMORY",
            help="Memory for the bodies over 256 KiB of all requests together, such as 512M, and an eighth more for "
                 "those over 16 KiB; further ones wait, at most 30 s, and then get a 429.  "
                 "[default: an eighth of what is available, at most 1G]"),
    option("--max-queue", type=Seconds(positive=True), default=60.0, envvar="GGUF_EMBED_MAX_QUEUE",
            help="How much work may wait for a model, in seconds at the speed that was measured; beyond it, requests "
                 "wait up to --max-wait."),
    option("--max-queue-tokens", type=POSITIVE, envvar="GGUF_EMBED_MAX_QUEUE_TOKENS",
            help="The same as a number of tokens; takes precedence over --max-queue.  [default: by --max-queue]"),
    option("--max-wait", type=Seconds(), default=5.0, envvar="GGUF_EMBED_MAX_WAIT",
            help="How long a request waits for room in a full queue before it gets a 429 with Retry-After; 0: not at "
                 "all."),
    option("--request-timeout", type=Seconds(positive=True), envvar="GGUF_EMBED_REQUEST_TIMEOUT",
            help="Limit on the time of a request, which then gets a 504; X-Request-Timeout may set a smaller one.  "
                 "[default: none]"),
    option("--drain-timeout", type=Seconds(), default=60.0,
            envvar="GGUF_EMBED_DRAIN_TIMEOUT",
            help="How long SIGTERM and Ctrl-C wait for the requests in flight. Those that cannot be computed by then "
                 "get a 503 at once."),
    option("--batch-dir", metavar="DIR|off", envvar="GGUF_EMBED_BATCH_DIR",
            help="Folder for the files of OpenAI's Batch API; off: no batches.  [default: batches/ in the cache]"),
    option("--batch-max-bytes", type=MemorySize(), default="10G", envvar="GGUF_EMBED_BATCH_MAX_BYTES",
            help="Maximum size of all files of batches together."),
)  # fmt: skip

LOGGING = in_group(
    "Logging and metrics",
    option("-v", "--verbose", count=True, show_default=False,
            help="Log each request in a line; -vv: also probes, and llama.cpp's own log."),
    option("--log-format", type=click.Choice(get_args(LogFormat)), default="text", envvar="GGUF_EMBED_LOG_FORMAT",
            is_eager=True, callback=choose_format,
            help="json: one object per line with time, level, logger, message and, where there is one, request_id."),
    option("--metrics/--no-metrics", default=True, envvar="LLAMA_ARG_ENDPOINT_METRICS",
            help="Serve /metrics for Prometheus."),
)  # fmt: skip


def serve_options(command: Command) -> Command:
    """Adds all flags to a click command, in this order."""
    groups = (MODEL, MODELS, VECTORS, TEXTS, NETWORK, LIMITS, COMPUTE, GPU, LOGGING)
    for add in reversed((*groups, in_group("Only for llama-server's command lines", *LLAMA_SERVER_FLAGS))):
        command = add(command)
    return command
