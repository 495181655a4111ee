"""A corpus of real English that every machine with Python has: the docstrings of the standard library."""

from __future__ import annotations

import ast
import sysconfig
from functools import cache
from pathlib import Path

MIN_CHARACTERS = 120
N_DOCUMENTS = 1500


@cache
def docstrings() -> dict[str, str]:
    """Id → text, such as "argparse.ArgumentParser": the first `N_DOCUMENTS` of some length."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, str] = {}
    for path in sorted(library.glob("*.py")):
        try:
            tree = ast.parse(path.read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                name = f"{path.stem}.{getattr(node, 'name', '')}".rstrip(".")
                if len(text) >= MIN_CHARACTERS and name not in found:
                    found[name] = text
    return dict(list(found.items())[:N_DOCUMENTS])
