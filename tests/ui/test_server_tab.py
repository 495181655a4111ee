"""The tab "Server" in a real browser: the server over time, its models and its batches."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.batch.http_batches import create_batch, finished, upload
from tests.server_process import Server
from tests.ui.browser import Browser

pytestmark = pytest.mark.ui

FAST = """
const slow = window.setTimeout;
window.setTimeout = (act, ms) => slow(act, Math.min(ms, 100));
window.asked = 0;
const send = window.fetch;
window.fetch = (...how) => { window.asked += 1; return send(...how); };
"""
"""The page asks ten times a second, and its questions are counted."""

HIDE = """
Object.defineProperty(document, "hidden", {configurable: true, value: arguments[0]});
document.dispatchEvent(new Event("visibilitychange"));
"""


@pytest.fixture
def tab(browser, tiny_server) -> Browser:
    return open_tab(browser, tiny_server)


def open_tab(browser: Browser, server: Server) -> Browser:
    browser.open(f"{server.url}/#server")
    browser.wait(lambda: browser.all("#model-rows tr"))
    browser.run(FAST)
    return browser


def values(tab: Browser, title: str) -> str:
    """What stands above a chart; nothing if it is not shown."""
    shown = {figure.text.split("\n")[0]: figure.text for figure in tab.all("#charts figure")}
    return shown.get(title, "").partition("\n")[2]


def label(tab: Browser, title: str) -> str:
    """What a chart tells those who do not see it."""
    labels = [svg.get_attribute("aria-label") or "" for svg in tab.all("#charts svg")]
    return next((text for text in labels if text.startswith(title)), "")


def path(tab: Browser) -> str:
    """The line of the first chart. This and the times are read at once, because each answer draws them anew."""
    return str(tab.run("return document.querySelector('#charts path')?.getAttribute('d') ?? ''"))


def times(tab: Browser) -> list[str]:
    shown = "document.querySelectorAll('#charts figure:not([hidden]) time')"
    return list(tab.run(f"return [...{shown}].map(time => time.textContent)"))


def cells(tab: Browser, model: str) -> list[str]:
    """The row of a model, read at once, because it is written anew with each answer."""
    rows = tab.run(
        "return [...document.querySelectorAll('#model-rows tr')].map(row => [...row.cells].map(c => c.innerText))"
    )
    return next(cells for name, *cells in rows if name == model)


def line(name: str, **fields: object) -> dict[str, object]:
    body = {"input": f"the cat {name}", **fields}
    return {"custom_id": name, "method": "POST", "url": "/v1/embeddings", "body": body}


def texts_of(tab: Browser, batch_id: str) -> str:
    rows = tab.run("return [...document.querySelectorAll('#batches > li')].map(row => row.innerText)")
    return next((text for text in rows if batch_id in text), "")


def button(tab: Browser, name: str) -> None:
    tab.find(f"#batches [aria-label='{name}']").click()


def test_charts_show_what_the_server_does(tab, tiny_server):
    tiny_server.embed([f"a red dog {n}" for n in range(40)])
    tab.wait(lambda: re.search(r"at most [1-9]", label(tab, "Tokens per second")))
    tab.wait(lambda: re.search(r"all now \d.*, at most 0*[.\d]*[1-9]", label(tab, "Requests per second")))
    tab.wait(lambda: values(tab, "Batch fill").endswith("%") or "at most" in label(tab, "Batch fill"))
    assert "MB" in values(tab, "Memory of the server")
    tab.wait(lambda: "L" in path(tab))
    assert values(tab, "Found in the cache") == ""  # this server has no cache


def test_what_the_page_asks_is_no_request(tab):
    tab.wait(lambda: tab.run("return window.asked") > 12)
    none = "Requests per second: all now 0, at most 0; refused or failed now 0, at most 0"
    assert label(tab, "Requests per second") == none


def test_pointing_at_a_chart_reads_all_of_them_at_that_time(tab):
    from selenium.webdriver import ActionChains

    tab.wait(lambda: "at most" in label(tab, "Requests per second"))
    ActionChains(tab.chrome).move_to_element(tab.find("#charts svg")).perform()
    n_shown = len(tab.all("#charts figure:not([hidden])"))
    tab.wait(lambda: len(tab.all("#charts .pointed")) == n_shown > 3)
    assert len(set(times(tab))) == 1
    ActionChains(tab.chrome).move_to_element(tab.find("#server-title")).perform()
    tab.wait(lambda: tab.all("#charts .pointed") == [])


def test_the_charts_can_be_read_from_the_keyboard(tab):
    from selenium.webdriver import Keys

    tab.wait(lambda: path(tab).count("L") > 3)
    tab.run("document.getElementById('charts').focus()")
    tab.press(Keys.HOME, Keys.ARROW_RIGHT)
    said = tab.find("#charts-said").get_attribute("textContent")
    assert re.match(
        r"\d\d:\d\d:\d\d\. Requests per second: all [\d.]+, refused or failed [\d.]+\. Tokens per second: ", said
    )
    assert times(tab)[0] == said[:8]
    tab.press(Keys.ESCAPE)
    assert tab.all("#charts .pointed") == []


def test_each_model_has_its_memory_and_its_work(browser, models, launch):
    server = launch("-m", models / "encoder.gguf", "-m", models / "decoder.gguf", "--keep-alive", "30m")
    tab = open_tab(browser, server)
    assert cells(tab, "decoder")[:3] == ["unloaded", "–", "0"]
    server.embed("a", model="decoder")
    server.embed("a b", model="decoder")
    tab.wait(lambda: cells(tab, "decoder")[0] == "loaded")
    tab.wait(lambda: cells(tab, "decoder")[2] == "2")
    lines = "return [...document.querySelectorAll('#model-rows path')].map(path => path.getAttribute('d'))"
    tab.wait(lambda: all("L" in line for line in tab.run(lines)))
    _, memory, requests, _, fastest, waiting, unloads = cells(tab, "decoder")
    assert memory.endswith("MB")
    assert (requests, waiting) == ("2", "0")
    assert re.fullmatch(r"in (30|29) min", unloads)
    assert int(fastest.replace(",", "")) > 0


def test_a_batch_shows_its_progress_and_its_errors(tab, tiny_server):
    lines = [line(f"doc-{n}") for n in range(3)] + [line("doc-9", dimensions=99999)]
    batch = finished(tiny_server, create_batch(tiny_server, upload(tiny_server, lines))["id"])["id"]
    tab.wait(lambda: "completed" in texts_of(tab, batch))
    assert "4 of 4 requests, 1 failed" in texts_of(tab, batch)
    button(tab, f"Show errors of {batch}")
    tab.wait(lambda: "doc-9: 400 " in texts_of(tab, batch))
    button(tab, f"Hide errors of {batch}")
    assert "doc-9" not in texts_of(tab, batch)


def test_a_batch_that_failed_says_why(tab, tiny_server):
    batch = finished(tiny_server, create_batch(tiny_server, upload(tiny_server, [line("a"), line("a")]))["id"])["id"]
    tab.wait(lambda: "failed" in texts_of(tab, batch))
    button(tab, f"Show errors of {batch}")
    tab.wait(lambda: "Line 2: " in texts_of(tab, batch))


def test_a_batch_is_stopped_by_a_second_click(tab, tiny_server):
    texts = [f"the cat sat on the mat {m} " + "dog " * 50 for m in range(50)]
    long = [line(f"doc-{n}", input=[f"{n} {text}" for text in texts]) for n in range(900)]
    batch = create_batch(tiny_server, upload(tiny_server, long))["id"]
    tab.wait(lambda: "in progress" in texts_of(tab, batch))
    button(tab, f"Stop {batch}")
    assert "Stop this batch?" in texts_of(tab, batch)
    assert tab.run("return document.activeElement.textContent") == "Keep it running"
    tab.press(" ")
    assert "Stop this batch?" not in texts_of(tab, batch)
    button(tab, f"Stop {batch}")
    tab.find("#batches [role=alertdialog]:not([hidden]) button").click()
    tab.wait(lambda: "cancelled" in texts_of(tab, batch))
    assert finished(tiny_server, batch)["status"] == "cancelled"


def test_without_batches_it_says_what_they_are(browser, models, launch, tmp_path):
    folder = tmp_path / "batches"
    tab = open_tab(browser, launch("-m", models / "encoder.gguf", "--batch-dir", folder))
    tab.wait(lambda: "None yet." in tab.find("#batches-note").text)
    assert not folder.exists()  # looking makes none


def test_with_a_key_all_of_it_works(browser, models, launch):
    server = launch("-m", models / "encoder.gguf", "--api-key", "right")
    browser.open(f"{server.url}/#server")
    browser.wait(lambda: browser.focused() == "key")
    browser.find("#key").send_keys("right\n")
    browser.wait(lambda: browser.all("#model-rows tr"))
    browser.wait(lambda: "at most" in label(browser, "Requests per second"))
    batch = create_with_key(server, "right")
    browser.wait(lambda: batch in browser.find("#batches").text)


def create_with_key(server: Server, key: str) -> str:
    allowed = {"Authorization": f"Bearer {key}"}
    file_id = upload(server, [line("a")], **allowed)
    body = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    return str(server.post("/v1/batches", body, **allowed).json()["id"])


def test_a_server_that_is_gone_is_said_and_found_again(browser, models, launch: Callable[..., Server]):
    server = launch("-m", models / "encoder.gguf")
    tab = open_tab(browser, server)
    server.process.kill()
    server.process.wait()
    tab.wait(lambda: tab.find("#gone").is_displayed())
    assert tab.find("#gone").text.startswith("The server is not responding. No answer since ")
    assert tab.find("#waiting").text == "–"
    launch("-m", models / "encoder.gguf", LLAMA_ARG_PORT=str(server.port))
    tab.wait(lambda: not tab.find("#gone").is_displayed())
    assert tab.find("#back").text.startswith("The server answers again since ")
    assert tab.find("#waiting").text == "0 texts"


def test_it_asks_nothing_while_it_is_hidden(tab):
    tab.wait(lambda: tab.run("return window.asked") > 4)
    tab.chrome.execute_script(HIDE, True)
    tab.chrome.execute_async_script("fetch('health').then(() => arguments[0]())")  # what was asked for is answered
    before = -1
    while before != (before := tab.run("return window.asked")):  # what had begun asks for a few things in a row
        tab.chrome.execute_async_script("setTimeout(arguments[0], 500)")
    tab.chrome.execute_async_script("setTimeout(arguments[0], 500)")
    assert tab.run("return window.asked") == before
    tab.chrome.execute_script(HIDE, False)
    tab.wait(lambda: tab.run("return window.asked") > before)
