"""Whether there is a GPU is told from the names of llama.cpp's libraries, before anything is imported."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

import pytest

from gguf_embed.engines.llama import api, gpu_build

SHARED = ("libggml.so", "libggml.so.0", "libggml-base.so.0.25.3", "libggml-cpu.so", "libllama.so", "libmtmd.so")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes llama-cpp-python appear with these libraries."""

    def place(*names: str) -> None:
        folder = tmp_path / "llama_cpp" / "lib"
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).touch()
        spec = ModuleSpec("llama_cpp", None, is_package=True)
        spec.submodule_search_locations = [str(folder.parent)]
        monkeypatch.setattr(gpu_build, "find_spec", lambda name: spec)

    for name in gpu_build._OTHER_LIBRARIES:
        monkeypatch.delenv(name, raising=False)
    return place


@pytest.mark.parametrize("others", [(), ("libggml-blas.so",), ("libggml-rpc.so",), ("libggml-cpu-haswell.so",)])
def test_a_build_for_the_cpu_has_no_gpu(install, others):
    install(*SHARED, *others)
    assert not gpu_build.may_have_gpu()


@pytest.mark.parametrize(
    "name",
    [
        *("libggml-cuda.so", "libggml-vulkan.so.0", "libggml-hip.so", "libggml-sycl.so", "libggml-metal.dylib"),
        *("libggml-opencl.so", "libggml-cann.so", "libggml-musa.so", "ggml-cuda.dll", "libggml-invented-later.so"),
    ],
)
def test_a_backend_that_may_be_a_gpu_s_counts(install, name):
    install(*SHARED, name)
    assert gpu_build.may_have_gpu()


def test_windows_names_are_understood(install):
    install("ggml.dll", "ggml-base.dll", "ggml-cpu.dll", "llama.dll")
    assert not gpu_build.may_have_gpu()


@pytest.mark.parametrize("names", [(), ("libllama.so",), ("libllama.dylib", "libggml.dylib"), ("libggml-base.so",)])
def test_a_build_with_everything_in_one_library_must_be_asked(install, names):
    install(*names)
    assert gpu_build.may_have_gpu()


@pytest.mark.parametrize("name", ["LLAMA_CPP_LIB_PATH", "GGML_BACKEND_PATH"])
def test_libraries_from_elsewhere_must_be_asked(install, monkeypatch, name):
    install(*SHARED)
    monkeypatch.setenv(name, "/elsewhere")
    assert gpu_build.may_have_gpu()


def test_without_the_package_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(gpu_build, "find_spec", lambda name: None)
    assert not gpu_build.supports_gpu()


def test_while_another_thread_imports_the_package_it_must_be_asked(install, monkeypatch):
    install(*SHARED)
    monkeypatch.setattr(gpu_build, "find_spec", find_spec)
    monkeypatch.setitem(sys.modules, "llama_cpp", ModuleType("llama_cpp"))  # as `bindings.py` has it for a moment
    assert gpu_build.may_have_gpu()


@pytest.mark.parametrize("answer", [True, False])
def test_llama_cpp_has_the_last_word(install, monkeypatch, answer):
    install(*SHARED, "libggml-cuda.so")
    monkeypatch.setattr(api, "supports_gpu", lambda: answer)
    assert gpu_build.supports_gpu() is answer


def test_this_installation_s_answer_is_llama_cpp_s():
    assert gpu_build.supports_gpu() == api.supports_gpu()


PROGRAM = """
import os, sys
from gguf_embed.engines.llama import gpu_build
from gguf_embed.engines.select import supports_gpu
found = supports_gpu()
imported = "gguf_embed.engines.llama.api" in sys.modules
assert found or imported == gpu_build.may_have_gpu()
assert imported or not [name for name in sys.modules if name.split(".")[0] == "llama_cpp"]
before = dict(os.environ)
from gguf_embed.engines.llama import driver
if not imported:
    assert "GOMP_SPINCOUNT" not in before
assert os.environ["GOMP_SPINCOUNT"] == "1000" and os.environ["OMP_WAIT_POLICY"] == "active"
assert os.environ["GGML_NO_BACKTRACE"] == "1"
"""


def test_asking_a_build_for_the_cpu_imports_nothing_and_a_driver_still_sets_the_environment(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "GGML_NO_BACKTRACE"):
        monkeypatch.delenv(name, raising=False)
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
