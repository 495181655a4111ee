"""gguf-embed: serve GGUF embedding models over OpenAI's and llama.cpp's APIs."""

__version__ = "0.1.0"
