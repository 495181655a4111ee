"""GET /docs in a real browser: it can be searched, its examples copied, and its routes tried."""

from __future__ import annotations

import json
import re

import pytest

from tests.batch.http_batches import upload
from tests.server_process import Server
from tests.ui.browser import PHONE, Browser

pytestmark = pytest.mark.ui

EMBED = "#post_v1_embeddings"
DELETE = "#delete_v1_files_file_id"
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"input": "a"}}


@pytest.fixture
def docs(browser, tiny_server) -> Browser:
    browser.open(f"{tiny_server.url}/docs")
    return browser


def search(docs: Browser, query: str) -> list[str]:
    """The kinds and names of what is found."""
    docs.find("#find").clear()
    docs.find("#find").send_keys(query)
    return docs.texts("#found li > a")


def open_try(docs: Browser, section: str) -> None:
    docs.find(f"{section} .try summary").click()
    docs.wait(lambda: docs.all(f"{section} .try button.main"))


def send(docs: Browser, section: str) -> None:
    docs.find(f"{section} .try form > .actions button.main").click()


def status(docs: Browser, section: str) -> str:
    return docs.find(f"{section} .try [role=status]").text


def test_fields_routes_and_errors_are_found(docs):
    assert search(docs, "dimensions")[0] == "field dimensions"
    assert docs.find("#found-note").text.endswith("results for “dimensions”")
    assert "POST /pooling" in docs.find("#found li").text
    assert not docs.find("#contents").is_displayed()
    assert search(docs, "/v1/rerank")[:2] == ["route POST /v1/rerank", "route POST /v1/reranking"]
    assert search(docs, "429")[0] == "error 429 Too Many Requests"
    assert search(docs, "context_length_exceeded") == ["error input_too_long"]
    assert search(docs, "offsets tokens")  # two words, in any order
    assert search(docs, "zebra") == []
    assert docs.find("#found-note").text.startswith("Nothing matches “zebra”.")


def test_a_result_leads_to_its_place_from_the_keyboard(docs):
    from selenium.webdriver import Keys

    docs.press("/")
    assert docs.focused() == "find"
    docs.press("truncation_direction", Keys.ENTER)
    arrived = docs.find(".arrived")
    assert arrived.text.startswith("truncation_direction")
    assert arrived.is_displayed()
    assert docs.run("return document.activeElement.classList.contains('arrived')")
    target = docs.run("return location.hash")
    assert docs.run(f"return document.querySelector('{target}').contains(document.querySelector('.arrived'))")


def test_a_link_to_a_schema_opens_it(docs, tiny_server):
    docs.open(f"{tiny_server.url}/docs#schema-Usage")
    docs.wait(lambda: docs.find("#schema-Usage table").is_displayed())


def test_an_example_is_copied_as_it_is(docs):
    docs.run("navigator.clipboard.writeText = async (text) => { window.taken = text; }")
    code = docs.find(f"{EMBED} .code")
    code.find_element("css selector", "button").click()
    docs.wait(lambda: code.find_element("css selector", "button").text == "Copied")
    assert docs.run("return window.taken") == code.find_element("css selector", "pre").text
    assert docs.run("return window.taken").startswith("curl 'http://127.0.0.1:")


def test_an_example_is_copied_without_the_clipboards_permission(docs):
    docs.run("navigator.clipboard.writeText = () => Promise.reject(new Error('no'))")
    button = docs.find(f"{EMBED} .code button")
    button.click()
    docs.wait(lambda: button.text == "Copied")


def test_an_example_is_sent_and_its_reply_shortened(docs, tiny_server):
    open_try(docs, EMBED)
    assert json.loads(docs.find(f"{EMBED} .try textarea").get_attribute("value")) == {"input": "hello"}
    send(docs, EMBED)
    docs.wait(lambda: status(docs, EMBED).startswith("200 OK · "))
    reply = docs.find(f"{EMBED} .try pre").text
    first = re.search(r'"embedding": \[(.*?),', reply)
    assert float(first[1]) == pytest.approx(tiny_server.embed("hello")[0][0], abs=1e-6)
    assert "… 24 more numbers]" in reply
    assert "shortened" in docs.find(f"{EMBED} .try .code + .hint").text


def test_the_body_can_be_edited_and_an_error_is_shown(docs):
    open_try(docs, EMBED)
    body = docs.find(f"{EMBED} .try textarea")
    body.clear()
    body.send_keys('{"input": []}')
    docs.press_with_control("\ue007")
    docs.wait(lambda: status(docs, EMBED).startswith("400 Bad Request · "))
    assert '"type": "invalid_request_error"' in docs.find(f"{EMBED} .try pre").text


