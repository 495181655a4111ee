"""Write a copy of a GGUF with changed metadata; everything else is copied byte for byte."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gguf_embed.doctor.findings import Change, ValueType
from gguf_embed.errors import ConfigError, ModelFileError
from gguf_embed.gguf_file.atomic_write import atomic_write
from gguf_embed.gguf_file.constants import SCALAR_FORMATS
from gguf_embed.gguf_file.crisp_layout import CRISP_LAYOUT
from gguf_embed.gguf_file.header import GgufHeader, read_header
from gguf_embed.gguf_file.layout import read_layout
from gguf_embed.model_store.names import model_stem, split_parts

_COPY_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class MadeChange:
    """One key, before and after."""

    key: str
    old: object  # None: the key is new
    new: object


def fixed_path(path: Path) -> Path:
    """The default path of a corrected copy: next to the file, `<stem>-fixed.gguf`."""
    return path.with_name(f"{model_stem(path.name)}-fixed.gguf")


def check_can_rewrite(path: Path, output: Path, *, overwrite: bool) -> GgufHeader:
    """The header of a file that can be copied to `output`.

    Raises `ModelFileError` for a split model, CrispEmbed's layout, and a file that cannot be read, `ConfigError` if
    `output` is the file itself, or if it exists and `overwrite` is false.
    """
    n_parts = len(split_parts(path.name))
    header = read_header(path)
    if n_parts > 1 or header.metadata.get("split.count", 0) not in (0, 1):
        raise ModelFileError(f"{path} is a part of a split model: join the parts first with llama-gguf-split --merge")
    if header.get(CRISP_LAYOUT, bool):
        raise ModelFileError(
            f"{path} is in CrispEmbed's layout, which cannot be rewritten: convert the original with gguf-embed convert"
        )
    if output.exists() and output.samefile(path):
        raise ConfigError(f"{output} is the file itself, which is never changed: name another output with -o")
    if output.exists() and not overwrite:
        raise ConfigError(f"{output} already exists: name another output with -o, or replace it with --force")
    return header


def rewrite(header: GgufHeader, output: Path, changes: Sequence[Change]) -> tuple[MadeChange, ...]:
    """Write `output` completely or not at all, using a few megabytes of memory. New keys come last.

    Returns what is different, in the order of `changes`. Raises `ModelFileError` if it cannot be written.
    """
    layout, wanted = read_layout(header), {change.key: change for change in changes}
    alignment = header.metadata.get("general.alignment", 32)
    assert isinstance(alignment, int)  # `read_header` has checked it
    with (
        atomic_write(output, make_folder=False) as temporary,
        header.path.open("rb") as source,
        temporary.open("xb") as target,
    ):
        new_keys = [key for key in wanted if key not in layout.entries]
        n_entries = len(layout.entries) + len(new_keys)
        target.write(b"GGUF" + struct.pack("<IQQ", header.version, len(header.tensors), n_entries))
        for entry in layout.entries.values():
            if entry.key in wanted:
                target.write(encode(wanted[entry.key]))
            else:
                _copy(source, target, entry.begin, entry.end)
        for key in new_keys:
            target.write(encode(wanted[key]))
        _copy(source, target, layout.tensors, layout.tensors_end)
        target.write(b"\0" * (-target.tell() % alignment))
        source.seek(header.data_start)
        shutil.copyfileobj(source, target, _COPY_BYTES)
    return tuple(MadeChange(key, _old_value(header, key), change.value) for key, change in wanted.items())


def encode(change: Change) -> bytes:
    """One metadata entry as GGUF stores it: key, type, value."""
    head = _string(change.key) + struct.pack("<I", change.type)
    if change.type is ValueType.STRING:
        return head + _string(str(change.value))
    return head + struct.pack("<" + SCALAR_FORMATS[change.type], change.value)


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def _old_value(header: GgufHeader, key: str) -> object:
    n_items = header.array_lengths.get(key)
    return header.metadata.get(key) if n_items is None else f"an array of {n_items}"


def _copy(source: BinaryIO, target: BinaryIO, begin: int, end: int) -> None:
    source.seek(begin)
    while begin < end:
        data = source.read(min(_COPY_BYTES, end - begin))
        if not data:
            raise ModelFileError(f"{source.name} became shorter while it was being copied; try again")
        target.write(data)
        begin += len(data)
