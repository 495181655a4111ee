"""Converts a directory with safetensors into one GGUF."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
from numpy.typing import NDArray

from gguf_embed.convert.architectures import plan_model
from gguf_embed.convert.colbert_head import prefix_roles
from gguf_embed.convert.plan import FILE_TYPES, ConversionPlan, OutType, PlannedTensor
from gguf_embed.convert.profile import UseProfile, read_profile, write_profile
from gguf_embed.convert.safetensors import list_tensors, most_common_type, read_float32
from gguf_embed.convert.source import ModelSourceDirectory, open_source, read_license, read_modules
from gguf_embed.convert.static import convert_static, is_static
from gguf_embed.convert.token_heads import HeadValue, read_heads, write_heads
from gguf_embed.errors import ModelFileError, WayOut, cannot_be_written
from gguf_embed.gguf_file.atomic_write import atomic_write

_AUTO: dict[str, OutType] = {"BF16": "bf16", "F16": "f16", "F32": "f16"}
_COMPUTED_MODULES = (
    *("Transformer", "Pooling", "Normalize", "Dropout"),
    *("MLMTransformer", "SpladePooling", "MultiVectorMask"),
)
"""Steps of a sentence-transformers model that the GGUF contains, that change nothing (Dropout), or that are done later
(Normalize)."""

Progress = Callable[[int, int], None]
"""Told the bytes of the weights that are written, and of all."""


def _silent(n_written: int, n_bytes: int) -> None:
    pass


def convert_directory(  # noqa: PLR0913  # what becomes one file, how, and who is told
    source: Path,
    output: Path,
    outtype: OutType | Literal["auto"] = "f16",
    *,
    report: Callable[[str], None],
    name: str | None = None,
    progress: Progress = _silent,
    image_tower: Path | None = None,
) -> None:
    """Convert `source` into the GGUF `output`, replacing it atomically.

    `source` is a directory with config.json, safetensors and a tokenizer, or a static model (`static.py`).
    `image_tower` is the directory of an image tower in the model's space, which goes into the same file.
    Matrices are stored as `outtype`, everything else as F32; "auto" keeps 16-bit types and converts F32 to F16.
    `name` becomes `general.name`, by default the name of the directory. `progress` is told the bytes that are written
    and those there are. Several processes may do this at once.
    Raises `ModelFileError`; on any failure or interruption `output` is unchanged and no other file is left.
    """
    if is_static(source):
        if image_tower is not None:
            raise ModelFileError(f"{source}: a static model has no image tower: give a NomicBertModel")
        convert_static(source, output, outtype, report=report, name=name)
        return
    conversion = _prepare(source, outtype, name, image_tower)
    n_tensors = len(conversion.plan.tensors)
    report(f"converting {source} to {output} ({conversion.outtype}, {n_tensors} tensors)")
    with atomic_write(output) as temporary:
        _write(conversion, temporary, progress)
    for note in conversion.plan.notes:
        report(f"note: {note}")


def convert_in_place(source: Path, output: Path, outtype: OutType, *, name: str) -> None:
    """Convert `source`, not a static model, into a file that exists, such as one in memory.

    Raises `ModelFileError`, which leaves part of a GGUF in the file.
    """
    try:
        _write(_prepare(source, outtype, name), output, _silent)
    except OSError as exc:
        raise cannot_be_written(str(output), exc, [WayOut.OTHER_CACHE]) from exc


@dataclass(frozen=True, slots=True)
class _Conversion:
    """A checked model that can be written."""

    directory: ModelSourceDirectory
    outtype: OutType
    name: str
    plan: ConversionPlan
    profile: UseProfile
    heads: Mapping[str, HeadValue]


def _prepare(
    source: Path, outtype: OutType | Literal["auto"], name: str | None, image_tower: Path | None = None
) -> _Conversion:
    directory = open_source(source)
    chosen = choose_outtype(source, outtype)
    plan = plan_model(directory, chosen)
    if image_tower is not None:
        plan = plan.with_tower(plan_model(open_source(image_tower), chosen))
    heads = read_heads(directory)
    _check_modules(directory, plan, heads)
    profile = read_profile(directory).without(prefix_roles(heads))
    return _Conversion(directory, chosen, name or source.resolve().name, plan, profile, heads)


def _write(conversion: _Conversion, output: Path, progress: Progress) -> None:
    plan = conversion.plan
    writer = gguf.GGUFWriter(output, plan.architecture)
    try:
        _write_general(writer, conversion.directory, conversion.outtype, conversion.name)
        plan.write_metadata(writer)
        write_profile(writer, conversion.profile, plan.n_ctx)
        write_heads(writer, conversion.heads)
        _write_tensors(writer, plan.tensors, progress)
    finally:
        writer.close()


def choose_outtype(source: Path, outtype: OutType | Literal["auto"]) -> OutType:
    """`outtype` itself; for "auto" the 16-bit type closest to the stored one.

    Raises `ModelFileError` for "auto" if the weights have another type than F32, F16 or BF16.
    """
    if outtype != "auto":
        return outtype
    stored = most_common_type(list_tensors(source))
    if stored not in _AUTO:
        raise ModelFileError(f"{source}: weights of type {stored} cannot be converted (only F32, F16, BF16)")
    return _AUTO[stored]


def _check_modules(source: ModelSourceDirectory, plan: ConversionPlan, heads: Mapping[str, HeadValue]) -> None:
    """Refuse models with steps after the pooling that the GGUF could not contain."""
    kinds = [module.kind for module in read_modules(source)]
    n_carried = sum(tensor.name.startswith("dense_") and tensor.name.endswith(".weight") for tensor in plan.tensors)
    if kinds.count("Dense") > n_carried and not heads:
        raise ModelFileError(
            f"{source.path}: its Dense module after the pooling cannot be converted: llama.cpp does not compute one "
            f"for {plan.architecture}; use a model without one"
        )
    unknown = [kind for kind in kinds if kind not in (*_COMPUTED_MODULES, "Dense")]
    if unknown:
        raise ModelFileError(
            f"{source.path}: its module {unknown[0]} cannot be converted (only {', '.join(_COMPUTED_MODULES)}, Dense)"
        )


def _write_general(writer: gguf.GGUFWriter, source: ModelSourceDirectory, outtype: OutType, name: str) -> None:
    writer.add_type("model")
    writer.add_name(name)
    license_id = read_license(source)
    if license_id is not None:
        writer.add_license(license_id)
    writer.add_file_type(int(FILE_TYPES[outtype]))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _write_tensors(writer: gguf.GGUFWriter, tensors: tuple[PlannedTensor, ...], progress: Progress) -> None:
    """Declare all tensors, then read, convert and write them one by one, so that only one is in memory."""
    sizes = [prod(gguf.quant_shape_to_byte_shape(tensor.shape, tensor.type)) for tensor in tensors]
    for tensor, n_bytes in zip(tensors, sizes, strict=True):
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), n_bytes, raw_dtype=tensor.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    written, total = 0, sum(sizes)
    for tensor, n_bytes in zip(tensors, sizes, strict=True):
        writer.write_tensor_data(_encode(tensor))
        written += n_bytes
        progress(written, total)


def _encode(tensor: PlannedTensor) -> NDArray[np.generic]:
    values = read_float32(tensor.stored)[tensor.skip_rows :] if tensor.skip_rows else read_float32(tensor.stored)
    values = values if tensor.rows is None else values[list(tensor.rows)]
    values = values + np.float32(tensor.add) if tensor.add else values
    values = values if tensor.axes is None else values.transpose(sum(tensor.axes, ())).reshape(tensor.shape)
    if not np.isfinite(values).all():
        raise ModelFileError(f"{tensor.stored.path}: tensor {tensor.name} contains values that are not finite")
    with np.errstate(over="ignore"):
        encoded: NDArray[np.generic] = gguf.quants.quantize(np.ascontiguousarray(values), tensor.type)
    if tensor.type == gguf.GGMLQuantizationType.F16 and not np.isfinite(encoded).all():
        raise ModelFileError(
            f"{tensor.stored.path}: tensor {tensor.name} has values too large for f16; convert to bf16 or f32"
        )
    return encoded
