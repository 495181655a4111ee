import subprocess
import sys

import pytest

from gguf_embed.engines.llama.bindings import import_bindings

PROGRAM = """
import sys
from gguf_embed.engines.llama import api
assert "llama_cpp" not in sys.modules and "jinja2" not in sys.modules
import llama_cpp
assert llama_cpp.Llama and llama_cpp.llama_cpp is api.llama
"""


def test_the_package_s_high_level_part_is_imported_only_on_use():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)


def test_a_missing_package_is_an_import_error(monkeypatch):
    monkeypatch.setattr("gguf_embed.engines.llama.bindings.PACKAGE", "llama_cpp_that_is_not_there")
    with pytest.raises(ImportError, match="llama_cpp_that_is_not_there"):
        import_bindings("llama_cpp")
