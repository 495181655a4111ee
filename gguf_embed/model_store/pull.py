"""Carries out a `PullPlan`: downloads a GGUF, converts or makes a model, or uses the default model's package."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

from gguf_embed.errors import ModelFileError
from gguf_embed.model_store.default_model import resolve_default
from gguf_embed.model_store.download import FetchedFile, Hub, Listener, fetch_directory, fetch_files
from gguf_embed.model_store.names import word_tables
from gguf_embed.model_store.partial_file import sha256_of
from gguf_embed.model_store.pull_plan import PullPlan
from gguf_embed.types import PullProgress


def fetch_planned(plan: PullPlan, cache_dir: Path, hub: Hub, listener: Listener) -> tuple[FetchedFile, ...]:
    """Fetch all parts of the model; blocks until they are on this machine. Raises `ModelFileError`."""
    if plan.is_default:
        # if this fails for any reason, use the hub's file, whose download can report progress
        with suppress(ModelFileError):
            return (_fetched(resolve_default(cache_dir, listener.say, hub=replace(hub, offline=True))),)
    if plan.language is not None:
        return (_fetched(_made(plan.language, plan, cache_dir)),)
    if plan.repo is not None:
        return fetch_files(hub, plan.repo, plan.choice, listener)
    return (_fetched(_convert(plan, cache_dir, hub, listener)),)


def _made(language: str, plan: PullPlan, cache_dir: Path) -> Path:
    """BM25's GGUF, made now or at an earlier time."""
    from gguf_embed.convert.bm25 import write_bm25  # here because importing gguf takes 70 ms

    assert plan.row is not None, "a plan with a language has a row"
    output = cache_dir / "converted" / f"{plan.row.name}.gguf"
    if not output.is_file():
        write_bm25(language, output, name=plan.row.name)
    return output


def _convert(plan: PullPlan, cache_dir: Path, hub: Hub, listener: Listener) -> Path:
    """The GGUF converted from the original's weights, now or at an earlier time."""
    from gguf_embed.convert.convert import convert_directory  # here because importing gguf takes 70 ms
    from gguf_embed.convert.plan import OutType

    repo, row = plan.convert, plan.row
    if repo is None or row is None:
        raise AssertionError("a plan names a repository with a GGUF, or an original with its row")
    quant = plan.choice.quant
    output = cache_dir / "converted" / (f"{row.name}-{quant.upper()}.gguf" if quant else f"{row.name}.gguf")
    if output.is_file():
        return output
    tower = fetch_directory(hub, repo, listener) if row.text_model is not None else None
    source = _table_or_folder(fetch_directory(hub, row.text_model or repo, listener), row.name)
    start = PullProgress(f"converting {repo}")
    listener.progress(start)
    outtype = cast(OutType, quant.lower()) if quant else "auto"
    convert_directory(
        source, output, outtype, report=listener.say, name=row.name, image_tower=tower,
        progress=lambda done, total: listener.progress(replace(start, completed_bytes=done, total_bytes=total)),
    )  # fmt: skip
    return output


def _table_or_folder(folder: Path, name: str) -> Path:
    """The converter's input: the folder, or a table of word vectors in it (of several, the one with this name)."""
    if next(folder.rglob("*.safetensors"), None) is not None:
        return folder
    tables = word_tables(sorted(path.name for path in folder.iterdir()))
    return folder / next((table for table in tables if table.startswith(f"{name}.")), tables[0])


def _fetched(path: Path) -> FetchedFile:
    try:
        return FetchedFile(path, sha256_of(path), path.stat().st_size)
    except OSError as exc:
        raise ModelFileError(f"{path} cannot be read: {exc.strerror or exc}") from exc
