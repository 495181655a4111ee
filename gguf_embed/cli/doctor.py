"""`gguf-embed doctor`: say what will go wrong with a GGUF, and write a copy whose metadata is mended."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_embed.doctor.findings import Change, Finding, Severity, shown
from gguf_embed.errors import ConfigError

if TYPE_CHECKING:  # imported where they are used: numpy takes time that `--help` and other commands need not wait for
    from gguf_embed.doctor.examine import Diagnosis
    from gguf_embed.doctor.rewrite import MadeChange
    from gguf_embed.gguf_file.header import GgufHeader


@dataclass(frozen=True, slots=True)
class DoctorFlags:
    """What was typed."""

    file: Path
    fix: bool
    output: Path | None
    settings: tuple[str, ...]
    force: bool
    deep: bool
    run: bool
    as_json: bool


@dataclass(frozen=True, slots=True)
class Mended:
    """A corrected copy: what was changed in it, and what is left."""

    changes: tuple[MadeChange, ...]
    diagnosis: Diagnosis


@click.command(context_settings={"auto_envvar_prefix": None})
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--fix", is_flag=True, help="Write a copy with corrected metadata, and check it. FILE never changes.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Where the copy goes.  [default: FILE-fixed.gguf]"
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=[TYPE:]VALUE",
    help="With --fix: set this key too. TYPE is int, float, bool, str, u32…; by default the one it has now.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="With --fix: replace the copy where there is one.")
@click.option("--deep", is_flag=True, help="Look at every weight, not at a sample.")
@click.option("--run", is_flag=True, help="Load the model as well, embed three texts, and look at the vectors.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def doctor(**typed: Any) -> None:
    """Say what will go wrong with a GGUF, one line per finding, and how to fix it.

    Exit code 0 when nothing serious was found (with --fix: in the copy), 1 when something was, 2 for wrong flags.
    """
    flags = DoctorFlags(**typed)
    if not flags.fix and (flags.output is not None or flags.settings or flags.force):
        raise click.UsageError("-o, --set and --force say how --fix works: give --fix too")
    sys.exit(_examine(flags))


def _examine(flags: DoctorFlags) -> int:
    """Do it and print it. Returns the exit code."""
    before = _diagnose(flags.file, flags, run=flags.run and not flags.fix)
    mended = _mend(before, flags) if flags.fix and before.looked_at else None
    for line in [as_json(before, mended)] if flags.as_json else report(before, mended):
        click.echo(line)
    if flags.fix and mended is None and not flags.as_json:
        click.echo("nothing here that --fix can change: no copy written")
    return 1 if (mended.diagnosis if mended else before).n_serious else 0


def _diagnose(path: Path, flags: DoctorFlags, *, run: bool) -> Diagnosis:
    from gguf_embed.cli.doctor_trial import try_model
    from gguf_embed.doctor.examine import examine

    diagnosis = examine(path, deep=flags.deep)
    if not run or not diagnosis.looked_at:
        return diagnosis
    looked_at = f"{diagnosis.looked_at}, a run"
    return replace(diagnosis, findings=(*try_model(diagnosis.parts[0]), *diagnosis.findings), looked_at=looked_at)


def _mend(before: Diagnosis, flags: DoctorFlags) -> Mended | None:
    """None when there is nothing to change."""
    from gguf_embed.doctor.rewrite import check_can_rewrite, fixed_path, rewrite

    output = flags.output or fixed_path(flags.file)
    header = check_can_rewrite(flags.file, output, overwrite=flags.force)
    changes = {change.key: change for change in (*before.changes, *_parse_settings(header, flags.settings))}
    if not changes:
        return None
    return Mended(rewrite(header, output, tuple(changes.values())), _diagnose(output, flags, run=flags.run))


def _parse_settings(header: GgufHeader, settings: tuple[str, ...]) -> list[Change]:
    from gguf_embed.doctor.settings import parse_setting
    from gguf_embed.gguf_file.layout import read_layout

    entries = read_layout(header).entries
    try:
        return [parse_setting(setting, entries) for setting in settings]
    except ConfigError as error:
        raise click.UsageError(error.message) from error


def report(before: Diagnosis, mended: Mended | None) -> list[str]:
    """Lines for a person: findings, changes, what is left."""
    lines = [*map(finding_line, before.findings), verdict(before)]
    if mended is None:
        return lines
    lines += [f"changed  {change_line(change)}" for change in mended.changes]
    return [
        *lines,
        f"wrote    {mended.diagnosis.path}",
        *map(finding_line, mended.diagnosis.findings),
        verdict(mended.diagnosis),
    ]


def finding_line(finding: Finding) -> str:
    return f"{finding.severity:8} {finding.code}: {finding.message}. Fix: {finding.fix}"


def change_line(change: MadeChange) -> str:
    return f"{change.key}: {'(missing)' if change.old is None else shown(change.old)} -> {shown(change.new)}"


def verdict(diagnosis: Diagnosis) -> str:
    """The last line about a file: how much was found, and what was looked at."""
    counts = Counter(finding.severity for finding in diagnosis.findings)
    found = [f"{counts[severity]} {word}" for severity, word in _words(counts) if counts[severity]]
    worst = counts[Severity.SERIOUS] + counts[Severity.WARNING]
    summary = ", ".join(found) if worst else "nothing wrong" + (f" ({found[0]})" if found else "")
    looked_at = f"; checked: {diagnosis.looked_at}" if diagnosis.looked_at else ""
    return f"{diagnosis.path}: {summary}{looked_at}"


def _words(counts: Counter[Severity]) -> list[tuple[Severity, str]]:
    def plural(severity: Severity) -> str:
        return severity.value if counts[severity] == 1 or severity is Severity.SERIOUS else f"{severity.value}s"

    return [(severity, plural(severity)) for severity in Severity]


def as_json(before: Diagnosis, mended: Mended | None) -> str:
    """One object; `fixed` is null unless a copy was written."""
    fixed = None
    if mended is not None:
        changes = [{"key": change.key, "old": change.old, "new": change.new} for change in mended.changes]
        fixed = {**_diagnosis_json(mended.diagnosis), "changes": changes}
    return json.dumps({**_diagnosis_json(before), "fixed": fixed}, ensure_ascii=False, indent=2)


def _diagnosis_json(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "file": str(diagnosis.path),
        "n_serious": diagnosis.n_serious,
        "looked_at": diagnosis.looked_at,
        "findings": [
            {
                "severity": finding.severity.value,
                "code": finding.code,
                "message": finding.message,
                "fix": finding.fix,
                "fixable": bool(finding.changes),
            }
            for finding in diagnosis.findings
        ],
    }
