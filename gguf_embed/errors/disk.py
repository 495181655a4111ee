"""What an `OSError` says about the disk that was to be written."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from gguf_embed.errors.base import WayOut
from gguf_embed.errors.failures import ModelFileError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: OSError) -> bool:
    """Whether the disk has no room left, or the user has used up their quota of it."""
    return error.errno in _FULL


def refuses_writing(error: OSError) -> bool:
    """Whether the disk is full or read-only, or takes no file of this size. No other operation fails like this."""
    return is_full(error) or error.errno in (errno.EROFS, errno.EFBIG)


def cannot_be_written(what: str, error: OSError, ways_out: Sequence[WayOut] = ()) -> ModelFileError:
    """`what`: the file or stream, as a person knows it. Free space comes before these ways out, if it would help."""
    free = [WayOut.FREE_SPACE] if is_full(error) else []
    return ModelFileError(f"{what} cannot be written ({error.strerror or error})", [*free, *ways_out])
