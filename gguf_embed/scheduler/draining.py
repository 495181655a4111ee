"""Which requests a shutdown still answers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

_RequestT = TypeVar("_RequestT")

SURE = 0.8
"""The part of the measured speed that is counted on."""


def requests_too_many(tokens: Mapping[_RequestT, int], tokens_per_s: float, within_s: float) -> list[_RequestT]:
    """Those that cannot be computed in time. `tokens`: how many of each request wait.

    The smallest are computed, so that as many as possible are answered; of equal ones, the first.
    """
    left = SURE * tokens_per_s * within_s
    too_many = []
    for request, n_tokens in sorted(tokens.items(), key=lambda item: item[1]):
        left -= n_tokens
        if left < 0:
            too_many.append(request)
    return too_many
