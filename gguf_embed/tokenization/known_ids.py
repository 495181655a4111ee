"""Whether token ids of a request are in the model's vocabulary."""

from __future__ import annotations

from collections.abc import Iterable

from gguf_embed.errors import InvalidRequest


def require_known(tokens: Iterable[int], n_vocab: int) -> None:
    """Raises `InvalidRequest` for an id that the vocabulary does not have: llama.cpp would end the process."""
    for token in tokens:
        if not 0 <= token < n_vocab:
            raise InvalidRequest(f"token id {token} is not in the model's vocabulary of {n_vocab}", "tokens")
