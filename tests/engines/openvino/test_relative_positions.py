"""Distances get the buckets that the original packages give them."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_embed.engines.openvino.relative_positions import MAX_DISTANCE, deberta_rows, t5_buckets
from tests.convert.encoders.tiny_models import OWN

REACH = 400
DISTANCES = np.arange(-REACH, REACH + 1)  # the seen token's position minus the seeing one's


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    with np.load(OWN / "buckets.npz") as buckets:
        return dict(buckets)


def at_distances(values: np.ndarray) -> np.ndarray:
    reach = len(values) // 2
    return values[np.clip(DISTANCES, -reach, reach) + reach]


def test_t5_and_mpnet(stored):
    found = t5_buckets(32)
    assert len(found) == 2 * MAX_DISTANCE + 1
    np.testing.assert_array_equal(at_distances(found), stored["mpnet"])


@pytest.mark.parametrize(("name", "n_buckets", "max_distance"), [("deberta", 8, 64), ("deberta_v3", 256, 512)])
def test_deberta(stored, name, n_buckets, max_distance):
    found = at_distances(deberta_rows(n_buckets, max_distance))
    theirs = stored[name][::-1]  # where distances have the other sign
    np.testing.assert_array_equal(found, np.clip(theirs + n_buckets, 0, 2 * n_buckets - 1))


@pytest.mark.parametrize("n_buckets", [4, 6, 30, 64, 256])
def test_every_number_of_buckets_is_used_up_to_its_last(n_buckets):
    found = t5_buckets(n_buckets)
    assert (found.min(), found.max()) == (0, n_buckets - 1)
    assert found[0] == n_buckets // 2 - 1
