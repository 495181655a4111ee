"""The digest of all of a model's content."""

from __future__ import annotations

import pytest

from gguf_embed.gguf_file.digest import content_digest


def test_every_byte_and_the_cut_between_parts_count(tmp_path):
    def digest(*contents: bytes) -> str:
        parts = [tmp_path / f"{number}.gguf" for number in range(len(contents))]
        for part, content in zip(parts, contents, strict=True):
            part.write_bytes(content)
        return content_digest(parts)

    cases = [(b"",), (b"a",), (b"b",), (b"ab",), (b"a", b"b"), (b"b", b"a"), (b"ab", b""), (b"", b"ab")]
    assert len({digest(*case) for case in cases}) == len(cases)
    assert digest(b"ab") == digest(b"ab")


def test_a_missing_part_is_an_error(tmp_path):
    with pytest.raises(OSError, match=r"0\.gguf"):
        content_digest([tmp_path / "0.gguf"])
