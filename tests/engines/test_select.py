"""The engines that are registered, and what everything else takes from that table."""

from __future__ import annotations

import inspect
import subprocess
import sys

import click
import pytest

from gguf_embed.cli.serve import serve
from gguf_embed.embedder.embedder import Embedder
from gguf_embed.engines import select
from gguf_embed.engines.base import EngineDriver
from gguf_embed.engines.choice import COMPARED
from gguf_embed.engines.records import _PACKAGES
from gguf_embed.errors import ConfigError

METHODS = [name for name, value in vars(EngineDriver).items() if inspect.isfunction(value) and name[0] != "_"]


@pytest.mark.parametrize("name", list(select._ENGINES))
def test_a_registered_engine_makes_a_driver_of_that_name(name):
    driver = select._ENGINES[name].make()
    assert driver.name == name
    for method in METHODS:
        expected = list(inspect.signature(getattr(EngineDriver, method)).parameters)[1:]
        assert list(inspect.signature(getattr(driver, method)).parameters) == expected


def test_what_others_take_from_the_table():
    assert select.engine_names() == COMPARED == ("openvino", "llama")
    assert _PACKAGES == ("gguf-embed", "llama-cpp-python", "openvino")  # in another order, all is measured again
    assert [select.engine_title(name) for name in ("openvino", "llama", "bm25", "toy")] == [
        *("OpenVINO", "llama.cpp", "bm25", "toy")
    ]


@pytest.mark.parametrize(("name", "may"), [("auto", True), ("llama", True), ("openvino", False), ("static", False)])
def test_which_engine_may_use_a_gpu(name, may):
    assert select.may_use_gpu(name) is may


def test_an_engine_that_is_not_registered_cannot_be_asked_for(models):
    with pytest.raises(click.BadParameter, match="'toy' is not one of 'auto', 'openvino', 'llama'"):
        serve.make_context("serve", ["--engine", "toy"])
    with pytest.raises(ConfigError, match='it must be one of "auto", "openvino", "llama"'):
        Embedder(models / "encoder.gguf", engine="toy")


@pytest.mark.process
def test_reading_the_table_imports_no_engine():
    code = (
        "import sys; from gguf_embed.engines import select; select.engine_names(), select.engines_in_words(); "
        "heavy = ('openvino', 'llama_cpp', 'gguf_embed.engines.llama', 'gguf_embed.engines.openvino'); "
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
