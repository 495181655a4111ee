"""A written file appears complete or not at all, and a failure names the way out."""

from __future__ import annotations

import errno

import pytest

from gguf_embed.errors import ModelFileError, WayOut
from gguf_embed.gguf_file.atomic_write import atomic_write


def test_the_file_appears_when_the_block_is_done(tmp_path):
    output = tmp_path / "new folder" / "m.gguf"
    with atomic_write(output) as temporary:
        temporary.write_bytes(b"whole")
        assert not output.exists()
    assert output.read_bytes() == b"whole"
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize("error", [ValueError("bad weights"), KeyboardInterrupt()])
def test_an_exception_leaves_the_earlier_file_and_nothing_else(tmp_path, error):
    output = tmp_path / "m.gguf"
    output.write_bytes(b"earlier")
    with pytest.raises(type(error)), atomic_write(output) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise error
    assert output.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [output]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    output = tmp_path / "m.gguf"
    with atomic_write(output) as first, atomic_write(output) as second:
        assert first != second
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert output.read_bytes() == b"first"  # the outer block ends last
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(("code", "is_full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EACCES, False)])
def test_an_error_of_the_system_names_the_file_and_has_ways_out(tmp_path, code, is_full):
    output = tmp_path / "m.gguf"
    with pytest.raises(ModelFileError) as caught, atomic_write(output, ways_out=[WayOut.OTHER_CACHE]):
        raise OSError(code, "no")
    assert caught.value.message.startswith(str(output))
    assert caught.value.ways_out == ((WayOut.FREE_SPACE,) if is_full else ()) + (WayOut.OTHER_CACHE,)


def test_a_missing_folder_can_be_an_error(tmp_path):
    output = tmp_path / "typo" / "m.gguf"
    with pytest.raises(ModelFileError, match="cannot be written"), atomic_write(output, make_folder=False) as temporary:
        temporary.write_bytes(b"whole")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelFileError, match="cannot be written"), atomic_write(tmp_path / "file" / "m.gguf"):
        pass
