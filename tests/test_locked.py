"""OpenVINO is installed where it has wheels, and everything else everywhere."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.tags import Tag

ROOT = Path(__file__).parent.parent
SETUP = ROOT / ".ci" / "setup"
LOCK = (SETUP / "requirements.lock").read_text("utf-8")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("for_this_machine", SETUP / "for_this_machine.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def marker(text: str) -> Marker:
    found = Requirement(text).marker
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("system", "machine", "python", "expected"),
    [
        ("linux", "x86_64", "3.11", True),
        ("linux", "x86_64", "3.14", True),
        ("linux", "aarch64", "3.13", True),
        ("darwin", "arm64", "3.12", True),
        ("win32", "AMD64", "3.12", True),
        ("darwin", "x86_64", "3.12", False),
        ("win32", "ARM64", "3.12", False),
        ("linux", "armv7l", "3.12", False),
        ("linux", "riscv64", "3.13", False),
        ("linux", "x86_64", "3.15", False),
    ],
)
def test_openvino_is_asked_for_where_it_has_wheels(system, machine, python, expected):
    machine_is = {"sys_platform": system, "platform_machine": machine}
    machine_is |= {"python_version": python, "python_full_version": f"{python}.1"}
    (locked,) = re.findall(r"^(openvino==.*) \\$", LOCK, re.MULTILINE)
    (extra,) = (wanted for wanted in EXTRAS["openvino"] if Requirement(wanted).name == "openvino")
    assert [marker(text).evaluate(machine_is) for text in (locked, extra)] == [expected, expected]


@pytest.mark.parametrize(
    ("abi", "platform", "expected"),
    [
        ("cp311", "manylinux_2_28_x86_64", True),
        ("cp314t", "manylinux_2_35_aarch64", True),
        ("cp313", "macosx_11_0_arm64", True),
        ("cp312", "musllinux_1_2_x86_64", False),
        ("cp312", "manylinux_2_34_aarch64", False),
        ("cp313t", "manylinux_2_28_x86_64", False),
        ("none", "manylinux_2_28_x86_64", False),
    ],
)
def test_a_machine_that_runs_none_of_the_wheels_is_recognized(script, abi, platform, expected):
    assert script.has_wheel([Tag("py3", "none", "any"), Tag("cp312", abi, platform)]) is expected


def test_the_wheels_were_looked_up_for_the_locked_version(script):
    assert re.findall(r"^openvino==([\d.]+)", LOCK, re.MULTILINE) == [script.VERSION]


def test_without_wheels_all_the_rest_is_installed(script, tmp_path, monkeypatch, capsys):
    target = tmp_path / "requirements.lock"
    script.main(str(SETUP / "requirements.lock"), str(target))
    assert target.read_text("utf-8") == LOCK
    assert capsys.readouterr().out == ""

    monkeypatch.setattr(script, "sys_tags", lambda: [Tag("cp311", "cp311", "musllinux_1_2_x86_64")])
    script.main(str(SETUP / "requirements.lock"), str(target))
    before, openvino, after = re.split(r"^(openvino==.*\n(?: .*\n)+)", LOCK, flags=re.MULTILINE)
    assert openvino.count("--hash") > 10
    assert target.read_text("utf-8") == before + after
    assert "all models run on llama.cpp" in capsys.readouterr().out


def test_what_reports_each_import_is_locked_nowhere():
    locks = {path.name: path.read_text("utf-8") for path in SETUP.glob("*.lock")}
    assert [name for name, lock in locks.items() if re.search(r"^openvino-telemetry==", lock, re.MULTILINE)] == []
