"""gguf-embed: GGUF embedding models, over OpenAI's and llama.cpp's APIs or in a Python program."""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; importing it takes 10 ms, in which Ctrl-C would print a traceback
if TYPE_CHECKING:
    from gguf_embed.embedder.client import Client as Client
    from gguf_embed.embedder.embedder import Embedder as Embedder
    from gguf_embed.ingest.ray_embedder import RayEmbedder as RayEmbedder
    from gguf_embed.types import Muvera as Muvera

__version__ = "0.2.0"
__all__ = ["Client", "Embedder", "Muvera", "RayEmbedder", "__version__"]

_HOMES = {
    "Client": "gguf_embed.embedder.client",
    "Embedder": "gguf_embed.embedder.embedder",
    "Muvera": "gguf_embed.types",
    "RayEmbedder": "gguf_embed.ingest.ray_embedder",
}


def __getattr__(name: str) -> object:
    """Imported when they are used: they take half a second, which the command line must not wait for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
