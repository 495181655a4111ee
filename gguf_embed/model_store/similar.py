"""Names that almost fit, and the error for one that nothing has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gguf_embed.errors import ModelNotFound
from gguf_embed.model_store.names import model_key, shown

_N_SHOWN = 3
_MIN_RATIO = 0.75


def similar_names(text: str, names: Iterable[str]) -> list[str]:
    """Up to three of the names: those that contain the text, the shortest first, else those spelled almost like it.

    Names with a tag are only meant by a text with one.
    """
    from difflib import get_close_matches  # 3 ms, which only an error needs

    key = model_key(text)
    by_key = {model_key(name): name for name in names if ":" in key or ":" not in model_key(name)}
    if not key:
        return []
    found = sorted((other for other in by_key if key in other), key=len)
    found = found or get_close_matches(key, by_key, _N_SHOWN, _MIN_RATIO)
    return [by_key[other] for other in found[:_N_SHOWN]]


def did_you_mean(names: Sequence[str]) -> str:
    """ "; did you mean a, b or c?"; nothing without names."""
    if not names:
        return ""
    *first, last = names
    return f"; did you mean {', '.join(first)} or {last}?" if first else f"; did you mean {last}?"


def unknown_model(text: str, names: Iterable[str]) -> ModelNotFound:
    """The error for a name that no model has. `names`: those that could be meant."""
    guess = did_you_mean(similar_names(text, names))
    return ModelNotFound(
        f"no model is called {shown(text)}{guess or ';'} `gguf-embed list` shows the models on this machine, "
        "`gguf-embed list --catalog` those that can be pulled; any other GGUF on the hub is ORG/REPO"
    )
