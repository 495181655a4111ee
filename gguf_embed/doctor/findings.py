"""The doctor's results: findings, and the metadata changes that fix them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum

Value = str | int | float | bool


class Severity(StrEnum):
    """How bad a finding is. Only serious ones make the exit code 1."""

    SERIOUS = "serious"  # it will not load, or its answers are wrong
    WARNING = "warning"  # answers are worse than they could be, or wrong in some uses
    NOTE = "note"  # for information


class ValueType(IntEnum):
    """GGUF's numbers for the types of metadata values, without arrays."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


@dataclass(frozen=True, slots=True)
class Change:
    """One metadata key and its new value."""

    key: str
    type: ValueType
    value: Value


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem and how to fix it. `changes` are certain: `--fix` makes them without being asked."""

    severity: Severity
    code: str  # stable, for scripts: "pooling_missing"
    message: str  # one line
    fix: str  # one line
    changes: tuple[Change, ...] = ()


def serious(code: str, message: str, fix: str, *changes: Change) -> Finding:
    return Finding(Severity.SERIOUS, code, message, fix, changes)


def warning(code: str, message: str, fix: str, *changes: Change) -> Finding:
    return Finding(Severity.WARNING, code, message, fix, changes)


def note(code: str, message: str, fix: str) -> Finding:
    return Finding(Severity.NOTE, code, message, fix)


def uint(key: str, value: int) -> Change:
    return Change(key, ValueType.UINT32, value)


def flag(key: str, value: bool) -> Change:
    return Change(key, ValueType.BOOL, value)


def text(key: str, value: str) -> Change:
    return Change(key, ValueType.STRING, value)


def sets(*changes: Change) -> str:
    """What `--fix` will do, as text for the `fix` of a finding."""
    return "--fix sets " + " and ".join(f"{change.key} to {shown(change.value)}" for change in changes)


def shown(value: object) -> str:
    """A metadata value on one line, shortened to 60 characters."""
    written = repr(value) if isinstance(value, str) else str(value)
    if isinstance(value, bool):
        written = written.lower()
    return written if len(written) <= 60 else written[:57] + "..."


def some(names: Iterable[str], limit: int = 3) -> str:
    """The first names, and how many more there are: "a, b, c and 4 more"."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def fix_command(fix: str, file: str) -> str:
    """A finding's fix, for a reader who has not run the doctor: with its command before the flags."""
    sets_ = fix.removeprefix("--fix ")
    if fix.startswith(("--fix sets ", "--fix writes ")):
        return f"`gguf-embed doctor --fix {file}` {sets_}"
    return fix.replace("--fix", f"gguf-embed doctor {file} --fix", 1)
