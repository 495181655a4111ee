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
    """Whether the disk is full or read-only, or takes no file of this size.

    The numbers are those of files that are written. Calls that write none have some of them too, such as ENOSPC if
    inotify has no watches left; this package makes none of these.
    """
    return is_full(error) or error.errno in (errno.EROFS, errno.EFBIG)


def cannot_be_written(what: str, error: OSError, ways_out: Sequence[WayOut] = ()) -> ModelFileError:
    """`what`: the file or stream, as a person knows it. What the error itself asks for comes before these ways out."""
    own = [WayOut.FREE_SPACE] if is_full(error) else [WayOut.LARGER_FILES] if error.errno == errno.EFBIG else []
    return ModelFileError(f"{what} cannot be written ({error.strerror or error})", [*own, *ways_out])
