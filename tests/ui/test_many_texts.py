"""Hundreds and thousands of texts: the matrix by clusters, the projection, and a page that stays usable."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gguf_embed.server.docs.page.page import read_part
from tests.ui.browser import LONGEST_MS

pytestmark = pytest.mark.ui

GROUPS = ("a red dog", "hello world", "the cat sat on the mat", "one two three")
CANCEL_WHILE_COMPARING = """
const status = document.getElementById("status");
new MutationObserver((_, observer) => {
  if (!status.textContent.startsWith("Comparing")) return;
  observer.disconnect();
  document.getElementById("cancel").click();
}).observe(status, {childList: true});
"""


def write_many(page, n: int) -> list[str]:
    texts = [f"{GROUPS[index % 4]} {index % 10}" for index in range(n)]
    page.chrome.execute_script("document.getElementById('texts').value = arguments[0]", "\n".join(texts))
    return texts


def in_view(page) -> int:
    return int(
        re.findall(r"([\d,]+) points? in view", page.find("#map").get_attribute("aria-roledescription"))[0].replace(
            ",", ""
        )
    )


def test_two_hundred_texts_are_all_in_the_matrix_and_the_projection(page, tiny_server):
    from selenium.webdriver import Keys

    texts = write_many(page, 200)
    page.find("#compute").click()
    page.wait_for_status("Done: 200 texts")
    assert not page.find("#heat-frame").is_displayed()
    assert len(page.all("#map circle")) == 200
    vectors = tiny_server.embed(texts)
    page.find("#matrix").send_keys(Keys.END)
    cosine, one, other = re.findall(r"^([-\d.]+): (\d+) “.*” and (\d+) “", page.seen("#readout"))[0]
    assert float(cosine) == pytest.approx(vectors[int(one) - 1] @ vectors[int(other) - 1], abs=1e-3)


def test_the_matrix_is_zoomed_and_read_by_keys_and_by_the_pointer(page):
    from selenium.webdriver import ActionChains, Keys

    write_many(page, 40)
    page.find("#sort").click()
    page.find("#compute").click()
    page.wait_for_status("Done: 40 texts")
    matrix = page.find("#matrix")
    matrix.send_keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert re.findall(r"(\d+) “", page.seen("#readout")) == ["2", "3"]
    matrix.send_keys("+", "+", "+")
    page.wait(lambda: "zoomed" in matrix.get_attribute("class"))
    matrix.send_keys("0")
    page.wait(lambda: "zoomed" not in matrix.get_attribute("class"))
    size = matrix.size["width"]
    corner = int(-size / 2 + size / 80)  # the middle of the first cell, from the middle of the canvas
    ActionChains(page.chrome).move_to_element_with_offset(matrix, corner, corner).perform()
    assert re.findall(r"(\d+) “", page.seen("#readout")) == ["1", "1"]


def test_the_projection_is_zoomed_and_moved(page):
    from selenium.webdriver import ActionChains, Keys

    write_many(page, 40)
    page.find("#compute").click()
    page.wait_for_status("Done: 40 texts")
    assert in_view(page) == 40
    for _ in range(4):
        page.find("#map-in").click()
    page.wait(lambda: in_view(page) < 40)
    before = page.find("#map circle:not([hidden])").get_attribute("cx") if in_view(page) else None
    page.find("#map").send_keys(Keys.ARROW_LEFT, Keys.ARROW_UP)
    ActionChains(page.chrome).drag_and_drop_by_offset(page.find("#map"), 60, 30).perform()
    page.find("#map-all").click()
    page.wait(lambda: in_view(page) == 40)
    assert page.find("#map circle").get_attribute("cx") != before or before is None
    spot = page.find("#map circle")
    ActionChains(page.chrome).move_to_element(spot).perform()
    page.wait(lambda: "“" in page.find("#map-readout").text)


def test_two_thousand_texts_do_not_freeze_the_page(page):
    def use() -> None:
        write_many(page, 2_000)
        page.find("#compute").click()
        page.wait_for_status("Done: 2,000 texts")
        for css in ("#map-in", "#matrix-in", "#sort", "#ranking-more", "#as-csv"):
            page.find(css).click()
        page.wait(lambda: page.find("#copied").text == "")

    assert page.longest_task_ms(use) < LONGEST_MS
    assert "# with the first 20 of 2,000 texts" in page.find("#curl").get_attribute("textContent")
    assert page.find("#tokens-more").text == "Show 20 more of 2,000 texts"


def test_a_request_that_is_canceled_leaves_no_mixture(page):
    page.compute("one", "two", "three")
    write_many(page, 2_000)
    page.run(CANCEL_WHILE_COMPARING)
    page.find("#compute").click()
    page.wait_for_status("Canceled.")
    assert not page.find("#heat").is_displayed()
    assert page.find("#ranking-note").text.startswith("2,000 texts")
    page.compute("one", "two", "three")
    assert page.find("#heat").is_displayed()


def test_more_texts_than_the_page_takes_are_an_error(page):
    write_many(page, 5_001)
    page.find("#compute").click()
    page.wait(lambda: page.find("#error").text.startswith("These are 5,001 texts; the page takes up to 5,000."))


def test_an_error_in_a_later_request_names_the_right_text(page):
    texts = ["hello"] * 300 + ["dog " * 100]
    page.chrome.execute_script("document.getElementById('texts').value = arguments[0]", "\n".join(texts))
    page.find("#compute").click()
    page.wait(lambda: page.find("#error").text.startswith("Text 301, "))


def test_similar_texts_are_side_by_side(page):
    """The pure functions alone: three groups of directions, mixed, come out as three groups."""
    random = np.random.default_rng(3)
    centers = np.linalg.qr(random.normal(size=(8, 8)))[0][:3]
    rows = centers[np.arange(30) % 3] + 0.05 * random.normal(size=(30, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    script = (
        read_part("math.js")
        + read_part("cluster.js")
        + """
    const finish = (steps) => { for (;;) { const {done, value} = steps.next(); if (done) return value; } };
    const vectors = arguments[0].map((row) => Float32Array.from(row));
    const cosines = finish(cosinesOf(vectors));
    return [finish(clusterOrder(cosines, vectors.length)), [...finish(closestOf(cosines, vectors.length))]];
    """
    )
    order, closest = page.chrome.execute_script(script, rows.tolist())
    assert sorted(order) == list(range(30))
    groups = [index % 3 for index in order]
    assert groups == [0] * 10 + [1] * 10 + [2] * 10  # the first text's group first
    cosines = rows @ rows.T - 2 * np.eye(30)
    assert closest == cosines.argmax(axis=1).tolist()
