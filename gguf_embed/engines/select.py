"""Selects the engines that can run a file. Drivers are imported on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gguf_embed.config import ModelConfig
from gguf_embed.engines.base import ClosableCodec, EngineDriver
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.bm25_format import ARCHITECTURE as BM25_ARCHITECTURE
from gguf_embed.gguf_file.crisp_layout import CRISP_LAYOUT
from gguf_embed.gguf_file.header import GgufHeader, read_header
from gguf_embed.gguf_file.static_format import ARCHITECTURE as STATIC_ARCHITECTURE
from gguf_embed.gguf_file.stored_tokenizer import has_stored_tokenizer, read_stored_tokenizer
from gguf_embed.tokenization.tokenizer_json import TokenizerJsonCodec


def _static() -> EngineDriver:
    from gguf_embed.engines.static.driver import StaticDriver

    return StaticDriver()


def _bm25() -> EngineDriver:
    from gguf_embed.engines.bm25.driver import Bm25Driver

    return Bm25Driver()


def _openvino() -> EngineDriver:
    from gguf_embed.engines.openvino.driver import OpenVinoDriver

    return OpenVinoDriver()


def _llama() -> EngineDriver:
    from gguf_embed.engines.llama.driver import LlamaDriver

    return LlamaDriver()


@dataclass(frozen=True, slots=True)
class RegisteredEngine:
    """How to get an engine's driver, and when to ask it."""

    make: Callable[[], EngineDriver]  # imports and creates it
    architectures: frozenset[str] | None = None  # the only ones that it runs; None: it is asked
    only: bool = False  # no other engine runs these architectures, whichever is configured


_ENGINES: dict[str, RegisteredEngine] = {
    "static": RegisteredEngine(_static, frozenset({STATIC_ARCHITECTURE}), only=True),
    "bm25": RegisteredEngine(_bm25, frozenset({BM25_ARCHITECTURE}), only=True),
    "openvino": RegisteredEngine(_openvino),
    "llama": RegisteredEngine(_llama),
}
"""By name, the preferred ones first."""

_BUILT_IN = _ENGINES


@dataclass(slots=True)
class Candidates:
    """The engines that can run a file as configured, preferred ones first, and why others cannot."""

    header: GgufHeader
    config: ModelConfig
    refusals: dict[str, str] = field(default_factory=dict)  # reasons by name, of the engines that were asked

    def drivers(self) -> Iterator[EngineDriver]:
        """Asks one engine after another, so that the first is found without importing the others."""
        configured = self.config.compute.engine
        for name, engine in _ENGINES.items():
            if engine.architectures is not None and self.header.architecture not in engine.architectures:
                continue
            if configured not in ("auto", name) and not engine.only:
                continue
            driver = engine.make()
            reason = driver.refusal(self.header, self.config)
            if reason is None:
                yield driver
            else:
                self.refusals[name] = reason
            if engine.only:
                return

    def first(self) -> EngineDriver:
        """Raises `ModelFileError` with the reason of each engine if none accepts the file."""
        for driver in self.drivers():
            return driver
        listed = "; ".join(f"{name}: {reason}" for name, reason in self.refusals.items())
        problem = listed or f"no engine {self.config.compute.engine!r} runs {self.header.architecture} models"
        raise ModelFileError(f"{self.header.path.name} cannot be run: {problem}")


def isolated_driver() -> EngineDriver:
    """The driver that runs another engine in a process of its own, for one load."""
    from gguf_embed.engines.isolated.driver import IsolatedDriver

    return IsolatedDriver()


def select_driver(header: GgufHeader, config: ModelConfig) -> EngineDriver:
    """The driver of the preferred engine for this file. Raises `ModelFileError` if there is none."""
    if config.isolate:
        return isolated_driver()
    return Candidates(header, config).first()


def supports_gpu() -> bool:
    """Whether weights can be put on a GPU of this machine. Only llama.cpp can do that.

    No driver is imported, and llama.cpp itself only if its build may have a GPU.
    """
    from gguf_embed.engines.llama import gpu_build

    return gpu_build.supports_gpu()


def open_codec(path: Path) -> ClosableCodec:
    """Load a file's vocabulary without its weights, with llama.cpp if the file has no tokenizer of its own.

    Raises `ModelFileError`.
    """
    header = read_header(path)
    if has_stored_tokenizer(header):
        return open_stored_tokenizer(header)
    if header.get(CRISP_LAYOUT, bool):
        raise ModelFileError(f"{path}: llama.cpp cannot read its vocabulary, because it is in CrispEmbed's layout")
    from gguf_embed.engines.llama import codec

    return codec.open_codec(path)


def open_stored_tokenizer(header: GgufHeader) -> ClosableCodec:
    """The tokenizer that the file contains. Raises `ModelFileError`."""
    stored = read_stored_tokenizer(header)
    try:
        codec = TokenizerJsonCodec(stored.source, stored.vocabulary)
    except ModelFileError as error:
        raise ModelFileError(f"{header.path}: {error.message}") from error
    return ClosableCodec(codec, lambda: None, exact=codec)


def has_other_engines() -> bool:
    """Whether engines are registered that no other process has."""
    return _ENGINES is not _BUILT_IN


@contextmanager
def registered(
    name: str, make: Callable[[], EngineDriver], architectures: frozenset[str] | None = None
) -> Iterator[None]:
    """Register another engine while the block runs. It is asked before the others. For tests and external engines."""
    global _ENGINES
    before = _ENGINES
    _ENGINES = {name: RegisteredEngine(make, architectures), **before}
    try:
        yield
    finally:
        _ENGINES = before
