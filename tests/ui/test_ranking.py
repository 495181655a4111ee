"""The query box: texts ranked by an embedding, a reranker, or both."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.ui

TEXTS = ("the cat sat on the mat", "a red dog", "hello world", "one two three")


@pytest.fixture
def both(browser, models, launch):
    """A server with an embedding model and a reranker, and its page."""
    server = launch("-m", models / "encoder.gguf", "-m", models / "reranker.gguf")
    browser.open(server.url)
    browser.wait_for_status("Ready.")
    return server


def ranked(browser, place: int = 1) -> tuple[list[int], list[float]]:
    """The texts' indexes and scores in one of the lists, as they are shown."""
    items = f"#ranking section:nth-of-type({place}) li"
    indexes = [int(item.get_attribute("data-index")) for item in browser.all(items)]
    return indexes, [float(score) for score in browser.texts(f"{items} .score")]


def test_texts_are_ranked_by_their_cosine_to_the_query(page, tiny_server):
    page.ask("a red cat")
    page.compute(*TEXTS)
    cosines = tiny_server.embed(TEXTS) @ tiny_server.embed("a red cat")[0]
    order, scores = ranked(page)
    assert order == list(np.argsort(-cosines, kind="stable"))
    np.testing.assert_allclose(scores, np.sort(cosines)[::-1], atol=0.00051)
    assert len(page.all("#map .query")) == 1


def test_without_a_query_nothing_is_ranked(page):
    page.ask("")
    page.compute(*TEXTS)
    assert page.all("#ranking li") == []
    assert page.find("#ranking-note").text.startswith("Enter a query")
    assert page.all("#map .query") == []


def test_without_a_reranker_it_says_how_to_get_one(page):
    enabled = {option.get_attribute("value"): option.is_enabled() for option in page.all("#rank-by option")}
    assert enabled == {"embedding": True, "reranker": False, "both": False}
    assert "gguf-embed pull jina-reranker-v1-tiny-en" in page.find("#rank-note").text


def test_embedding_and_reranker_stand_side_by_side(browser, both):
    assert browser.find("#rank-note").text == ""
    browser.find("#rank-by option[value=both]").click()
    browser.ask("a red cat")
    browser.compute(*TEXTS)
    assert "reranked in" in browser.find("#status").text
    body = {"model": "reranker", "query": "a red cat", "documents": TEXTS}
    results = both.post("/v1/rerank", body).json()["results"]
    order, scores = ranked(browser, 2)
    assert order == [item["index"] for item in results]
    np.testing.assert_allclose(scores, [item["relevance_score"] for item in results], atol=0.00051)
    first, _ = ranked(browser, 1)
    moves = [sign.get_attribute("textContent") for sign in browser.all("#ranking section:nth-of-type(2) .moved")]
    assert len(moves) == 4
    moved = first.index(order[0])
    assert moves[0] == ("the same place" if moved == 0 else f"{moved} place{'s' if moved > 1 else ''} higher")


def test_a_reranker_alone_ranks_and_shows_no_vectors(browser, models, launch):
    browser.open(launch("-m", models / "reranker.gguf").url)
    browser.wait_for_status("Ready.")
    assert "Only rerankers are served" in browser.find("#about").text
    assert browser.find("#rank-by").get_attribute("value") == "reranker"
    browser.compute(*TEXTS)
    assert len(browser.all("#ranking li")) == 4
    assert not browser.find("#pictures").is_displayed()
    assert not browser.find("#as-npy").is_displayed()
    browser.ask("")
    browser.find("#compute").click()
    browser.wait(lambda: browser.find("#error").text == "Enter a query: a reranker needs one.")


def test_a_query_that_is_too_long_is_named_as_the_query(page):
    page.ask("dog " * 100)
    page.find("#compute").click()
    page.wait(lambda: page.find("#error").is_displayed())
    assert page.find("#error").text == "The query has 102 tokens; the model reads up to 64. Make it shorter."


def test_a_long_text_unfolds(page):
    long = "hello world and a red dog " * 10 + "the end"
    page.find("#truncate").click()
    page.compute(long, "two")
    item = page.find("#ranking li[data-index='0']")
    assert not item.find_element("css selector", ".whole").is_displayed()
    item.find_element("css selector", "summary").click()
    assert item.find_element("css selector", ".whole").text == long


def test_the_first_visit_shows_results_of_the_examples(page):
    assert not page.find("#intro").is_displayed()
    assert len(page.all("#ranking li")) == 8
    assert len(page.heat()) == 8
    assert not page.find("#error").is_displayed()


def test_a_long_ranking_unfolds_and_the_focus_goes_on(page):
    page.ask("hello")
    page.compute(*(f"hello {n}" for n in range(30)))
    assert len(page.all("#ranking li")) == 10
    assert page.find("#ranking-more").text == "Show 20 more of 30 texts"
    page.find("#ranking-more").click()
    assert len(page.all("#ranking li")) == 30
    assert not page.find("#ranking-more").is_displayed()
    focused = page.run("return document.activeElement.dataset.index")
    assert focused == page.all("#ranking li")[10].get_attribute("data-index")


def test_pooling_is_chosen(page, tiny_server):
    page.find("#options summary").click()
    page.find("#pooling option[value=cls]").click()
    page.ask("hello")
    page.compute(*TEXTS)
    vectors = tiny_server.embed(["hello", *TEXTS], pooling="cls")
    _, scores = ranked(page)
    np.testing.assert_allclose(scores, np.sort(vectors[1:] @ vectors[0])[::-1], atol=0.00051)
    assert '"pooling":"cls"' in page.find("#curl").get_attribute("textContent")
