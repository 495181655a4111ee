"""The engine from Python: in this process, or over HTTP. `from gguf_embed import Embedder, Client`."""
