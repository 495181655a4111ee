"""Turns flags into configuration. Pure functions; contradictions raise `ConfigError`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from gguf_embed.cli.options import ServeFlags
from gguf_embed.config import ComputeConfig, ModelConfig, OffloadConfig, PoolConfig, PoolLimits, QueueConfig
from gguf_embed.engines.select import may_use_gpu
from gguf_embed.errors import ConfigError
from gguf_embed.model_store.locate import ModelSource, source_named
from gguf_embed.model_store.places import expanded, temporary_folder
from gguf_embed.preprocessing.prompt_prefixes import parse_flag
from gguf_embed.tokenization.openai_encodings import TokenIdRule, cache_folders, how_to_fetch, token_id_rule
from gguf_embed.types import Pooling, Priority

Report = Callable[[str], None]
NamedSource = tuple[tuple[str, ...], ModelSource]
"""The names to serve a model under, and where it comes from."""

MAX_BODY_MEMORY = 2**30
BODY_COPIES = 2
"""How often a body is in memory: as it was sent, and as texts."""

KEEP_ALIVE_S = 300.0
"""Ollama's default."""


def named_models(flags: ServeFlags) -> tuple[NamedSource, ...]:
    """The models named with -m, then those named with -hf.

    Without either, it is the default model, or none if --models-dir is given. Raises `ConfigError` for contradictions.
    """
    aliases = _split(flags.alias, "--alias")
    _check_model_flags(flags, aliases)
    if not flags.model and not flags.hf_repo:
        return () if flags.models_dir is not None else ((aliases, ModelSource(offline=flags.offline)),)
    return (
        *(_source_of_path(text, aliases, flags.offline) for text in flags.model),
        *(_source_of_repo(text, aliases, flags) for text in flags.hf_repo),
    )


def _check_model_flags(flags: ServeFlags, aliases: tuple[str, ...]) -> None:
    """Raises `ConfigError` if a flag for a single model is combined with several models."""
    n_named = len(flags.model) + len(flags.hf_repo)
    if n_named > 1 and aliases:
        raise ConfigError(
            f"--alias applies to a single model, but {n_named} are given: use -m NAME=FILE or -hf NAME=ORG/REPO"
        )
    if flags.hf_file is not None and (len(flags.hf_repo) != 1 or flags.model):
        raise ConfigError("-hff names a file in one repository: give exactly that repository with -hf, and no -m")
    if flags.mmproj is not None and n_named != 1:
        raise ConfigError(f"--mmproj applies to a single model, but {n_named} are given: give one with -m or -hf")


def _source_of_path(text: str, aliases: tuple[str, ...], offline: bool) -> NamedSource:
    """One -m value. An existing file is taken literally, even if there is a "=" in its name."""
    name, file = ("", text) if expanded(Path(text)).exists() else _split_name(text)
    return (name,) if name else aliases, source_named(file, offline=offline)


def _source_of_repo(text: str, aliases: tuple[str, ...], flags: ServeFlags) -> NamedSource:
    """One -hf value."""
    name, repo = _split_name(text)
    source = ModelSource(hf_repo=repo, hf_file=flags.hf_file, offline=flags.offline)
    return (name,) if name else aliases, source


def _split_name(text: str) -> tuple[str, str]:
    """ "NAME=REST" → ("NAME", "REST"); ("", text) without a name."""
    name, equals, rest = text.partition("=")
    return (name.strip(), rest) if equals and name.strip() and rest else ("", text)


def serves_pulled(flags: ServeFlags) -> bool:
    """Whether pulled models are served on every route: with --pulled, or if no models are named."""
    return flags.pulled or not (flags.model or flags.hf_repo or flags.models_dir)


def is_alone(flags: ServeFlags) -> bool:
    """Whether the flags name one model and no others, not even --pulled ones. Without any, it is the default model."""
    return len(flags.model) + len(flags.hf_repo) <= 1 and flags.models_dir is None and not flags.pulled


def pool_config(flags: ServeFlags) -> PoolConfig:
    """--keep-alive and the limits. By default models stay loaded for five minutes, and the only one that is named
    stays."""
    limits = PoolLimits(flags.models_max, flags.max_memory)
    if flags.keep_alive is not None:
        return PoolConfig(limits, flags.keep_alive)
    return PoolConfig(limits, KEEP_ALIVE_S, math.inf if is_alone(flags) else None)


def prompts(flags: ServeFlags) -> dict[str, str]:
    """--prompt NAME=TEXT. Raises `ConfigError`."""
    return dict(parse_flag(text) for text in flags.prompt)


def model_config(flags: ServeFlags, has_gpu: bool, report: Report) -> ModelConfig:
    """How to load any model. Raises `ConfigError` for values that the flag types cannot check."""
    return ModelConfig(
        pooling=Pooling(flags.pooling) if flags.pooling else None,
        n_ctx=flags.ctx_size,
        embd_normalize=flags.embd_normalize,
        tokenizer=flags.tokenizer,
        truncate=flags.truncate,
        strict_name=flags.strict_model,
        strict_file=flags.strict,
        warmup=flags.warmup,
        isolate=flags.isolate,
        queue=QueueConfig(flags.max_queue_tokens, flags.max_queue, flags.max_wait),
        compute=ComputeConfig(
            n_threads=flags.threads_batch or flags.threads,
            alone_threads=flags.threads_alone,
            n_workers=flags.workers,
            batch_tokens=flags.ubatch_size,
            engine=flags.engine,
            precision=flags.precision,
            flash_attention=flags.flash_attn,
            weights=flags.weights,
            amx=flags.amx,
            offload=OffloadConfig(
                n_gpu_layers=gpu_layers(flags.n_gpu_layers, _may_use_gpu(flags, has_gpu), report),
                main_gpu=flags.main_gpu,
                split_mode=flags.split_mode,
                tensor_split=_shares(flags.tensor_split),
                devices=_split(flags.device, "--device"),
            ),
        ),
    )


