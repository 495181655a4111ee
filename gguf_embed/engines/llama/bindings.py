"""llama-cpp-python's low-level modules, without the rest of its package.

The package's `__init__` also imports a high-level API with its template engine and disk cache, 35 modules that nothing
here uses. Whoever imports `llama_cpp` later in this process gets the whole package, with these same modules in it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

PACKAGE = "llama_cpp"


def is_package_imported() -> bool:
    """Whether somebody else has imported llama-cpp-python, and so has loaded its libraries."""
    return PACKAGE in sys.modules


def import_bindings(module: str) -> ModuleType:
    """`llama_cpp.<module>`. Raises `ImportError` where the package is missing or its libraries cannot be loaded."""
    if PACKAGE in sys.modules:
        return import_module(f"{PACKAGE}.{module}")
    spec = find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
    bare = ModuleType(PACKAGE)
    bare.__path__ = spec.submodule_search_locations
    sys.modules[PACKAGE] = bare
    try:
        return import_module(f"{PACKAGE}.{module}")
    finally:
        del sys.modules[PACKAGE]
