"""The layers below `sys.stdout`: what fails, what arrives and when, and the numbers of descriptors."""

from __future__ import annotations

import errno
import io
import os
import select
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gguf_embed.cli.standard_output import ReaderGone, StandardOutput, Use
from gguf_embed.errors import EmbedError, ModelFileError
from tests.server_process import command

PYTHON = command()[0]
BEGIN = """\
import os, sys
from gguf_embed.cli.standard_output import Use, standard_output
from gguf_embed.errors import EmbedError
"""


def start(program: str, *flags: str, stdout: int = subprocess.PIPE, **environment: str) -> subprocess.Popen[bytes]:
    """Python with a program that uses the stream, and pipes for what is not named."""
    return subprocess.Popen(
        [PYTHON, *flags, "-c", BEGIN + program],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


class Broken(io.RawIOBase):
    """A stream that fails so."""

    def __init__(self, number: int) -> None:
        self.number, self.n_writes = number, 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.n_writes += 1
        raise OSError(self.number, os.strerror(self.number))


def test_after_a_failure_nothing_is_written():
    raw = Broken(errno.EIO)
    output = StandardOutput(raw)
    with pytest.raises(ModelFileError, match=r"^standard output cannot be written \(Input/output error\)$"):
        output.write(b"line")
    assert (output.write(b"line"), raw.n_writes) == (4, 1)


def test_a_report_is_dropped_and_its_failure_kept():
    output = StandardOutput(Broken(errno.EPIPE))
    output.use = Use.REPORT
    assert output.write(b"line") == 4
    assert isinstance(output.failure, ReaderGone)


class Filling(io.RawIOBase):
    """A stream whose writes fail so, one after the other; 0: it takes that one, or `most` bytes of it."""

    def __init__(self, numbers: Sequence[int], most: int = 100) -> None:
        self.numbers, self.most, self.taken = list(numbers), most, b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if number := self.numbers.pop(0):
            raise OSError(number, os.strerror(number))
        part = bytes(data[: self.most])
        self.taken += part
        return len(part)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_report_is_written_again_when_the_reason_has_passed(number):
    raw, warnings = Filling([number, number, 0, number, 0]), list[EmbedError]()
    output = StandardOutput(raw)
    output.use, output.warn = Use.REPORT, warnings.append
    assert [output.write(line) for line in (b"1\n", b"2\n", b"3\n", b"4\n", b"5\n")] == [2] * 5
    assert (raw.taken, warnings) == (b"3\n5\n", [output.failure])


def test_a_line_of_which_only_a_part_is_written_ends_before_the_next():
    raw = Filling([0, errno.ENOSPC, errno.ENOSPC, 0, 0, 0], most=4)
    output = StandardOutput(raw)
    output.use = Use.REPORT
    assert (output.write(b"first\n"), output.write(b"t\n"), output.write(b"lost\n")) == (4, 2, 5)
    assert (output.write(b"now\n"), output.write(b"end\n")) == (4, 4)
    assert raw.taken == b"firs\nnow\nend\n"


def test_a_reason_that_cannot_pass_ends_a_report():
    raw, warnings = Filling([errno.EROFS, 0]), list[EmbedError]()
    output = StandardOutput(raw)
    output.use, output.warn = Use.REPORT, warnings.append
    assert [output.write(line) for line in (b"1", b"2")] == [1, 1]
    assert (raw.taken, warnings) == (b"", [output.failure])


@pytest.mark.process
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_report_with_missing_lines_exits_with_1_and_warns_once(tmp_path):
    program = """
with standard_output(lambda failure: print(failure, file=sys.stderr)) as output:
    output.use = Use.REPORT
    print("lost", flush=True)
    print("lost too", flush=True)
    os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), 1)
    print("line", flush=True)
"""
    path = tmp_path / "log"
    with open("/dev/full", "wb", 0) as full:
        done = subprocess.run([PYTHON, "-c", BEGIN + program, path], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, path.read_text()) == (1, "line\n")
    assert done.stderr == b"standard output cannot be written (No space left on device)\n"


@pytest.mark.process
@pytest.mark.parametrize("words", ['write("ab")', 'buffer.write(b"ab")'])
@pytest.mark.parametrize(("flags", "environment"), [(["-u"], {}), ([], {"PYTHONUNBUFFERED": "1"})])
def test_unbuffered_all_arrives_at_once(words, flags, environment):
    program = f"with standard_output(print):\n sys.stdout.{words}\n sys.stdin.read()"
    with start(program, *flags, **environment) as process:
        ready, _, _ = select.select([process.stdout], [], [], 30)
        assert ready, "nothing arrived while the process waited"
        assert os.read(process.stdout.fileno(), 9) == b"ab"
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.process
def test_unbuffered_a_part_that_is_not_taken_is_an_error(tmp_path):
    program = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (5, 5))
try:
    with standard_output(print):
        sys.stdout.buffer.write(b"0123456789")
except EmbedError as error:
    print(error, file=sys.stderr)
"""
    with (tmp_path / "out").open("wb") as file, start(program, "-u", stdout=file.fileno()) as process:
        _, said = process.communicate(timeout=60)
    assert said == b"standard output cannot be written (File too large)\n"
    assert (tmp_path / "out").read_bytes() == b"01234"


@pytest.mark.process
@pytest.mark.parametrize(
    ("encoding", "written"),
    [("latin-1", b"\xfc \\u2026 \\ud83d\\ude00 \\udce9\n"), ("utf-8", "ü … 😀 \\udce9\n".encode())],
)
def test_characters_that_the_encoding_lacks_are_escaped(encoding, written):
    program = 'with standard_output(print): print("\\xfc \\u2026 \\U0001f600 \\udce9")'
    with start(program, PYTHONIOENCODING=encoding) as process:
        assert process.communicate(timeout=60) == (written, b"")
    assert process.returncode == 0


@pytest.mark.process
@pytest.mark.parametrize("number", [1, 2])
def test_no_file_gets_the_number_of_a_closed_descriptor(tmp_path, number):
    """C libraries print into whatever has it."""
    program = (
        f"import os; os.close({number}); from gguf_embed.cli.standard_output import keep_standard_descriptors as keep; "
        "keep(); print(os.open('/dev/null', os.O_RDONLY), file=open(3 - NUMBER, 'w'))"
    ).replace("NUMBER", str(number))
    done = subprocess.run([command()[0], "-c", program], capture_output=True, text=True, timeout=60)
    assert int(done.stdout + done.stderr) > 2


@pytest.mark.process
@pytest.mark.parametrize("number", [0, 1, 2])
def test_no_file_of_a_child_gets_the_number_of_a_closed_descriptor(tmp_path, number):
    path = str(tmp_path / "number")
    child = f"import os; n = os.open('/dev/null', os.O_RDONLY); open({path!r}, 'w').write(str(n))"
    program = (
        f"import os, subprocess, sys; os.close({number}); "
        "from gguf_embed.cli.standard_output import keep_standard_descriptors as keep; "
        f"keep(); subprocess.run([sys.executable, '-c', {child!r}])"
    )
    subprocess.run([PYTHON, "-c", program], timeout=60, check=True)
    assert int((tmp_path / "number").read_text()) > 2