def _may_use_gpu(flags: ServeFlags, has_gpu: bool) -> bool:
    """Whether -ngl auto means the GPU: not if the devices or the engine that are named exclude it."""
    wants_other_engine = not may_use_gpu(flags.engine) and flags.n_gpu_layers == "auto"
    return has_gpu and flags.device != "none" and not wants_other_engine


def gpu_layers(requested: int | Literal["auto", "all"], has_gpu: bool, report: Report) -> int:
    """llama.cpp's number of layers; -1 means all. Without a GPU it is 0, with a notice if more were requested."""
    if has_gpu:
        return -1 if isinstance(requested, str) else requested
    if requested != "auto" and requested != 0:
        report(
            f"-ngl {requested}: no GPU to use with this build of llama-cpp-python; everything runs on the CPU. "
            f'For CUDA, run: CMAKE_ARGS="-DGGML_CUDA=on" {sys.executable} -m pip install --no-deps --force-reinstall '
            f"--no-cache-dir llama-cpp-python=={version('llama-cpp-python')}"
        )
    return 0


def token_ids(flags: ServeFlags, environment: Mapping[str, str], report: Report) -> TokenIdRule:
    """--openai-token-ids, with its encoding loaded. Reports it if the encoding's file is missing."""
    folders = cache_folders(environment, temporary_folder())
    rule = token_id_rule(flags.openai_token_ids, folders)
    if rule.problem:
        report(
            f"--openai-token-ids {rule.meaning}: {rule.problem}. Requests with token ids will get a 400. "
            f"To download it: {how_to_fetch(rule.meaning)}"
        )
    return rule


def origins(value: str | None) -> tuple[str, ...]:
    """--allow-origins. Raises `ConfigError`."""
    found = _split(value, "--allow-origins") if value else ()
    for origin in found:
        if "/" in origin.partition("://")[2].rstrip("/"):
            raise ConfigError(f"--allow-origins {origin}: an origin has no path, as in https://chat.example.com")
    return found


def rerank_scores(values: Sequence[str]) -> dict[str, bool]:
    """--rerank-scores: for each model's name, or "" for all others, whether scores are raw. Raises `ConfigError`."""
    found: dict[str, bool] = {}
    for value in values:
        name, _, scale = value.rpartition("=")
        if scale not in ("raw", "sigmoid"):
            raise ConfigError(f"--rerank-scores {value!r}: the scale must be raw or sigmoid, as in NAME=sigmoid")
        found[name.strip().lower().removesuffix(":latest")] = scale == "raw"
    return found


def _split(value: str | None, flag: str) -> tuple[str, ...]:
    """A comma-separated list. Raises `ConfigError` for an empty entry."""
    if value is None:
        return ()
    parts = tuple(part.strip() for part in value.split(","))
    if not all(parts):
        raise ConfigError(f"{flag} {value!r} has an empty entry between its commas")
    return parts


def _shares(value: str | None) -> tuple[float, ...]:
    try:
        shares = tuple(float(part) for part in _split(value, "--tensor-split"))
    except ValueError as exc:
        raise ConfigError(f"--tensor-split {value!r}: give comma-separated numbers, such as 3,1") from exc
    if any(share < 0 for share in shares):
        raise ConfigError(f"--tensor-split {value!r}: a share cannot be negative")
    return shares


def api_keys(value: str | None, file: Path | None) -> dict[str, Priority | None]:
    """All keys from --api-key and --api-key-file, with the class of those that have one in the file.

    Raises `ConfigError`; the message never contains a key.
    """
    classes: dict[str, Priority | None] = dict.fromkeys(key.strip() for key in (value or "").split(","))
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as exc:
            raise ConfigError(f"--api-key-file {file} cannot be read: {exc.strerror}; check the path") from exc
        except UnicodeDecodeError as exc:
            raise ConfigError(f"--api-key-file {file} is not UTF-8 text (byte {exc.start}): save it as UTF-8") from exc
        classes |= dict(map(_key_and_class, lines))
    classes.pop("", None)
    if not classes and (value is not None or file is not None):
        raise ConfigError("--api-key or --api-key-file was given but contains no key: add one, or omit both flags")
    return classes


def _key_and_class(line: str) -> tuple[str, Priority | None]:
    """One line of --api-key-file: a key, and perhaps a class after it."""
    words = line.rsplit(maxsplit=1)
    if len(words) == 2 and words[1] in tuple(Priority):
        return words[0].strip(), Priority(words[1])
    return line.strip(), None


def body_memory(flags: ServeFlags, available_bytes: int | None) -> int:
    """--max-body-memory, or an eighth of what is available, but at least enough for one body.

    Raises `ConfigError` for less than one body needs.
    """
    one_body = BODY_COPIES * flags.max_body_size * 2**20
    if flags.max_body_memory is None:
        share = MAX_BODY_MEMORY if available_bytes is None else min(MAX_BODY_MEMORY, available_bytes // 8)
        return max(one_body, share)
    if flags.max_body_memory < one_body:
        raise ConfigError(
            f"--max-body-memory {flags.max_body_memory:,} is less than the {one_body:,} bytes that one body takes: "
            "use at least as many, or a smaller --max-body-size"
        )
    return flags.max_body_memory
