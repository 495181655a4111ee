"""Selects the engines that can run a file. Drivers are imported on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
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


def _in(folder: str, driver: str) -> Callable[[], EngineDriver]:
    """What imports an engine's folder and creates its driver."""

    def make() -> EngineDriver:
        created: EngineDriver = getattr(import_module(f"gguf_embed.engines.{folder}.driver"), driver)()
        return created

    return make


@dataclass(frozen=True, slots=True)
class RegisteredEngine:
    """How to get an engine's driver, and when to ask it."""

    make: Callable[[], EngineDriver]  # imports and creates it
    architectures: frozenset[str] | None = None  # the only ones that it runs; None: it is asked
    only: bool = False  # no other engine runs these architectures, whichever is configured
    title: str = ""  # for people; "": its name
    suits: str = ""  # what it is for, in the help of --engine
    package: str = ""  # whose version decides how fast and exact it is; "": our own
    on_gpu: bool = False  # whether it can use one


_ENGINES: dict[str, RegisteredEngine] = {
    "static": RegisteredEngine(_in("static", "StaticDriver"), frozenset({STATIC_ARCHITECTURE}), only=True),
    "bm25": RegisteredEngine(_in("bm25", "Bm25Driver"), frozenset({BM25_ARCHITECTURE}), only=True),
    "openvino": RegisteredEngine(
        _in("openvino", "OpenVinoDriver"), title="OpenVINO", suits="encoders as whole graphs", package="openvino"
    ),
    "llama": RegisteredEngine(
        _in("llama", "LlamaDriver"),
        title="llama.cpp",
        suits="llama.cpp, for all models and for GPUs",
        package="llama-cpp-python",
        on_gpu=True,
    ),
}
"""By name, the preferred ones first. Everything that names engines reads it; nothing of their folders is imported."""

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


def engine_names() -> tuple[str, ...]:
    """The engines that can be asked for. The others run architectures of their own, whichever is asked for."""
    return tuple(name for name, engine in _ENGINES.items() if not engine.only)


def compared_names() -> tuple[str, ...]:
    """Those that decide about each file whether they run it, so that several may."""
    return tuple(name for name, engine in _ENGINES.items() if engine.architectures is None)


def engine_title(name: str) -> str:
    """What people call an engine: "llama.cpp"."""
    return (_ENGINES[name].title if name in _ENGINES else "") or name


def engines_in_words() -> str:
    """What each engine that can be asked for is for."""
    return "; ".join(f"{name}: {_ENGINES[name].suits}" for name in engine_names() if _ENGINES[name].suits)


def engine_packages() -> tuple[str, ...]:
    """The packages that the engines come from, by their names on PyPI, in alphabetical order."""
    return tuple(sorted({engine.package for engine in _ENGINES.values() if engine.package}))


def may_use_gpu(name: str) -> bool:
    """Whether the engine that is asked for, or with "auto" any, can use a GPU."""
    return any(engine.on_gpu for other, engine in _ENGINES.items() if name in ("auto", other))


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
