"""Parses `--set KEY=VALUE` and `--set KEY=TYPE:VALUE`: one metadata key and its new value."""

from __future__ import annotations

from typing import Final

from gguf_embed.doctor.findings import Change, Value, ValueType
from gguf_embed.errors import ConfigError
from gguf_embed.gguf_file.constants import ARRAY
from gguf_embed.gguf_file.layout import MetadataEntry

_TYPES: Final = {
    "u8": ValueType.UINT8,
    "i8": ValueType.INT8,
    "u16": ValueType.UINT16,
    "i16": ValueType.INT16,
    "u32": ValueType.UINT32,
    "i32": ValueType.INT32,
    "u64": ValueType.UINT64,
    "i64": ValueType.INT64,
    "f32": ValueType.FLOAT32,
    "f64": ValueType.FLOAT64,
    "int": ValueType.UINT32,  # llama.cpp's four names, from --override-kv
    "float": ValueType.FLOAT32,
    "bool": ValueType.BOOL,
    "str": ValueType.STRING,
} | {kind.name.lower(): kind for kind in ValueType}

_BITS: Final = {
    ValueType.UINT8: 8,
    ValueType.INT8: 8,
    ValueType.UINT16: 16,
    ValueType.INT16: 16,
    ValueType.UINT32: 32,
    ValueType.INT32: 32,
    ValueType.UINT64: 64,
    ValueType.INT64: 64,
}
_SIGNED: Final = (ValueType.INT8, ValueType.INT16, ValueType.INT32, ValueType.INT64)
_FIXED: Final = ("general.alignment", "split.no", "split.count", "split.tensors.count")
_TRUTHS: Final = {"true": True, "1": True, "false": False, "0": False}


def parse_setting(setting: str, entries: dict[str, MetadataEntry]) -> Change:
    """Parse one setting. Without TYPE the value gets the type that the key has now.

    Raises `ConfigError` for any other form, an array, a key that describes the file's layout, a new key without TYPE,
    and a value that does not fit its type.
    """
    key, equals, written = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {setting!r}: expected KEY=VALUE or KEY=TYPE:VALUE")
    if key in _FIXED:
        raise ConfigError(f"--set {key}: this key describes the layout of the file and cannot be changed on its own")
    entry = entries.get(key)
    if entry is not None and entry.type == ARRAY:
        raise ConfigError(f"--set {key}: this key is an array of {entry.n_items} items; only single values can be set")
    name, colon, value = written.partition(":")
    if colon and name in _TYPES:
        return Change(key, _TYPES[name], _parse(key, value, _TYPES[name]))
    if entry is not None:
        return Change(key, ValueType(entry.type), _parse(key, written, ValueType(entry.type)))
    if key.endswith(".pooling_type"):
        return Change(key, ValueType.UINT32, _parse(key, written, ValueType.UINT32))
    raise ConfigError(
        f"--set {key}: the file has no such key, so give its type: {key}=TYPE:VALUE (u32, f32, bool, str…)"
    )


def _parse(key: str, written: str, kind: ValueType) -> Value:
    if kind is ValueType.STRING:
        return written
    try:
        value = _number(written, kind)
    except (ValueError, KeyError) as exc:
        raise ConfigError(f"--set {key}: {written!r} is not a value of type {kind.name}") from exc
    if kind in _BITS:
        low, high = _range_of(kind)
        if not low <= value <= high:
            raise ConfigError(f"--set {key}: {written} does not fit {kind.name} ({low} to {high})")
    return value


def _range_of(kind: ValueType) -> tuple[int, int]:
    """The least and the greatest value of an integer type."""
    n_bits = _BITS[kind]
    if kind in _SIGNED:
        return -(1 << (n_bits - 1)), (1 << (n_bits - 1)) - 1
    return 0, (1 << n_bits) - 1


def _number(written: str, kind: ValueType) -> int | float | bool:
    if kind is ValueType.BOOL:
        return _TRUTHS[written.lower()]
    return float(written) if kind in (ValueType.FLOAT32, ValueType.FLOAT64) else int(written)
