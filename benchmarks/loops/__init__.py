"""Loops over texts in one process: gguf-embed's own, and those that a user would write with other libraries.

Each runs in a process of its own (`worker.py`), some in another interpreter. The modules that those import must not
import gguf_embed.
"""
