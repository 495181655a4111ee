"""What the doctor finds serious about a file that is served: in its facts, said at each load, refused if strict."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from gguf_embed.doctor.examine import check_header, check_metadata, without_pooling
from gguf_embed.doctor.findings import Finding, Severity, fix_command
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.model_store.catalog import CatalogRow
from gguf_embed.types import FileProblem, ModelInfo, Pooling

logger = logging.getLogger(__name__)

_SAID_ANYWAY = ("pooling_missing",)  # by `choose_pooling`, with the flag that helps


def problems_of(
    header: GgufHeader, row: CatalogRow | None, pooling: Pooling | None, *, reads_vocabulary: bool
) -> tuple[FileProblem, ...]:
    """The serious problems; those of the file's own pooling only if `pooling`, the configured one, is None."""
    try:
        findings = check_metadata(header.path) if reads_vocabulary else check_header(header, row)
    except ModelFileError:
        raise
    except Exception:  # whatever a file contains, its check does not decide whether it is served
        logger.exception("checking %s failed", header.path.name)
        return ()
    return as_problems(without_pooling(findings, pooling), header.path.name)


def as_problems(findings: Iterable[Finding], file: str) -> tuple[FileProblem, ...]:
    """The serious ones among the doctor's findings."""
    return tuple(
        FileProblem(finding.code, finding.message, fix_command(finding.fix, file))
        for finding in findings
        if finding.severity is Severity.SERIOUS
    )


def report_problems(info: ModelInfo, is_strict: bool, report: Callable[[str], None]) -> None:
    """Say each problem in one line. Raises `ModelFileError` for the first if files are checked strictly."""
    for problem in info.problems:
        if is_strict:
            raise ModelFileError(
                f"{info.name} is not served, because --strict refuses a file with a serious problem "
                f"({problem.code}: {problem.message}). Fix: {problem.fix}"
            )
        if problem.code not in _SAID_ANYWAY:
            report(problem_line(info.name, problem))


def problem_line(name: str, problem: FileProblem) -> str:
    return f"serious  {name}: {problem.code}: {problem.message}. Fix: {problem.fix}"
