"""Texts that are written from right to left."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.ui

HEBREW = "שלום עולם, מה שלומך?"


def test_each_text_has_its_own_direction(page):
    page.ask(HEBREW)
    page.compute(HEBREW, "hello world", "a red dog")
    direction = "return getComputedStyle(document.querySelector(arguments[0])).direction"

    def direction_of(css: str) -> str:
        return page.chrome.execute_script(direction, css)

    assert direction_of("#query") == "rtl"
    assert direction_of("#ranking li[data-index='0'] .said p") == "rtl"
    assert direction_of("#ranking li[data-index='1'] .said p") == "ltr"
    assert direction_of("#tokens .text:nth-child(1) .tokens") == "rtl"
    assert direction_of("#tokens .text:nth-child(2) .tokens") == "ltr"
    assert direction_of("#tokens .text:nth-child(1) h3 bdi") == "rtl"
    assert direction_of("#tokens .text:nth-child(1) h3") == "ltr"


def test_the_tokens_of_such_a_text_run_from_right_to_left(page):
    page.compute(HEBREW)
    places = [chip.rect["x"] for chip in page.all("#tokens .token")]
    assert places == sorted(places, reverse=True)


def test_sentences_around_such_a_text_keep_their_order(page):
    page.compute(HEBREW + " " + "שלום " * 5, "hello")
    page.find("#heat td[data-row='0'][data-column='1']").click()
    assert page.find("#readout").text.count("\u2068") == page.find("#readout").text.count("\u2069") == 2
