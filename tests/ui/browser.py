"""A real Chromium without a window, driven by selenium, and the page as a person sees it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 30
PHONE = 375  # pixels


def find_chromium() -> tuple[str, str] | None:
    """The programs of a browser and of its driver, or None where one is missing."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextmanager
def open_browser(programs: tuple[str, str]) -> Iterator[Browser]:
    from selenium import webdriver

    browser, driver = programs
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for flag in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1240,900"):
        options.add_argument(flag)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to sandbox for root
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield Browser(chrome)
    finally:
        chrome.quit()


@dataclass(frozen=True, slots=True)
class Browser:
    """One window with storage of its own."""

    chrome: Chrome

    def open(self, url: str) -> None:
        self.chrome.get(url)

    def find(self, css: str) -> WebElement:
        return self.chrome.find_element("css selector", css)

    def all(self, css: str) -> Sequence[WebElement]:
        return self.chrome.find_elements("css selector", css)

    def texts(self, css: str) -> list[str]:
        return [element.text for element in self.all(css)]

    def run(self, script: str) -> Any:
        return self.chrome.execute_script(script)

    def wait(self, condition: Callable[[], object]) -> None:
        """Until it holds; what it looks at may be replaced meanwhile."""
        from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(self.chrome, PATIENCE_S, 0.05, [StaleElementReferenceException])
        try:
            wait.until(lambda _: condition())
        except TimeoutException:
            seen = {css: self.texts(css) for css in ("#status", "#error", "#key-error", "#live-note")}
            raise AssertionError(f"did not happen; the page says {seen}") from None

    def wait_for_status(self, beginning: str) -> None:
        self.wait(lambda: self.find("#status").text.startswith(beginning))

    def press(self, *keys: str) -> None:
        """Keys to whatever has the focus."""
        from selenium.webdriver import ActionChains

        ActionChains(self.chrome).send_keys(*keys).perform()

    def press_with_control(self, key: str) -> None:
        from selenium.webdriver import ActionChains, Keys

        ActionChains(self.chrome).key_down(Keys.CONTROL).send_keys(key).key_up(Keys.CONTROL).perform()

    def focused(self) -> str:
        """The id of the element that has the focus."""
        return str(self.run("return document.activeElement.id"))

    def write(self, *texts: str) -> None:
        """Into the text area, a line each, in the place of what is there."""
        self.run("document.getElementById('texts').value = ''")
        self.find("#texts").send_keys("\n".join(texts))

    def compute(self, *texts: str) -> None:
        """Write, press the button, and wait for all results."""
        self.write(*texts)
        self.find("#compute").click()
        self.wait_for_status("Done")
        self.wait(lambda: len(self.all("#tokens .text")) == len(texts))

    def heat(self) -> list[list[float]]:
        rows = [row.find_elements("css selector", "td") for row in self.all("#heat tbody tr")]
        return [[float(cell.text) for cell in row] for row in rows]

    def prefer(self, scheme: str) -> None:
        """What the system says it likes: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def complaints(self) -> list[str]:
        """What the console says: errors, broken rules of the policy; not refused requests, which the tests provoke."""
        return [entry["message"] for entry in self.chrome.get_log("browser") if entry["source"] != "network"]

    def requested(self) -> set[str]:
        """The addresses that the page asked for, data: aside."""
        messages = [json.loads(entry["message"])["message"] for entry in self.chrome.get_log("performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        return {params["request"]["url"] for params in sent if not params["request"]["url"].startswith("data:")}
