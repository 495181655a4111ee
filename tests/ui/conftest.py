"""Browsers for the tests of this folder, which are skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ui.browser import Browser, find_chromium, open_browser


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A new one. After the test its console must be empty, and it must have asked nobody but one server."""
    pytest.importorskip("selenium", reason="selenium is not installed: make test-ui brings it")
    programs = find_chromium()
    if programs is None:
        pytest.skip("no chromium and chromedriver here (Debian: sudo apt install chromium chromium-driver)")
    with open_browser(programs) as opened:
        yield opened
        assert opened.complaints() == []
        origins = {"/".join(url.split("/")[:3]) for url in opened.requested()}
        assert len(origins) == 1
        assert origins.pop().startswith("http://127.0.0.1:")
