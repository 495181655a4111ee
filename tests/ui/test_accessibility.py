"""axe-core finds nothing in any state of the page, light or dark, wide or on a phone."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from tests.batch.http_batches import create_batch, finished, upload
from tests.ui.browser import Browser

pytestmark = pytest.mark.ui

AXE = Path(__file__).parent / "node" / "node_modules" / "axe-core" / "axe.min.js"
WIDTHS = (1280, 390)
RUN = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"]}).then(
  ({violations}) => done(violations.map(({id, nodes}) => [id, nodes.map((node) => node.target.join(" "))])));
"""


@cache
def axe() -> str:
    return AXE.read_text("utf-8")


@pytest.fixture(autouse=True)
def axe_is_here() -> None:
    if AXE.exists():
        return
    reason = "axe-core is not here: make test-ui brings it, if Node and npm are installed"
    if os.environ.get("NEED_BROWSER"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def check(browser: Browser) -> None:
    browser.run(axe())
    found = {}
    for width in WIDTHS:
        browser.resize(width, 900, phone=width < 500)
        for scheme in ("light", "dark"):
            browser.prefer(scheme)
            found[width, scheme] = browser.chrome.execute_async_script(RUN)
            assert browser.run("return document.documentElement.scrollWidth") <= width
    assert {at: violations for at, violations in found.items() if violations} == {}


def test_with_results(page):
    page.find("#manage summary").click()
    page.find("#options summary").click()
    page.compute("the cat sat on the mat", "a red dog", "שלום עולם")
    page.find("#ids").click()
    check(page)


def test_with_many_texts(page):
    page.compute(*(f"hello {n}" for n in range(40)))
    page.find("#ranking-more").click()
    check(page)


def test_with_a_reranker_and_prompts(browser, models, launch):
    flags = ("-m", models / "encoder.gguf", "-m", models / "reranker.gguf", "--prompt", "query=a red ")
    browser.open(launch(*flags).url)
    browser.wait_for_status("Ready.")
    browser.find("#rank-by option[value=both]").click()
    browser.compute("the cat sat on the mat", "a red dog", "hello")
    check(browser)


def test_with_a_file_and_an_error_below_earlier_results(page, tmp_path):
    path = tmp_path / "notes.md"
    path.write_text("# One\n\nhello\n\n# Two\n\n" + "dog " * 10, "utf-8")
    page.find("#file").send_keys(str(path))
    page.wait(lambda: "at most" in page.find("#chunk-note").text)
    page.ask("dog " * 100)
    page.find("#compute").click()
    page.wait(lambda: page.find("#old").is_displayed())
    check(page)


def test_when_a_key_is_asked_for(browser, models, launch):
    browser.open(launch("-m", models / "encoder.gguf", "--api-key", "right").url)
    browser.wait(lambda: browser.focused() == "key")
    browser.find("#key").send_keys("wrong\n")
    browser.wait(lambda: browser.find("#key-error").is_displayed())
    check(browser)


def test_without_a_model(browser, launch, tmp_path):
    browser.open(launch("--models-dir", tmp_path, GGUF_EMBED_CACHE=str(tmp_path / "cache")).url)
    browser.wait_for_status("There is no model")
    check(browser)


def test_the_tab_server_with_charts_and_batches(page, tiny_server):
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings"}
    texts = [f"{n} " + "dog " * 50 for n in range(50)]
    lines = [{**line, "body": {"input": "a", "dimensions": 99999}}]
    over = finished(tiny_server, create_batch(tiny_server, upload(tiny_server, lines))["id"])["id"]
    lines = [{**line, "custom_id": f"{n}", "body": {"input": [f"{n} {text}" for text in texts]}} for n in range(900)]
    running = create_batch(tiny_server, upload(tiny_server, lines))["id"]
    page.open_tab("server")
    page.wait(lambda: page.all(f"[aria-label='Stop {running}']"))
    page.find(f"[aria-label='Show errors of {over}']").click()
    page.find(f"[aria-label='Stop {running}']").click()
    page.wait(lambda: page.find("#batches .errors li").is_displayed())
    page.wait(lambda: "95% in" in page.find("#charts").text)
    check(page)
    tiny_server.post(f"/v1/batches/{running}/cancel", {})


def test_the_tab_server_when_the_server_is_gone(browser, models, launch):
    server = launch("-m", models / "encoder.gguf")
    browser.open(f"{server.url}/#server")
    browser.wait(lambda: browser.all("#model-rows tr"))
    server.process.kill()
    server.process.wait()
    browser.wait(lambda: browser.find("#gone").is_displayed())
    check(browser)


def test_the_documentation(browser, tiny_server):
    browser.open(f"{tiny_server.url}/docs")
    check(browser)


def test_the_documentation_searched_and_tried(browser, tiny_server):
    browser.open(f"{tiny_server.url}/docs")
    browser.find("#find").send_keys("truncation\n")
    for section in ("#post_v1_embeddings", "#delete_v1_files_file_id"):
        browser.find(f"{section} .try summary").click()
        browser.wait(lambda section=section: browser.all(f"{section} .try button.main"))
        browser.find(f"{section} .try button.main").click()
    browser.find("#delete_v1_files_file_id .try input").send_keys("file-0\n")
    browser.wait(lambda: browser.find("#post_v1_embeddings .try pre").is_displayed())
    assert browser.find("#delete_v1_files_file_id [role=alertdialog]").is_displayed()
    check(browser)
