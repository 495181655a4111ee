"""From flags to configuration: pure decisions with messages for what contradicts itself or this machine."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from gguf_embed.cli.options import ServeFlags
from gguf_embed.config import ComputeConfig, ModelConfig, OffloadConfig, PoolConfig, PoolLimits
from gguf_embed.errors import ConfigError
from gguf_embed.model_store.locate import ModelSource
from gguf_embed.preprocessing.prompt_prefixes import parse_flag
from gguf_embed.tokenization.openai_encodings import TokenIdRule, cache_folders, how_to_fetch, token_id_rule
from gguf_embed.types import Pooling

Report = Callable[[str], None]

KEEP_ALIVE_S = 300.0
"""Ollama's default."""


def named_models(flags: ServeFlags) -> tuple[tuple[tuple[str, ...], ModelSource], ...]:
    """The models named at the start, each with its own names: -m's first, then -hf's.

    Nothing named means the default model, unless a folder is served. Raises `ConfigError` for contradictions.
    """
    aliases = _split(flags.alias, "--alias")
    n_named = len(flags.model) + len(flags.hf_repo)
    if n_named > 1 and aliases:
        raise ConfigError("--alias names one model, several are given: write -m NAME=FILE or -hf NAME=ORG/REPO")
    if flags.hf_file is not None and (len(flags.hf_repo) != 1 or flags.model):
        raise ConfigError("-hff names a file of one repository: give that repository, and nothing else, with -hf")
    if flags.mmproj is not None and n_named != 1:
        raise ConfigError(f"--mmproj belongs to one model, {n_named} are named: name that one with -m or -hf")
    if n_named == 0:
        return () if flags.models_dir is not None else ((aliases, ModelSource(offline=flags.offline)),)
    found: list[tuple[tuple[str, ...], ModelSource]] = []
    for text in flags.model:
        name, file = ("", text) if Path(text).expanduser().exists() else _name_and_rest(text)
        found.append(((name,) if name else aliases, ModelSource(path=Path(file), offline=flags.offline)))
    for text in flags.hf_repo:
        name, repo = _name_and_rest(text)
        source = ModelSource(hf_repo=repo, hf_file=flags.hf_file, offline=flags.offline)
        found.append(((name,) if name else aliases, source))
    return tuple(found)


def _name_and_rest(text: str) -> tuple[str, str]:
    """`NAME=REST` in two; ("", text) without a name."""
    name, equals, rest = text.partition("=")
    return (name.strip(), rest) if equals and name.strip() and rest else ("", text)


def pool_config(flags: ServeFlags, is_alone: bool) -> PoolConfig:
    """How long models stay: as asked, else five minutes; one that is served alone has nobody to make room for."""
    keep_alive_s = flags.keep_alive
    if keep_alive_s is None:
        keep_alive_s = math.inf if is_alone else KEEP_ALIVE_S
    return PoolConfig(PoolLimits(flags.models_max, flags.max_memory), keep_alive_s)


def prompts(flags: ServeFlags) -> dict[str, str]:
    """--prompt NAME=TEXT. Raises `ConfigError`."""
    return dict(parse_flag(text) for text in flags.prompt)


def model_config(flags: ServeFlags, has_gpu: bool, report: Report) -> ModelConfig:
    """How to load any model. Raises `ConfigError` for values that no flag type can check."""
    return ModelConfig(
        pooling=Pooling(flags.pooling) if flags.pooling else None,
        n_ctx=flags.ctx_size,
        embd_normalize=flags.embd_normalize,
        tokenizer=flags.tokenizer,
        truncate=flags.truncate,
        strict_name=flags.strict_model,
        warmup=flags.warmup,
        max_queued_tokens=flags.max_queue_tokens,
        compute=ComputeConfig(
            n_threads=flags.threads_batch or flags.threads,
            alone_threads=flags.threads_alone,
            n_workers=flags.workers,
            batch_tokens=flags.ubatch_size,
            flash_attention=flags.flash_attn,
            weights=flags.weights,
            amx=flags.amx,
            offload=OffloadConfig(
                n_gpu_layers=gpu_layers(flags.n_gpu_layers, has_gpu and flags.device != "none", report),
                main_gpu=flags.main_gpu,
                split_mode=flags.split_mode,
                tensor_split=_shares(flags.tensor_split),
                devices=_split(flags.device, "--device"),
            ),
        ),
    )


def gpu_layers(asked: int | Literal["auto", "all"], has_gpu: bool, report: Report) -> int:
    """llama.cpp's number of layers: -1 is all. Without a GPU it is 0, and a wish for more is answered in words."""
    if has_gpu:
        return -1 if isinstance(asked, str) else asked
    if asked != "auto" and asked != 0:
        report(
            f"-ngl {asked}: this build of llama-cpp-python has no GPU to use, so everything runs on the CPU; for CUDA: "
            f'CMAKE_ARGS="-DGGML_CUDA=on" {sys.executable} -m pip install --no-deps --force-reinstall --no-cache-dir '
            f"llama-cpp-python=={version('llama-cpp-python')}"
        )
    return 0


def token_ids(flags: ServeFlags, environment: Mapping[str, str], report: Report) -> TokenIdRule:
    """--openai-token-ids, with the encoding that it names read; that its file is not here is said."""
    folders = cache_folders(environment, Path(tempfile.gettempdir()))
    rule = token_id_rule(flags.openai_token_ids, folders)
    if rule.problem:
        report(
            f"--openai-token-ids {rule.meaning}: {rule.problem}, so requests with token ids get a 400. To fetch it: "
            f"{how_to_fetch(rule.meaning)}"
        )
    return rule


def _split(value: str | None, flag: str) -> tuple[str, ...]:
    """A list with commas. Raises `ConfigError` for an empty entry."""
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
        raise ConfigError(f"--tensor-split {value!r}: give numbers with commas between them, such as 3,1") from exc
    if any(share < 0 for share in shares):
        raise ConfigError(f"--tensor-split {value!r}: a share cannot be negative")
    return shares


def api_keys(value: str | None, file: Path | None) -> tuple[str, ...]:
    """All keys of --api-key and --api-key-file. Raises `ConfigError`; no message ever holds a key."""
    keys = list(value.split(",")) if value is not None else []
    if file is not None:
        try:
            keys += file.read_text(encoding="utf-8").splitlines()
        except OSError as exc:
            raise ConfigError(f"--api-key-file {file} cannot be read: {exc.strerror}; check the path") from exc
        except UnicodeDecodeError as exc:
            raise ConfigError(f"--api-key-file {file} is not UTF-8 text (byte {exc.start}): write it anew") from exc
    found = tuple(dict.fromkeys(key.strip() for key in keys if key.strip()))
    if not found and (value is not None or file is not None):
        raise ConfigError("--api-key or --api-key-file was given but holds no key: give one, or leave both away")
    return found
