"""Turn a directory of safetensors into one GGUF, whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import ModelFileError
from gguf_embed.model_files.convert import bert
from gguf_embed.model_files.convert.plan import FILE_TYPES, ConversionPlan, OutType, PlannedTensor
from gguf_embed.model_files.convert.safetensors import read_float32
from gguf_embed.model_files.convert.source import ModelSourceDirectory, open_source, read_license

_Planner = Callable[[ModelSourceDirectory, OutType], ConversionPlan]
_PLANNERS: dict[str, _Planner] = dict.fromkeys(bert.ARCHITECTURES, bert.plan_bert)


def convert_directory(
    source: Path, output: Path, outtype: OutType = "f16", *, report: Callable[[str], None], name: str | None = None
) -> None:
    """Convert `source` (config.json, safetensors, tokenizer) into the GGUF `output`, replacing it in one step.

    Matrices are stored as `outtype`, everything else as F32. `name` becomes `general.name`; the directory's own name
    when None. Safe beside another process doing the same. Raises `ModelFileError`; on any failure or interruption
    `output` is as it was and nothing else is left behind.
    """
    directory = open_source(source)
    plan = _choose_planner(directory)(directory, outtype)
    report(f"converting {source} to {output} ({outtype}, {len(plan.tensors)} tensors)")
    with _whole_or_nothing(output) as temporary:
        writer = gguf.GGUFWriter(temporary, plan.architecture)
        try:
            _write_general(writer, directory, outtype, name or source.resolve().name)
            plan.write_metadata(writer)
            _write_tensors(writer, plan.tensors)
        finally:
            writer.close()


def _choose_planner(source: ModelSourceDirectory) -> _Planner:
    declared = source.config.get("architectures") or []
    names = [name for name in declared if isinstance(name, str)] if isinstance(declared, list) else []
    if not names and source.text("model_type") == "bert":
        names = ["BertModel"]
    for name in names:
        if name in _PLANNERS:
            return _PLANNERS[name]
    found = ", ".join(names) or source.text("model_type") or "no architecture"
    raise ModelFileError(
        f"{source.path}: {found} cannot be converted (supported: {', '.join(_PLANNERS)}); "
        "use a ready GGUF of this model, or llama.cpp's convert_hf_to_gguf.py"
    )


def _write_general(writer: gguf.GGUFWriter, source: ModelSourceDirectory, outtype: OutType, name: str) -> None:
    writer.add_type("model")
    writer.add_name(name)
    license_id = read_license(source)
    if license_id is not None:
        writer.add_license(license_id)
    writer.add_file_type(int(FILE_TYPES[outtype]))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _write_tensors(writer: gguf.GGUFWriter, tensors: tuple[PlannedTensor, ...]) -> None:
    """Declare all tensors, then read, convert and write them one by one: memory holds one at a time."""
    for tensor in tensors:
        n_bytes = int(np.prod(tensor.stored.shape)) * (4 if tensor.type == gguf.GGMLQuantizationType.F32 else 2)
        writer.add_tensor_info(tensor.name, tensor.stored.shape, np.dtype(np.float32), n_bytes, raw_dtype=tensor.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(_encode(tensor))


def _encode(tensor: PlannedTensor) -> NDArray[np.generic]:
    values = read_float32(tensor.stored)
    with np.errstate(over="ignore"):
        encoded: NDArray[np.generic] = gguf.quants.quantize(np.ascontiguousarray(values), tensor.type)
    if not np.isfinite(values).all():
        raise ModelFileError(f"{tensor.stored.path}: tensor {tensor.name} holds values that are not finite")
    if tensor.type == gguf.GGMLQuantizationType.F16 and not np.isfinite(encoded).all():
        raise ModelFileError(
            f"{tensor.stored.path}: tensor {tensor.name} has values too large for f16; convert to bf16 or f32"
        )
    return encoded


@contextmanager
def _whole_or_nothing(output: Path) -> Iterator[Path]:
    """Yield a temporary path beside `output`; move it there, synced to disk, when the block ends well.

    The temporary file is removed on any exception. Raises `ModelFileError` when the place cannot be written.
    """
    temporary = output.with_name(f".{output.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary, os.O_RDWR)
            os.replace(temporary, output)
        finally:
            temporary.unlink(missing_ok=True)
        if os.name != "nt":  # Windows has no handle on a folder to sync
            _sync(output.parent, os.O_RDONLY)
    except OSError as exc:
        hint = "free some space" if exc.errno == errno.ENOSPC else "check the folder"
        raise ModelFileError(f"{output}: cannot be written: {exc.strerror or exc}; {hint}") from exc


def _sync(path: Path, mode: int) -> None:
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
