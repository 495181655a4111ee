"""A real Chromium without a window, driven by selenium, and the page as a person sees it."""

from __future__ import annotations

import importlib.util
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

NAMES = ("chromium", "chromium-browser", "google-chrome")  # .ci/setup/chromium looks for the same
PATIENCE_S = 30
PHONE = 375  # pixels
LONGEST_MS = 1_000
"""For this time, the page may not react."""

_WATCH = """
window.tasks = [];
window.watcher?.disconnect();
window.watcher = new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.tasks.push(entry.duration);
});
window.watcher.observe({entryTypes: ["longtask"]});
"""


Programs = tuple[str, str]
"""A browser and its driver."""


class NoBrowser(Exception):
    """Says in a line why there is none."""


def find_browser() -> Programs:
    """The first browser that starts with the driver. Raises `NoBrowser`."""
    if importlib.util.find_spec("selenium") is None:
        raise NoBrowser("selenium is not installed: make test-ui brings it")
    from selenium.common.exceptions import WebDriverException

    driver = shutil.which("chromedriver")
    browsers = list(filter(None, map(shutil.which, NAMES)))
    if driver is None or not browsers:
        raise NoBrowser("no chromium and chromedriver here (Debian: sudo apt install chromium chromium-driver)")
    reasons = []
    for browser in browsers:
        try:
            with open_browser((browser, driver)):
                return browser, driver
        except (WebDriverException, OSError) as error:  # another version, a stub, no sandbox, a library is missing
            first_line = str(error).partition("\n")[0].removeprefix("Message: ")
            reasons.append(f"{browser} does not start: {first_line.partition('; For documentation')[0]}")
    raise NoBrowser("; ".join(reasons))


@contextmanager
def open_browser(programs: Programs) -> Iterator[Browser]:
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


@contextmanager
def fresh(browser: Browser) -> Iterator[Browser]:
    """A new window, with nothing stored. It and those that it opened are closed afterwards."""
    chrome = browser.chrome
    [first] = chrome.window_handles
    chrome.switch_to.new_window("window")
    chrome.set_window_size(1240, 900)
    try:
        yield browser
    finally:
        for window in set(chrome.window_handles) - {first}:
            chrome.switch_to.window(window)
            if chrome.current_url.startswith("http"):
                chrome.execute_script("localStorage.clear()")
            chrome.close()
        chrome.switch_to.window(first)


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
            seen = {css: self.texts(css) for css in ("#status", "#error", "#key-error", "#pull-note", "#live-note")}
            raise AssertionError(f"did not happen; the page says {seen}") from None

    def wait_for_status(self, beginning: str) -> None:
        self.wait(lambda: self.find("#status").text.startswith(beginning))

    def open_tab(self, name: str) -> None:
        """ "try" or "server"."""
        self.find(f"#{name}-tab").click()

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

    def ask(self, query: str) -> None:
        """Write the query, in the place of what is there."""
        self.run("document.getElementById('query').value = ''")
        self.find("#query").send_keys(query)

    def seen(self, css: str) -> str:
        """The text of an element, without the marks that keep texts of another direction apart."""
        return self.find(css).text.translate({0x2068: None, 0x2069: None})

    def longest_task_ms(self, act: Callable[[], object]) -> float:
        """For how long the page does not react while something is done.

        The best of up to three attempts counts, because another process may have had the processor meanwhile.
        """
        found = []
        while not found or (found[-1] >= LONGEST_MS and len(found) < 3):
            self.run(_WATCH)
            act()
            found.append(max(self.run("return window.tasks"), default=0))
        return min(found)

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
