"""Durations are read as Go reads them."""

import math

import pytest

from gguf_embed.durations import keep_alive_seconds, parse_go_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300),
        ("1h30m", 5400),
        ("300ms", 0.3),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("10µs", 1e-5),
        ("7ns", 7e-9),
        ("0", 0),
        ("-1m", -60),
        ("+2s", 2),
        ("-1h2m3s", -3723),
    ],
)
def test_a_go_duration_is_seconds(text, seconds):
    assert parse_go_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "5 m", "m", "1d", "5m ", "--1s", "1e3s", "five", "-"])
def test_durations_that_go_refuses_are_refused(text):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_go_duration(text)


@pytest.mark.parametrize(("given", "kept"), [(-1.0, math.inf), (0.0, 0.0), (300.0, 300.0)])
def test_a_negative_keep_alive_means_forever(given, kept):
    assert keep_alive_seconds(given) == kept
