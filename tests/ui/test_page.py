"""GET / in a real browser: what it shows, and that it can be used."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gguf_embed.server.docs.page.page import read_part
from tests.ui.browser import PHONE, Browser

pytestmark = pytest.mark.ui

TEXTS = ("the cat sat on the mat", "a red dog", "hello world")
EIGHT = tuple(f"hello {n}" for n in range(8))


def test_three_texts_show_the_cosines_of_their_vectors(page, tiny_server):
    page.compute(*TEXTS)
    vectors = tiny_server.embed(TEXTS)
    order = [int(row.split()[0]) - 1 for row in page.texts("#heat tbody th")]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(page.heat(), (vectors @ vectors.T)[order][:, order], atol=0.0051)
    assert len(page.all("#map circle")) == 3
    shown = dict(zip(page.texts("#numbers dt"), page.texts("#numbers dd"), strict=True))
    assert (shown["texts"], shown["dimensions"]) == ("3", "32")


def test_the_timings_add_up(page):
    page.compute(*TEXTS)
    shown = dict(zip(page.texts("#numbers dt"), page.texts("#numbers dd"), strict=True))
    parts = ("network", "tokenization", "queue and computation")
    whole, *spent = (float(shown[name].removesuffix(" ms")) for name in ("total", *parts))
    assert whole == pytest.approx(sum(spent), abs=1.5)  # each is rounded, from 10 ms on to whole ones
    assert "The engine took" in page.find("#notes").text


def test_the_distances_on_the_map_follow_the_vectors(page, tiny_server):
    """Three points lie in a plane: nothing is lost, and one scale holds for both axes."""
    page.ask("")
    page.compute(*TEXTS)
    vectors = tiny_server.embed(TEXTS)
    spots = np.array([[float(c.get_attribute(axis)) for axis in ("cx", "cy")] for c in page.all("#map circle")])
    pairs = ((0, 1), (0, 2), (1, 2))
    ratios = [np.linalg.norm(spots[a] - spots[b]) / np.linalg.norm(vectors[a] - vectors[b]) for a, b in pairs]
    assert max(ratios) / min(ratios) < 1.01


def test_the_tokens_are_those_that_the_server_reads(page, tiny_server):
    page.compute(*TEXTS)
    body = {"content": TEXTS[0], "add_special": True, "with_pieces": True}
    tokens = tiny_server.post("/tokenize", body).json()["tokens"]
    first = page.find("#tokens .text")
    assert f"{len(tokens)} tokens" in first.text
    chips = first.find_elements("css selector", ".token")
    assert [chip.text.strip() for chip in chips] == [token["piece"].strip() for token in tokens]
    assert [chip.get_attribute("title") for chip in chips] == [f"id {token['id']}" for token in tokens]
    special = [chip.text for chip in first.find_elements("css selector", ".special")]
    assert special == ["[CLS]", "[SEP]"]


def test_markup_in_a_text_is_text(page):
    evil = "<img src=x onerror=alert(1)><b>bold</b>"
    page.compute(evil, "hello")
    assert page.find("#tokens h3").text == f"1 {evil}"
    assert page.all("main img, main b") == []


def test_a_text_that_is_too_long_is_an_error_until_it_may_be_cut(page):
    page.write("dog " * 100)
    page.find("#compute").click()
    page.wait(lambda: page.find("#error").is_displayed())
    words = page.seen("#error")
    assert words.startswith("Text 1, “dog dog")
    assert (
        "has 102 tokens; the model reads up to 64. Make it shorter, or tick “Truncate texts that are too long”" in words
    )
    page.find("#error button").click()
    page.wait_for_status("Done")
    assert page.find("#truncate").is_selected()
    assert "Text 1 was truncated from 102 to 64 tokens." in page.find("#notes").text
    assert not page.find("#error").is_displayed()


def test_all_texts_that_are_too_long_are_counted(page):
    page.write("dog " * 100, "a cat", "dog " * 90)
    page.find("#compute").click()
    page.wait(lambda: page.find("#error").is_displayed())
    assert "1 other text is too long, too." in page.seen("#error")


def test_errors_are_in_the_pages_own_words(page):
    """The pure functions alone: what a refusal of the server becomes."""
    script = (
        read_part("math.js")
        + read_part("wording.js")
        + "return arguments[0].map((error) => wordsFor(error, ['a cat']));"
    )
    message = 'send "truncate": true'
    refusals = [{"status": status, "message": message} for status in (413, 429)]
    too_long = {"status": 400, "message": message, "index": 0, "nTokens": 1_234, "limit": 512}
    several = [{**too_long, "nOthers": 1}, {**too_long, "nOthers": 9, "isPart": True}]
    words = page.chrome.execute_script(script, [*refusals, too_long, {**too_long, "isPair": True}, *several])
    assert "up to 512. Make it shorter, or" in words[2]
    assert "up to 512. 1 other text is too long, too. Make them shorter, or" in words[4]
    assert "up to 512. At least 9 other texts are too long, too. Make them shorter, or" in words[5]
    assert not any("send" in sentence for sentence in words)
    assert words[1] == "The server has too much to do. Try again in a moment."
    plain = words[3].translate({0x2068: None, 0x2069: None})
    assert plain.startswith("Text 1, “a cat”, has 1,234 tokens together with the query; the model reads up to 512.")


def test_results_stay_below_an_error_as_an_earlier_requests(page):
    page.compute(*TEXTS)
    assert not page.find("#old").is_displayed()
    page.write("dog " * 100)
    page.find("#compute").click()
    page.wait(lambda: page.find("#error").is_displayed())
    assert page.find("#old").is_displayed()
    assert len(page.heat()) == 3
    page.compute("a", "b")
    assert not page.find("#old").is_displayed()


def test_equal_texts_are_said_to_have_the_same_vector(page):
    page.compute(*["a red dog"] * 3)
    assert "same vector" in page.find("#map-note").text
    assert page.all("#map circle") == []
    page.compute("a red dog", "a red dog", "hello")
    assert re.findall(r"\d+%", page.find("#map-note").text) == ["100%", "0%"]


def test_no_text_is_an_error_that_leads_to_the_texts(page):
    page.write("")
    page.find("#compute").click()
    assert "at least one text" in page.find("#error").text
    assert page.focused() == "texts"


def test_blocks_are_texts_of_several_lines(page):
    page.find("#blocks").click()
    page.write("a cat", "and a dog", "", "hello")
    assert page.find("#count").text.startswith("2 texts")


def test_all_can_be_done_from_the_keyboard(page):
    from selenium.webdriver import Keys

    page.press(Keys.TAB)
    assert page.run("return document.activeElement.textContent") == "Skip to the texts"
    page.press(Keys.ENTER)
    page.wait(lambda: page.focused() == "texts")
    page.run("document.getElementById('sort').checked = false")
    page.press_with_control("a")
    page.press("a cat\na dog\nhello")
    page.press_with_control(Keys.ENTER)
    page.wait_for_status("Done: 3 texts")
    for _ in range(40):
        page.press(Keys.TAB)
        if page.run("return document.activeElement.tagName") == "TD":
            break
    assert page.run("return document.activeElement.dataset.row") == "0"
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.run("return {...document.activeElement.dataset}") == {"row": "1", "column": "2"}
    assert page.seen("#readout").endswith("2 “a dog” and 3 “hello”")
    page.press(Keys.TAB)
    assert page.focused() == "sort"  # the map of cells is one stop
    page.press(Keys.TAB)
    assert page.focused() == "map"
    page.press("+", "+", Keys.ARROW_RIGHT)
    page.wait(lambda: "3 points in view" not in page.find("#map").get_attribute("aria-roledescription"))
    page.press("0")
    page.wait(lambda: "3 points in view" in page.find("#map").get_attribute("aria-roledescription"))
    page.press(*[Keys.TAB] * 4)
    assert page.focused() == "ids"
    page.press(" ")
    assert page.find("#tokens small").is_displayed()


def test_the_tabs_are_chosen_by_keys_and_by_the_address(page, tiny_server):
    from selenium.webdriver import Keys

    page.find("#try-tab").click()
    page.press(Keys.ARROW_RIGHT)
    assert page.focused() == "server-tab"
    assert page.find("#server").is_displayed()
    assert not page.find("#try").is_displayed()
    assert page.run("return location.hash") == "#server"
    page.chrome.refresh()
    page.wait(lambda: page.find("#server").is_displayed())
    page.find("#try-tab").click()
    assert page.find("#form").is_displayed()
    assert page.run("return location.href") == f"{tiny_server.url}/"


def test_every_control_has_a_name(page):
    page.compute(*TEXTS)
    controls = page.all("a, button, select, textarea, input, svg[role=img], table, [role=alert]")
    seen = [control for control in controls if control.is_displayed()]
    assert len(seen) > 10
    assert [control.get_attribute("outerHTML") for control in seen if not control.accessible_name] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_light_or_dark_as_the_system_is_and_readable(page, scheme):
    page.prefer(scheme)
    page.compute(*TEXTS)
    for css in ("#about", "#readout", "#tokens .token", "#compute", "#heat tbody td", "#heat tbody td + td"):
        assert contrast(page, css) >= 4.5, css
    assert (luminance(page.run(BACK)) > 0.5) == (scheme == "light")


def test_the_chosen_theme_beats_the_systems_and_stays(page):
    page.prefer("light")
    page.find("#theme").click()
    page.find("#theme").click()
    assert page.find("#theme").text == "Theme: dark"
    page.chrome.refresh()
    page.wait_for_status("Ready.")
    assert luminance(page.run(BACK)) < 0.1


def test_it_fits_a_phone(page):
    page.resize(PHONE, 800, phone=True)
    page.find("#sort").click()
    page.compute(*TEXTS, *EIGHT)
    assert page.run("return document.documentElement.scrollWidth") == PHONE
    tops = [page.find(css).rect["y"] for css in ("#form", "#ranking-card", "#heat-frame", "#map", "#tokens")]
    assert tops == sorted(tops)
    frame = page.find("#heat-frame")
    assert "more-right" not in frame.get_attribute("class")  # eleven columns fit, without their numbers
    assert page.run("return getComputedStyle(document.querySelector('#heat td[data-row]')).fontSize") == "0px"
    page.find("#heat td[data-row='0'][data-column='1']").click()
    assert page.seen("#readout").endswith("1 “the cat sat on the mat” and 2 “a red dog”")


def test_a_map_with_more_than_fits_fades_at_its_edge(page):
    page.resize(PHONE, 800, phone=True)
    page.compute(*(f"a red dog {n}" for n in range(24)))
    frame = page.find("#heat-frame")
    assert {"more-right", "more-below"} <= set(frame.get_attribute("class").split())
    page.run("document.getElementById('heat-frame').scrollTo(9999, 9999)")
    page.wait(lambda: "more" not in frame.get_attribute("class"))


BACK = "return getComputedStyle(document.body).backgroundColor"
COLOURS = """
let element = document.querySelector("%s"), back;
const ink = getComputedStyle(element).color;
do { back = getComputedStyle(element).backgroundColor; element = element.parentElement; } while (back.endsWith(", 0)"));
return [ink, back];
"""


def contrast(page: Browser, css: str) -> float:
    """Of a text to what is behind it (WCAG 2.2)."""
    low, high = sorted(luminance(color) for color in page.run(COLOURS % css))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    """Of "rgb(0, 128, 255)", from 0 to 1."""
    parts = np.array([float(part) for part in color.split("(")[1].rstrip(")").split(",")[:3]]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
