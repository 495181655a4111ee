"""`gguf-embed doctor`: checks a GGUF for problems, and can write a copy with corrected metadata."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_embed.cli.command import Command
from gguf_embed.cli.flag_types import FilePath
from gguf_embed.cli.model_flags import MODEL_NAME
from gguf_embed.cli.terminal import red, width_of, yellow
from gguf_embed.doctor.findings import Change, Finding, Severity, shown
from gguf_embed.errors import ConfigError
from gguf_embed.model_store.default_model import cache_dir
from gguf_embed.model_store.locate import locate_here
from gguf_embed.model_store.places import expanded

if TYPE_CHECKING:  # imported where used: numpy would delay `--help` and the other commands
    from gguf_embed.doctor.examine import Diagnosis
    from gguf_embed.doctor.rewrite import MadeChange
    from gguf_embed.gguf_file.header import GgufHeader


_INDENT = " " * 9
EXAMPLES = """\b
gguf-embed doctor model.gguf
gguf-embed doctor nomic-embed-text --run
gguf-embed doctor model.gguf --fix -o fixed.gguf
"""


@dataclass(frozen=True, slots=True)
class DoctorFlags:
    """The command's flags."""

    model: str
    fix: bool
    output: Path | None
    settings: tuple[str, ...]
    force: bool
    deep: bool
    run: bool
    as_json: bool


@dataclass(frozen=True, slots=True)
class FixedCopy:
    """A corrected copy: the changes made, and what is still wrong with it."""

    changes: tuple[MadeChange, ...]
    diagnosis: Diagnosis


@click.command(cls=Command, context_settings={"auto_envvar_prefix": None}, epilog=EXAMPLES)
@click.argument("model", type=MODEL_NAME, metavar="MODEL")
@click.option(
    "--fix", is_flag=True, help="Write a copy with corrected metadata, and check it. The file is not changed."
)
@click.option(
    "-o", "--output", type=FilePath(), metavar="FILE",
    help="Path of the copy.  [default: FILE-fixed.gguf beside a file, in the current folder for a name]",
)  # fmt: skip
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=[TYPE:]VALUE",
    help="With --fix: also set this key. TYPE is int, float, bool, str, u32…; by default the key's current type.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="With --fix: overwrite an existing copy.")
