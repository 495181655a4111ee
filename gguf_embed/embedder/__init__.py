"""The engine from Python: in this process, or over HTTP. `from gguf_embed import Embedder, Client`."""

from __future__ import annotations

import logging

logging.getLogger("gguf_embed").addHandler(logging.NullHandler())  # a library is silent until its user wants a log
