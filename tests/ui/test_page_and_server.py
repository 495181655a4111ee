"""The page and what a server may be like: several models, a key, no metrics, a path of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.data.tower_directories import DATA
from tests.server_process import Server
from tests.tower_models import write_own
from tests.ui.browser import PHONE, Browser

pytestmark = pytest.mark.ui


def test_several_models_are_chosen_loaded_and_unloaded(browser, models, launch):
    flags = [part for name in ("encoder", "decoder", "reranker") for part in ("-m", models / f"{name}.gguf")]
    browser.open(launch(*flags).url)
    browser.wait_for_status("Ready.")
    options = {option.text: option.is_enabled() for option in browser.all("#model option")}
    assert options == {"encoder": True, "decoder": True, "reranker (reranker)": False}
    browser.find("#manage summary").click()
    assert browser.texts("#loaded span") == ["encoder, loaded", "decoder, unloaded", "reranker, unloaded"]
    browser.find("#model option[value=decoder]").click()
    assert "pooling last" in browser.find("#about").text
    browser.compute("one", "two", "three")
    assert "Answered by decoder. The time includes loading the model." in browser.seen("#notes")
    browser.wait(lambda: browser.texts("#loaded span")[1] == "decoder, loaded")
    browser.find("[aria-label='Unload decoder']").click()
    browser.wait(lambda: browser.texts("#loaded span")[1] == "decoder, unloaded")
    browser.find("[aria-label='Load decoder']").click()
    browser.wait_for_status("Loaded decoder.")
    browser.wait(lambda: browser.texts("#loaded span")[1] == "decoder, loaded")
    browser.open_tab("server")
    assert browser.find("#n-loaded").text == "2 of 3"


def test_the_models_own_prefixes_can_be_chosen(browser, models, launch):
    browser.open(launch("-m", models / "encoder.gguf", "--prompt", "query=a red ").url)
    browser.wait_for_status("Ready.")
    assert browser.seen("#prefix") == "Added before the query: “a red ”."  # which it is for, by its name
    browser.find("#kind option[value=query]").click()
    assert browser.seen("#prefix") == "Added before the query: “a red ”; before each text: “a red ”."
    browser.compute("dog")
    assert "Added before each text: “a red ”." in browser.seen("#notes")
    assert [piece.strip() for piece in browser.texts("#tokens .token")][1:-1] == ["a", "red", "dog"]


def test_a_key_is_asked_for_and_kept_in_this_tab_only(browser, models, launch):
    url = launch("-m", models / "encoder.gguf", "--api-key", "right").url
    browser.open(url)
    browser.wait(lambda: browser.focused() == "key")
    assert not browser.find("#key-error").is_displayed()
    assert not browser.find("#compute").is_displayed()
    give_key(browser, "wrong")
    browser.wait(lambda: browser.find("#key-error").text.startswith("The server refuses this key."))
    assert not browser.find("#forget").is_displayed()
    assert browser.focused() == "key"
    give_key(browser, "right")
    browser.wait_for_status("Ready.")
    browser.wait(lambda: browser.focused() == "texts")
    browser.compute("one", "two", "three")
    assert '-H "Authorization: Bearer $KEY"' in browser.find("#curl").get_attribute("textContent")
    assert "right" not in browser.run("return JSON.stringify(localStorage) + document.cookie + location.href")

    browser.chrome.refresh()
    browser.wait_for_status("Ready.")
    browser.chrome.switch_to.new_window("tab")
    browser.open(url)
    browser.wait(lambda: browser.focused() == "key")


def test_a_key_can_be_forgotten(browser, models, launch):
    browser.open(launch("-m", models / "encoder.gguf", "--api-key", "right").url)
    browser.wait(lambda: browser.focused() == "key")
    give_key(browser, "right")
    browser.wait_for_status("Ready.")
    browser.find("#forget").click()
    browser.wait(lambda: browser.focused() == "key")
    assert browser.run("return sessionStorage.length") == 0


def give_key(browser: Browser, key: str) -> None:
    browser.find("#key").send_keys(key)
    browser.find("#key-form button").click()


def test_the_load_of_the_server_is_seen(browser, tiny_server):
    browser.open(tiny_server.url)
    browser.wait_for_status("Ready.")
    browser.compute("one", "two", "three")
    browser.open_tab("server")
    browser.wait(lambda: browser.find("#fill").text.endswith("%"))
    browser.wait(lambda: browser.find("#speed").text.isdigit())
    assert (browser.find("#waiting").text, browser.find("#running").text) == ("0 texts", "0 texts")


def test_without_metrics_it_says_so_and_works(browser, models, launch):
    browser.open(launch("-m", models / "encoder.gguf", "--no-metrics").url)
    browser.wait_for_status("Ready.")
    browser.compute("one", "two", "three")
    assert "metrics are disabled" in browser.find("#notes").text
    browser.open_tab("server")
    browser.wait(lambda: browser.find("#live-note").text.startswith("Metrics are disabled on this server"))
    assert (browser.find("#waiting").text, browser.find("#speed").text) == ("0 texts", "–")


def test_a_server_that_is_gone_is_an_error(browser, models, launch):
    server = launch("-m", models / "encoder.gguf")
    browser.open(server.url)
    browser.wait_for_status("Ready.")
    server.process.kill()
    server.process.wait()
    browser.find("#compute").click()
    browser.wait(lambda: browser.find("#error").text == "The server is not responding.")


@pytest.fixture
def prefixed(tiny_server) -> Iterator[str]:
    """An address whose path /here/ a proxy takes away before it asks the server."""

    class Proxy(BaseHTTPRequestHandler):
        def pass_on(self) -> None:
            if not self.path.startswith("/here/"):
                self.send_error(418)
                return
            status, headers, body = ask(tiny_server, self)
            self.send_response(status)
            for name in ("Content-Type", "Content-Security-Policy"):
                if name in headers:
                    self.send_header(name, headers[name])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = pass_on  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}/here/"
        proxy.shutdown()


def ask(server: Server, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
    body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
    connection = HTTPConnection(server.host, server.port, timeout=30)
    path = request.path.removeprefix("/here")
    connection.request(request.command, path, body, {"Accept": request.headers.get("Accept", "*/*")})
    response = connection.getresponse()
    reply = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return reply


def test_it_works_behind_a_proxy_that_adds_a_path(browser, prefixed):
    browser.open(prefixed)
    browser.wait_for_status("Ready.")
    browser.compute("one", "two", "three")
    assert f"curl {prefixed}v1/embeddings" in browser.find("#curl").get_attribute("textContent")
    browser.find("nav a[href=docs]").click()
    browser.wait(lambda: browser.find("h1").text == "gguf-embed API")
    assert browser.find("nav a").get_attribute("href") == prefixed


@pytest.mark.parametrize("width", [1240, PHONE])
def test_the_documentation_fits_and_its_links_lead_somewhere(browser, tiny_server, width):
    browser.resize(width, 900, phone=width == PHONE)
    browser.open(f"{tiny_server.url}/docs")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    broken = "return [...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.hash.slice(1))"
    targets = browser.run(broken)
    assert len(targets) > 50
    assert [name for name in targets if not browser.run(f"return !!document.getElementById({name!r})")] == []


def test_a_picture_gets_shares_of_labels(browser, models, launch, tmp_path):
    server = launch("-m", write_own("clip_quick", tmp_path), "-m", models / "encoder.gguf")
    browser.open(server.url)
    browser.wait_for_status("Ready.")
    assert browser.find("#picture-form").is_displayed()
    browser.find("#picture").send_keys(str(DATA / "pictures" / "wide.png"))
    browser.wait(lambda: len(browser.all("#shares tr")) == 5)
    shares = [float(row.get_attribute("value")) for row in browser.all("#shares progress")]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert shares == sorted(shares, reverse=True)
    labels = browser.find("#labels")
    assert labels.get_attribute("dir") == "auto"
    labels.clear()
    labels.send_keys("one\ntwo")
    browser.find("#picture-form button").click()
    browser.wait(lambda: sorted(browser.texts("#shares th")) == ["one", "two"])
    labels.clear()
    browser.find("#picture-form button").click()
    browser.wait(lambda: "at least one label" in browser.find("#picture-error").text)
    browser.find("#model option[value=encoder]").click()
    assert not browser.find("#picture-form").is_displayed()
