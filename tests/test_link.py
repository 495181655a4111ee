"""`make link` makes the command one of every folder, says what is missing, and touches nothing that it did not make."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

SCRIPT = Path(__file__).parent.parent / ".ci" / "setup" / "link"


@pytest.fixture
def command(tmp_path) -> Path:
    path = tmp_path / "project" / "gguf-embed"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\necho here\n")
    path.chmod(0o755)
    return path


def run(
    *arguments: str | Path, path: str = os.defpath, home: Path = Path("/nowhere")
) -> subprocess.CompletedProcess[str]:
    words = ["sh", str(SCRIPT), *map(str, arguments)]
    environ = {"PATH": path, "HOME": str(home)}
    return subprocess.run(words, capture_output=True, text=True, timeout=20, env=environ)


def test_the_command_runs_from_the_folder(command, tmp_path):
    folder = tmp_path / "home" / "bin"
    done = run(command, folder, path=f"{os.defpath}:{folder}")
    assert done.stdout == f"{folder}/gguf-embed runs {command}. To undo this: make unlink BIN={folder}\n"
    assert subprocess.run([folder / "gguf-embed"], capture_output=True, text=True).stdout == "here\n"
    assert run(command, folder).returncode == 0, "a second time is no error"


def test_undoing_the_usual_folder_needs_no_name(command, tmp_path):
    folder = tmp_path / ".local" / "bin"
    done = run(command, folder, path=f"{os.defpath}:{folder}", home=tmp_path)
    assert done.stdout.endswith("To undo this: make unlink\n")


def test_a_folder_that_the_shell_does_not_search_is_named_with_the_line_that_adds_it(command, tmp_path):
    done = run(command, tmp_path / "bin")
    assert f'  export PATH="{tmp_path}/bin:$PATH"\n' in done.stdout


def test_another_command_of_this_name_stays(command, tmp_path):
    other = tmp_path / "bin" / "gguf-embed"
    other.parent.mkdir()
    other.write_text("mine")
    for arguments in [(command, other.parent), ("--undo", command, other.parent)]:
        done = run(*arguments)
        assert other.read_text() == "mine"
        assert str(other) in done.stdout + done.stderr
    assert run(command, other.parent).returncode == 1


def test_undo_removes_the_link(command, tmp_path):
    run(command, tmp_path / "bin")
    done = run("--undo", command, tmp_path / "bin")
    assert done.stdout == f"Removed {tmp_path}/bin/gguf-embed.\n"
    assert not (tmp_path / "bin" / "gguf-embed").is_symlink()
    assert command.exists()
    assert "nothing is removed" in run("--undo", command, tmp_path / "bin").stdout
