"""OpenVINO's own errors as ours. Imports nothing of it, because a broken installation fails on being imported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from gguf_embed.errors import EngineFailure

_SOURCE_PLACE = re.compile(r"Exception from \S+:\d+:?| failed at \S+:\d+:?")


@contextmanager
def import_errors() -> Iterator[None]:
    """Turn whatever a broken installation raises on being imported into an `EngineFailure`."""
    try:
        yield
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise EngineFailure(f"the package openvino cannot be imported: {reason_of(error)}") from error


@contextmanager
def openvino_errors(what: str) -> Iterator[None]:
    """Turn an error of OpenVINO, which is not about the file, into an `EngineFailure` that begins with `what`."""
    try:
        yield
    except MemoryError as error:
        raise EngineFailure(f"{what}: there is not enough memory") from error
    except RuntimeError as error:
        raise EngineFailure(f"{what}: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """What OpenVINO says, in one line without the places in its source code."""
    lines = [_SOURCE_PLACE.sub("", line).strip() for line in str(error).splitlines()]
    return "; ".join(line for line in lines if line) or "no reason given"
