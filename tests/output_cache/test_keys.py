"""What differs has another key, and nothing runs into its neighbor."""

from __future__ import annotations

from itertools import product

from gguf_embed.output_cache.keys import text_keys
from gguf_embed.types import OutputSpec, Pooling
from tests.scheduler.builders import MEAN, SCORE

TEXTS = [[1], [1, 1], [1, 2], [2, 1], [256], [1, 0], [0, 1], [2**20], [2**40]]
OUTPUTS = [MEAN, SCORE, OutputSpec.of(Pooling.CLS), OutputSpec.of(Pooling.LAST)]


def test_all_combinations_have_keys_of_their_own():
    asked = list(product(["m", "m2", "", "m'"], ["", "s", "m"], OUTPUTS))
    keys = [key for model, scope, output in asked for key in text_keys(model, scope, output, TEXTS)]
    assert len(set(keys)) == len(asked) * len(TEXTS)


def test_a_key_depends_on_nothing_else():
    alone = [text_keys("m", "s", MEAN, [text])[0] for text in TEXTS]
    assert text_keys("m", "s", MEAN, TEXTS) == alone
    assert text_keys("m", "s", MEAN, list(map(tuple, TEXTS))) == alone
