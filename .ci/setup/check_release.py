"""Print the changelog's section for a release, or the reasons why the tag cannot be released.

usage: check_release.py TAG, such as v1.2.3. The tag must match the version in pyproject.toml and in
gguf_embed/__init__.py, and CHANGELOG.md must have a dated section for it.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def problems(tag: str, pyproject: str, package: str, changelog: str) -> list[str]:
    """The problems with the tag, from the contents of the three files."""
    version = tomllib.loads(pyproject)["project"]["version"]
    found = []
    if tag != f"v{version}":
        found.append(f"the tag is {tag!r}, the version in pyproject.toml is {version!r}: the tag must be 'v{version}'")
    if f'\n__version__ = "{version}"\n' not in f"\n{package}\n":
        found.append(f"__version__ in gguf_embed/__init__.py is not {version!r}")
    heading = re.search(rf"^## \[{re.escape(version)}\](.*)$", changelog, re.MULTILINE)
    if heading is None:
        found.append(f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD'")
    elif not re.fullmatch(r" - \d{4}-\d\d-\d\d", heading[1]):
        found.append(f"the section [{version}] of CHANGELOG.md has no date: expected '## [{version}] - YYYY-MM-DD'")
    elif not section(version, changelog):
        found.append(f"the section [{version}] of CHANGELOG.md is empty")
    return found


def section(version: str, changelog: str) -> str:
    """The text below the version's heading."""
    _, _, rest = changelog.partition(f"\n## [{version}]")
    return re.split(r"^## |^\[[^\]]+\]: ", rest.partition("\n")[2], maxsplit=1, flags=re.MULTILINE)[0].strip()


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("check_release.py needs one tag, such as v1.2.3", file=sys.stderr)
        return 2
    tag = arguments[0]
    pyproject, package, changelog = (
        (ROOT / name).read_text("utf-8") for name in ("pyproject.toml", "gguf_embed/__init__.py", "CHANGELOG.md")
    )
    found = problems(tag, pyproject, package, changelog)
    for problem in found:
        print(f"not released: {problem}", file=sys.stderr)
    if not found:
        print(section(tag.removeprefix("v"), changelog))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
