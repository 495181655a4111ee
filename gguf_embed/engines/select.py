"""Selects the engine for a file: the first whose driver accepts it. Drivers are imported on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gguf_embed.engines.base import EngineDriver
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.static_format import ARCHITECTURE as STATIC_ARCHITECTURE


def _static() -> EngineDriver:
    from gguf_embed.engines.static.driver import StaticDriver

    return StaticDriver()


def _llama() -> EngineDriver:
    from gguf_embed.engines.llama.driver import LlamaDriver

    return LlamaDriver()


Drivers = dict[str, tuple[Callable[[], EngineDriver], frozenset[str] | None]]
"""By name: a function that imports and creates a driver, and the architectures to ask it about; None: all."""

_DRIVERS: Drivers = {
    "static": (_static, frozenset({STATIC_ARCHITECTURE})),
    "llama": (_llama, None),
}


def select_driver(header: GgufHeader, engine: str = "auto") -> EngineDriver:
    """The driver of the engine for this file. `engine` names it, or is "auto".

    Raises `ModelFileError` with the reason of each engine if none accepts the file.
    """
    reasons: list[str] = []
    for name, (make, architectures) in _DRIVERS.items():
        if engine not in ("auto", name) or (architectures is not None and header.architecture not in architectures):
            continue
        driver = make()
        reason = driver.refusal(header)
        if reason is None:
            return driver
        reasons.append(f"{name}: {reason}")
    listed = "; ".join(reasons) or f"no engine {engine!r} runs {header.architecture} models"
    raise ModelFileError(f"{header.path.name} cannot be run: {listed}")


def supports_gpu() -> bool:
    """Whether weights can be put on a GPU of this machine. Only llama.cpp can do that; no other driver is imported."""
    return _llama().supports_gpu()


@contextmanager
def registered(
    name: str, make: Callable[[], EngineDriver], architectures: frozenset[str] | None = None
) -> Iterator[None]:
    """Register another engine while the block runs. It is asked before the others. For tests and external engines."""
    global _DRIVERS
    before = _DRIVERS
    _DRIVERS = {name: (make, architectures), **before}
    try:
        yield
    finally:
        _DRIVERS = before
