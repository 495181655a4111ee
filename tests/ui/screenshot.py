"""Take the README's image of the page: `make screenshot`."""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path

from tests.server_process import start_server, stop
from tests.ui.browser import Browser, NoBrowser, find_browser, open_browser

WIDTH = 1080
MARGIN = 20
LAST_CARD = "#results > section:nth-of-type(3)"  # the projection; the tokens below it are cut off
EXAMPLE = (
    "How do I bake bread at home?",
    "A simple recipe for sourdough",
    "Why does my dough not rise?",
    "The telescope found a new planet",
    "Astronomers watched a distant star",
    "Black holes bend the light around them",
    "My train to Berlin is late again",
    "When does the next bus to town leave?",
)
ROUNDS = (1, 4, 2, 5, 3, 6, 4, 7)  # how often between two looks at the server's load, which then has something to show


def main() -> None:
    try:
        programs = find_browser()
    except NoBrowser as error:
        sys.exit(str(error))
    with tempfile.TemporaryDirectory() as cache, open_browser(programs) as browser:
        server = start_server(Path(cache))
        try:
            image = take(browser, server.url)
        finally:
            stop(server)
    Path(sys.argv[1]).write_bytes(image)


def take(browser: Browser, url: str) -> bytes:
    browser.prefer("light")
    browser.resize(WIDTH, 1000)
    browser.open(url)
    browser.wait_for_status("Ready.")
    for times in ROUNDS:
        seen = line_of_load(browser)
        for _ in range(times):
            browser.compute(*EXAMPLE)
        browser.wait(lambda seen=seen: line_of_load(browser) != seen)
    seen = line_of_load(browser)
    browser.find("#compute").click()
    browser.wait_for_status("Done")
    browser.wait(lambda: line_of_load(browser) != seen and browser.find("#running").text == "0 texts")  # at rest
    browser.run("document.activeElement.blur()")
    height = int(browser.run(f"return document.querySelector('{LAST_CARD}').getBoundingClientRect().bottom")) + MARGIN
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
    shot = browser.chrome.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    return base64.b64decode(shot["data"])


def line_of_load(browser: Browser) -> str | None:
    """It changes when the page has asked the server again."""
    return browser.find("#rate path").get_attribute("d")


if __name__ == "__main__":
    main()