@click.option("--deep", is_flag=True, help="Check every weight, not just a sample.")
@click.option("--run", is_flag=True, help="Also load the model, embed three texts, and check the vectors.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def doctor(**typed: Any) -> None:
    """Check a model's file for problems, and suggest fixes.

    MODEL is a GGUF file, or the name of a model on this machine. Exit code: 0 if nothing serious was found (with
    --fix: in the copy), 1 if something was, 2 for wrong flags.
    """
    flags = DoctorFlags(**typed)
    if not flags.fix and (flags.output is not None or flags.settings or flags.force):
        raise click.UsageError("-o, --set and --force only apply to --fix: add --fix")
    sys.exit(_examine(flags))


def _examine(flags: DoctorFlags) -> int:
    """Checks the file, fixes it if requested, and prints the report. Returns the exit code."""
    path = find_file(flags.model, cache_dir(os.environ))
    before = _diagnose(path, flags, run=flags.run and not flags.fix)
    fixed = _fix(path, before, flags) if flags.fix and before.looked_at else None
    width = width_of(sys.stdout)
    for line in [as_json(before, fixed)] if flags.as_json else report(before, fixed):
        click.echo(line if flags.as_json else on_terminal(line, width))
    if flags.fix and fixed is None and not flags.as_json:
        click.echo(f"--fix {why_no_copy(before)}: no copy written")
    return 1 if (fixed.diagnosis if fixed else before).n_serious else 0


def why_no_copy(diagnosis: Diagnosis) -> str:
    is_wrong = any(finding.severity in (Severity.SERIOUS, Severity.WARNING) for finding in diagnosis.findings)
    return "cannot mend what was found" if is_wrong else "has nothing to change"


def find_file(model: str, cache: Path) -> Path:
    """A path as it is; for a name, the file on this machine. Raises `ModelFileError` if there is none."""
    path = expanded(Path(model))
    looks_like_path = model.lower().endswith(".gguf") or model.startswith(("/", ".", "~"))
    return path if path.exists() or looks_like_path else locate_here(model, cache, click.echo).path


def _diagnose(path: Path, flags: DoctorFlags, *, run: bool) -> Diagnosis:
    from gguf_embed.cli.doctor_trial import try_model
    from gguf_embed.doctor.examine import examine

    diagnosis = examine(path, deep=flags.deep)
    if not run or not diagnosis.looked_at:
        return diagnosis
    looked_at = f"{diagnosis.looked_at}, a run"
    return replace(diagnosis, findings=(*try_model(diagnosis.parts[0]), *diagnosis.findings), looked_at=looked_at)


def _fix(path: Path, before: Diagnosis, flags: DoctorFlags) -> FixedCopy | None:
    """Writes the corrected copy. None if there is nothing to change."""
    from gguf_embed.doctor.rewrite import check_can_rewrite, fixed_path, rewrite

    is_file = expanded(Path(flags.model)) == path
    output = flags.output or (fixed_path(path) if is_file else Path(fixed_path(path).name))
    header = check_can_rewrite(path, output, overwrite=flags.force)
    changes = {change.key: change for change in (*before.changes, *_parse_settings(header, flags.settings))}
    if not changes:
        return None
    return FixedCopy(rewrite(header, output, tuple(changes.values())), _diagnose(output, flags, run=flags.run))


def _parse_settings(header: GgufHeader, settings: tuple[str, ...]) -> list[Change]:
    from gguf_embed.doctor.settings import parse_setting
    from gguf_embed.gguf_file.layout import read_layout

    entries = read_layout(header).entries
    try:
        return [parse_setting(setting, entries) for setting in settings]
    except ConfigError as error:
        raise click.UsageError(error.message) from error


def report(before: Diagnosis, fixed: FixedCopy | None) -> list[str]:
    """The report as lines of text: findings, changes, findings that remain."""
    lines = [*map(finding_line, before.findings), verdict(before)]
    if fixed is None:
        return lines
    lines += [f"changed  {change_line(change)}" for change in fixed.changes]
    return [
        *lines,
        f"wrote    {fixed.diagnosis.path}",
        *map(finding_line, fixed.diagnosis.findings),
        verdict(fixed.diagnosis),
    ]


def finding_line(finding: Finding) -> str:
    return f"{finding.severity:8} {finding.code}: {finding.message}. Fix: {finding.fix}"


def on_terminal(line: str, width: int | None) -> str:
    """A line of the report, wrapped, with its severity in color. `width`: None off a terminal, where it stays whole."""
    if width is None:
        return line
    wrapped = "\n".join(
        textwrap.wrap(line, width, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False)
    )
    word, _, rest = wrapped.partition(" ")
    paint = {Severity.SERIOUS.value: red, Severity.WARNING.value: yellow}.get(word)
    return wrapped if paint is None else f"{paint(word, sys.stdout)} {rest}"


def change_line(change: MadeChange) -> str:
    return f"{change.key}: {'(missing)' if change.old is None else shown(change.old)} -> {shown(change.new)}"


def verdict(diagnosis: Diagnosis) -> str:
    """The last line about a file: the number of findings, and what was checked."""
    counts = Counter(finding.severity for finding in diagnosis.findings)
    found = [f"{counts[severity]} {word}" for severity, word in _words(counts) if counts[severity]]
    worst = counts[Severity.SERIOUS] + counts[Severity.WARNING]
    summary = ", ".join(found) if worst else "no problems found" + (f" ({found[0]})" if found else "")
    looked_at = f"; checked: {diagnosis.looked_at}" if diagnosis.looked_at else ""
    return f"{diagnosis.path}: {summary}{looked_at}"


def _words(counts: Counter[Severity]) -> list[tuple[Severity, str]]:
    def plural(severity: Severity) -> str:
        return severity.value if counts[severity] == 1 or severity is Severity.SERIOUS else f"{severity.value}s"

    return [(severity, plural(severity)) for severity in Severity]


def as_json(before: Diagnosis, fixed: FixedCopy | None) -> str:
    """The report as one object; its `fixed` is null unless a copy was written."""
    copy = None
    if fixed is not None:
        changes = [{"key": change.key, "old": change.old, "new": change.new} for change in fixed.changes]
        copy = {**_diagnosis_json(fixed.diagnosis), "changes": changes}
    return json.dumps({**_diagnosis_json(before), "fixed": copy}, ensure_ascii=False, indent=2)


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
