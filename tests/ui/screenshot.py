"""Take the README's image of the page: `make screenshot`."""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.server_process import start_server, stop
from tests.ui.browser import Browser, NoBrowser, find_browser, open_browser

WIDTH = 1080
MARGIN = 20
LAST_CARD = "#pictures"  # the tokens below it are cut off


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
    browser.find("#compute").click()  # again: the first time includes what is only done once
    browser.wait_for_status("Done")
    browser.run("document.activeElement.blur()")
    height = int(browser.run(f"return document.querySelector('{LAST_CARD}').getBoundingClientRect().bottom")) + MARGIN
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
    shot = browser.chrome.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    return smaller(base64.b64decode(shot["data"]))


def smaller(image: bytes) -> bytes:
    """The PNG with a palette of 256 colors, which is a third of its size."""
    written = io.BytesIO()
    Image.open(io.BytesIO(image)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        written, "PNG", optimize=True
    )
    return written.getvalue()


if __name__ == "__main__":
    main()
