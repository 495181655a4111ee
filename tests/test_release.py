"""A tag is released only when version and changelog agree with it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "setup" / "check_release.py"
PYPROJECT = '[project]\nname = "gguf-embed"\nversion = "1.2.0"\n'
PACKAGE = '"""Text."""\n\n__version__ = "1.2.0"\n'
CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.0] - 2026-01-31

### Added

- A thing.

## [1.1.0] - 2025-12-01

- Older.

[1.2.0]: https://example.org
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_release", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_release_that_fits_has_no_problem(script):
    assert script.problems("v1.2.0", PYPROJECT, PACKAGE, CHANGELOG) == []


def test_the_section_is_that_release_alone(script):
    assert script.section("1.2.0", CHANGELOG) == "### Added\n\n- A thing."
    assert script.section("1.1.0", CHANGELOG) == "- Older."


@pytest.mark.parametrize(
    ("tag", "package", "changelog", "problem"),
    [
        ("v1.2.1", PACKAGE, CHANGELOG, "the tag is 'v1.2.1', the version in pyproject.toml is '1.2.0'"),
        ("1.2.0", PACKAGE, CHANGELOG, "must be 'v1.2.0'"),
        ("v1.2.0", PACKAGE.replace("1.2.0", "1.2"), CHANGELOG, "__version__ in gguf_embed/__init__.py is not '1.2.0'"),
        ("v1.2.0", PACKAGE, CHANGELOG.replace("## [1.2.0]", "## 1.2.0"), "CHANGELOG.md has no section"),
        ("v1.2.0", PACKAGE, CHANGELOG.replace(" - 2026-01-31", ""), "has no date"),
        ("v1.2.0", PACKAGE, CHANGELOG.replace("2026-01-31", "soon"), "has no date"),
        ("v1.2.0", PACKAGE, CHANGELOG.replace("### Added\n\n- A thing.\n", ""), "is empty"),
    ],
)
def test_a_mismatch_between_tag_package_and_changelog_is_named(script, tag, package, changelog, problem):
    (found,) = script.problems(tag, PYPROJECT, package, changelog)
    assert problem in found


def test_a_wrong_tag_ends_with_1_and_prints_no_changes(script, capsys):
    assert script.main(["v0.0.0"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "not released: the tag is 'v0.0.0'" in printed.err
    assert script.main([]) == 2
