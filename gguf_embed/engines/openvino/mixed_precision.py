"""Which layers keep float32 where BF16 in all of them changes the results too much. Pure.

How much the rounding in a layer matters depends on the model. Measured with random weights, the worst cosine of the
samples to float32: ModernBERT of 22 layers, with norms before the blocks, 0.99992; with the first layer in float32
0.99995, with the first 3 0.99996, with the last 11 0.99993. BERT of 24 layers, with norms after the blocks: 0.99993;
with the first 6 in float32 0.99991, with the last 6 0.99995. That more layers at the better end help is a rule of
thumb; whatever is chosen was compared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from gguf_embed.engines.openvino.agreement import Agreement

Layers = tuple[int, ...]
"""Numbers of layers, from 0, that follow one another."""

Found = tuple[Layers, Agreement]

MIN_LAYERS = 4
"""With fewer, one layer is more than a quarter of them, and most of the speed would be lost."""


def fewest_layers(n_layer: int, compare: Callable[[Layers], Agreement]) -> Found | None:
    """The layers to keep in float32, so that `compare` finds the results good; None if half of them are not enough,
    or if there are fewer than `MIN_LAYERS`.

    They are the first or the last ones, in eighths of all. Calls `compare` up to five times, as often as needed: with
    an eighth at each end, and at the better end with a half, a quarter, and three eighths. Which end is better is
    decided by the mean of the samples: the worst one often is another with other layers.
    """
    if n_layer < MIN_LAYERS:
        return None

    @cache
    def results(layers: Layers) -> Agreement:
        return compare(layers)

    def first(eighths: int) -> Found:
        layers = tuple(range(_n_kept(n_layer, eighths)))
        return layers, results(layers)

    def last(eighths: int) -> Found:
        layers = tuple(range(n_layer - _n_kept(n_layer, eighths), n_layer))
        return layers, results(layers)

    eighth, at_end = first(1), first
    if not _is_good(eighth) and last(1)[1].mean_deviation < eighth[1].mean_deviation:
        eighth, at_end = last(1), last
    if _is_good(eighth):
        return eighth
    if not _is_good(at_end(4)):
        return None
    return next(found for found in map(at_end, (2, 3, 4)) if _is_good(found))


def _is_good(found: Found) -> bool:
    return found[1].is_good


def _n_kept(n_layer: int, eighths: int) -> int:
    """At least one, and at least a half for four eighths; otherwise rounded down."""
    return n_layer - n_layer // 2 if eighths == 4 else max(1, n_layer * eighths // 8)


def layers_in_words(layers: Layers) -> str:
    """E.g. "layers 1-3"."""
    numbers = f"{layers[0] + 1}-{layers[-1] + 1}" if len(layers) > 1 else f"{layers[0] + 1}"
    return f"layer{'s' if len(layers) > 1 else ''} {numbers}"


def kept_in_words(layers: Layers) -> str:
    """How a sentence about BF16 goes on: ", with layers 1-3 in float32", or "" if there are none."""
    return f", with {layers_in_words(layers)} in float32" if layers else ""


def type_of_weights(precision: str, layers: Layers) -> str:
    """E.g. "F32", or "BF16, layers 1-3 F32"."""
    return f"{precision.upper()}, {layers_in_words(layers)} F32" if layers else precision.upper()
