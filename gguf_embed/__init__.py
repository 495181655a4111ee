"""gguf-embed: serve GGUF embedding models over OpenAI's and llama.cpp's APIs."""

import logging

logging.getLogger(__name__).addHandler(logging.NullHandler())  # a library is silent until its user wants a log

__version__ = "0.2.0"
