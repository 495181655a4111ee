"""The browser for the tests of this folder. Where none starts they are skipped, or fail if NEED_BROWSER is set."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.server_process import Server
from tests.ui.browser import Browser, NoBrowser, Programs, find_browser, fresh, open_browser


@pytest.fixture(scope="session")
def programs() -> Programs:
    try:
        return find_browser()
    except NoBrowser as error:
        reason = str(error)
    if os.environ.get("NEED_BROWSER"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def started(programs: Programs) -> Iterator[Browser]:
    """One process for all tests: to start it takes seconds."""
    with open_browser(programs) as opened:
        yield opened


@pytest.fixture
def page(browser: Browser, tiny_server: Server) -> Browser:
    """The page of a server with one tiny model, ready."""
    browser.open(tiny_server.url)
    browser.wait_for_status("Ready.")
    return browser


@pytest.fixture
def browser(started: Browser) -> Iterator[Browser]:
    """A window of its own, with nothing stored. After the test its console must be empty, and it must have asked nobody
    but one server."""
    started.complaints(), started.requested()  # those of an earlier test that failed
    with fresh(started) as window:
        yield window
        assert window.complaints() == []
        origins = {"/".join(url.split("/")[:3]) for url in window.requested()}
        assert len(origins) == 1
        assert origins.pop().startswith("http://127.0.0.1:")
