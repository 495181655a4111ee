"""What can be wrong with files and batches."""

from __future__ import annotations

from gguf_embed.errors import EmbedError, InvalidRequest, PayloadTooLarge, Unavailable


class NoSuchObject(EmbedError):
    """There is no file or batch with this id, or it belongs to another key."""

    kind = "no_such_object"

    def __init__(self, noun: str, given: str) -> None:
        shown = given[:80].encode("utf-8", "replace").decode()
        super().__init__(f"there is no {noun} {shown!r}: it was deleted, has expired, or belongs to another key")


class StorageFull(PayloadTooLarge):
    """The folder of batches has reached its limit, or its disk is full."""


class StorageFailed(Unavailable):
    """The folder of batches cannot be read or written, or belongs to another server."""


class InUse(InvalidRequest):
    """A file that a batch reads, which therefore cannot be deleted."""
