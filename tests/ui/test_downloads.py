"""The vectors as files and on the clipboard."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.ui

TEXTS = ("the cat", 'a "red" dog, or two', "שלום")


@pytest.fixture
def computed(page, tmp_path):
    """The page with results, whose downloads go into `tmp_path`."""
    page.chrome.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.compute(*TEXTS)
    return page


def save(page, button: str, path: Path) -> Path:
    page.find(f"#{button}").click()
    page.wait(lambda: path.exists() and path.stat().st_size > 0 and not list(path.parent.glob("*.crdownload")))
    return path


def test_numpy_reads_the_npy_file(computed, tiny_server, tmp_path):
    vectors = np.load(save(computed, "as-npy", tmp_path / "vectors.npy"))
    assert (vectors.dtype, vectors.shape) == (np.float32, (3, 32))
    np.testing.assert_array_equal(vectors, tiny_server.embed(TEXTS, encoding_format="base64"))


def test_the_csv_file_has_the_texts_and_the_same_float32(computed, tiny_server, tmp_path):
    path = save(computed, "as-csv", tmp_path / "vectors.csv")
    header, *rows = csv.reader(path.read_text("utf-8").splitlines())
    assert header == ["text", *map(str, range(32))]
    assert [row[0] for row in rows] == list(TEXTS)
    vectors = np.array([row[1:] for row in rows], np.float32)
    np.testing.assert_array_equal(vectors, tiny_server.embed(TEXTS, encoding_format="base64"))


def test_the_json_file_is_what_is_copied(computed, tiny_server, tmp_path):
    written = save(computed, "as-json", tmp_path / "vectors.json").read_text("utf-8")
    data = json.loads(written)
    assert data["model"] == "encoder"
    assert [item["text"] for item in data["data"]] == list(TEXTS)
    vectors = np.array([item["embedding"] for item in data["data"]], np.float32)
    np.testing.assert_array_equal(vectors, tiny_server.embed(TEXTS, encoding_format="base64"))
    computed.find("#copy").click()
    computed.wait(lambda: computed.find("#copied").text == "Copied.")
    computed.run("document.getElementById('texts').value = ''; document.getElementById('texts').focus()")
    computed.press_with_control("v")
    computed.wait(lambda: computed.find("#texts").get_attribute("value") != "")
    assert computed.find("#texts").get_attribute("value") == written
