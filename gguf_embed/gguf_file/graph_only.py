"""Files that llama.cpp does not compute: their architectures are ours, or have modules that it ignores."""

from __future__ import annotations

from typing import Final

from gguf_embed.gguf_file.adapters import has_adapters
from gguf_embed.gguf_file.crisp_layout import CRISP_LAYOUT, is_unread
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.stored_tokenizer import has_stored_tokenizer

OWN_ARCHITECTURES: Final = frozenset(("mpnet", "distilbert", "gte", "deberta-v2"))
"""The values of `general.architecture` that only gguf-embed writes and reads. A classifier on DistilBERT has its own,
because llama.cpp would compute its head with tanh instead of ReLU."""

_DENSE: Final = "dense_2.weight"


def why_not_llama(header: GgufHeader) -> str | None:
    """Why llama.cpp cannot run the file, as a clause; None if nothing in the header is against it."""
    if header.get(CRISP_LAYOUT, bool) or is_unread(header.architecture, header.tensors):
        return "it does not read CrispEmbed's layout"
    if header.architecture in OWN_ARCHITECTURES:
        return f"it does not compute {header.architecture} models"
    if header.architecture == "t5encoder" and _DENSE in header.tensors:
        return "it does not compute the Dense module of a T5 encoder"
    if has_adapters(header):
        return "it does not compute the adapters in the file"
    if has_stored_tokenizer(header):
        return "it does not read a tokenizer.json"
    return None
