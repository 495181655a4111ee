"""Which layers are tried in float32, and which are chosen, with results that are scripted here."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from gguf_embed.engines.openvino.agreement import Agreement
from gguf_embed.engines.openvino.mixed_precision import (
    Layers,
    fewest_layers,
    kept_in_words,
    layers_in_words,
    type_of_weights,
)


@dataclass
class Results:
    """BF16 is off by 1 for each layer, more for the weighty ones, and good if it is off by no more than `allowed`."""

    n_layer: int
    allowed: float
    weighty: dict[int, float] = field(default_factory=dict)
    worst: dict[Layers, float] = field(default_factory=dict)  # where the worst sample is not as the mean
    tried: list[Layers] = field(default_factory=list)

    def compare(self, layers: Layers) -> Agreement:
        self.tried.append(layers)
        off = sum(self.weighty.get(layer, 1.0) for layer in range(self.n_layer) if layer not in layers)
        worst = self.worst.get(layers, off)
        return Agreement(1 - worst / self.allowed * 4.99e-5, 1.0, mean_deviation=off)

    def fewest(self) -> Layers | None:
        found = fewest_layers(self.n_layer, self.compare)
        assert found is None or found[1].is_good
        return None if found is None else found[0]


FIRST, LAST = {0: 30.0}, {23: 30.0}


@pytest.mark.parametrize(
    ("allowed", "weighty", "chosen", "n_tried"),
    [
        (21, FIRST, range(3), 1),
        (20, FIRST, range(6), 4),
        (18, FIRST, range(6), 4),
        (16, FIRST, range(9), 5),
        (13, FIRST, range(12), 5),
        (11, FIRST, None, 3),
        (21, LAST, range(21, 24), 2),
        (18, LAST, range(18, 24), 4),
        (15, LAST, range(15, 24), 5),
        (12, LAST, range(12, 24), 5),
        (11, LAST, None, 3),
        (15, {}, range(9), 5),
    ],
)
def test_the_fewest_layers_at_the_better_end_are_kept(allowed, weighty, chosen, n_tried):
    results = Results(24, allowed, weighty)
    assert results.fewest() == (None if chosen is None else tuple(chosen))
    assert len(results.tried) == n_tried


def test_the_end_is_chosen_by_the_mean_of_the_samples():
    results = Results(24, 18, dict(LAST), {(21, 22, 23): 60.0})
    assert results.fewest() == tuple(range(18, 24))


@pytest.mark.parametrize(("n_layer", "chosen"), [(12, 1), (22, 2), (24, 3)])
def test_an_eighth_is_rounded_down(n_layer, chosen):
    assert Results(n_layer, n_layer - 1, {0: 30.0}).fewest() == tuple(range(chosen))


@pytest.mark.parametrize("n_layer", [4, 6, 7])
def test_small_models_try_each_selection_once(n_layer):
    results = Results(n_layer, n_layer / 2)
    assert results.fewest() == tuple(range(n_layer - n_layer // 2))
    assert len(set(results.tried)) == len(results.tried)
    assert all(0 < len(layers) <= (n_layer + 1) // 2 for layers in results.tried)


@pytest.mark.parametrize("n_layer", [1, 2, 3])
def test_nothing_is_tried_with_few_layers(n_layer):
    results = Results(n_layer, n_layer)
    assert results.fewest() is None
    assert results.tried == []


@pytest.mark.parametrize(("layers", "words"), [((0,), "layer 1"), ((18, 19, 20), "layers 19-21")])
def test_layers_in_words(layers, words):
    assert layers_in_words(layers) == words
    assert kept_in_words(layers) == f", with {words} in float32"
    assert type_of_weights("bf16", layers) == f"BF16, {words} F32"


def test_no_layers_need_no_words():
    assert (kept_in_words(()), type_of_weights("f32", ())) == ("", "F32")