def test_another_example_can_be_chosen(docs):
    open_try(docs, EMBED)
    docs.find(f"{EMBED} .try select").send_keys("Fewer dimensions")
    assert '"dimensions": 16' in docs.find(f"{EMBED} .try textarea").get_attribute("value")


def test_parameters_go_into_the_path_and_the_query(docs):
    open_try(docs, "#get_v1_models_model")
    assert docs.find("#get_v1_models_model .try input").get_attribute("value") == "encoder"
    send(docs, "#get_v1_models_model")
    docs.wait(lambda: status(docs, "#get_v1_models_model").startswith("200 OK"))
    open_try(docs, "#get_v1_batches")
    docs.find("#get_v1_batches .try input[name=limit]").send_keys("x")
    send(docs, "#get_v1_batches")
    docs.wait(lambda: status(docs, "#get_v1_batches").startswith("400"))
    assert "limit" in docs.find("#get_v1_batches .try pre").text


def test_an_example_names_a_model_that_the_server_has(docs):
    open_try(docs, "#post_api_embed")
    assert '"model": "encoder"' in docs.find("#post_api_embed .try textarea").get_attribute("value")


def test_a_file_is_uploaded_as_a_form(docs):
    open_try(docs, "#post_v1_files")
    send(docs, "#post_v1_files")
    docs.wait(lambda: status(docs, "#post_v1_files").startswith("200 OK"))
    assert '"object": "file"' in docs.find("#post_v1_files .try pre").text


def test_what_deletes_is_sent_by_a_second_click_only(docs, tiny_server):
    kept = upload(tiny_server, [LINE])
    open_try(docs, DELETE)
    docs.find(f"{DELETE} .try input").send_keys(kept)
    send(docs, DELETE)
    question = docs.find(f"{DELETE} .try [role=alertdialog]")
    docs.wait(question.is_displayed)
    assert question.text.splitlines() == [
        "This deletes the file from the server.",
        f"Send DELETE /v1/files/{kept}",
        "Do not send",
    ]
    assert docs.run("return document.activeElement.textContent") == "Do not send"
    docs.press(" ")
    assert not question.is_displayed()
    assert exists(tiny_server, kept)
    send(docs, DELETE)
    question.find_element("css selector", "button").click()
    docs.wait(lambda: status(docs, DELETE).startswith("200 OK"))
    assert not exists(tiny_server, kept)


def exists(server: Server, file_id: str) -> bool:
    return server.get(f"/v1/files/{file_id}").status == 200


def test_a_key_is_asked_for_and_shared_with_the_page(browser, models, launch):
    url = launch("-m", models / "encoder.gguf", "--api-key", "right").url
    browser.open(f"{url}/docs")
    assert browser.find("#key-form").is_displayed()
    open_try(browser, EMBED)
    send(browser, EMBED)
    browser.wait(lambda: status(browser, EMBED).startswith("401 Unauthorized"))
    browser.find("#key").send_keys("right\n")
    browser.wait(lambda: browser.find("#key-note").text == "The key is stored.")
    send(browser, EMBED)
    browser.wait(lambda: status(browser, EMBED).startswith("200 OK"))
    assert "right" not in browser.run("return JSON.stringify(localStorage) + document.cookie + location.href")
    browser.open(url)
    browser.wait_for_status("Ready.")
    browser.open(f"{url}/docs")
    browser.find("#forget").click()
    assert browser.run("return sessionStorage.length") == 0


def test_a_server_that_is_gone_is_said(browser, models, launch):
    server = launch("-m", models / "encoder.gguf")
    browser.open(f"{server.url}/docs")
    open_try(browser, EMBED)
    server.process.kill()
    server.process.wait()
    send(browser, EMBED)
    browser.wait(lambda: status(browser, EMBED).startswith("The server is not responding."))


def test_it_has_the_theme_that_was_chosen_on_the_page(docs, tiny_server):
    docs.find("#theme").click()
    docs.find("#theme").click()
    docs.open(tiny_server.url)
    docs.wait_for_status("Ready.")
    assert docs.find("#theme").text == "Theme: dark"


def test_on_a_phone_results_are_seen_while_reading_further_below(docs):
    docs.resize(PHONE, 800, phone=True)
    docs.run("window.scrollTo(0, 9000)")
    assert search(docs, "429")
    assert docs.run("return document.getElementById('found').getBoundingClientRect().top") < 400
    assert docs.run("return document.documentElement.scrollWidth") == PHONE
