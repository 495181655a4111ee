"""Pulling models, and servers that have none."""

from __future__ import annotations

import pytest

from tests.model_store.fake_hub import FakeHub, serve

pytestmark = pytest.mark.ui


@pytest.fixture
def hub(models):
    model = (models / "encoder.gguf").read_bytes()
    with serve(FakeHub(files={"org/tiny-GGUF": {"tiny-F16.gguf": model}})) as hub:
        yield hub


@pytest.fixture
def flags():
    return ("--pulled",)


@pytest.fixture
def empty(browser, hub, launch, tmp_path, flags):
    """The page of a server without models, which can pull from a hub."""
    (tmp_path / "models").mkdir()
    server = launch(
        *("--models-dir", tmp_path / "models", *flags),
        HF_ENDPOINT=hub.endpoint,
        HF_HUB_OFFLINE="0",
        HF_HUB_CACHE=str(tmp_path / "hub"),
        GGUF_EMBED_CACHE=str(tmp_path / "cache"),
    )
    browser.open(server.url)
    browser.wait_for_status("There is no model")
    return browser


def test_without_a_model_it_says_what_to_do(empty):
    assert empty.find("#about").text == (
        "No model is served. Pull one below, put a GGUF into the folder of --models-dir if the server has one, "
        "or restart it with -m FILE."
    )
    assert not empty.find("#compute").is_enabled()
    assert empty.find("#pull").is_displayed()
    assert empty.find("#intro").is_displayed()


def test_a_model_without_dense_vectors_is_not_offered_for_texts(browser, launch):
    pytest.importorskip("py_rust_stemmers")
    browser.open(launch("-m", "bm25").url)
    browser.wait_for_status("There is no model")
    assert browser.find("#model option").text == "bm25 (sparse vectors only)"
    assert browser.find("#about").text == (
        "No served model gives dense vectors, which this page compares. Sparse vectors are for the API."
    )
    assert not browser.find("#compute").is_enabled()


def test_a_model_is_pulled_with_its_progress_and_used(empty, hub):
    hub.holds_after = 20_000
    empty.find("#pull").send_keys("org/tiny-GGUF\n")
    empty.wait(lambda: empty.find("#pull-progress").is_displayed())
    empty.wait(lambda: " of " in empty.find("#pull-size").text)
    assert not empty.find("#pull-start").is_enabled()
    hub.go_on.set()
    empty.wait(lambda: empty.find("#pull-note").text == "Pulled org/tiny-GGUF.")
    empty.wait_for_status("Ready.")
    empty.compute("one", "two", "three")
    assert not empty.find("#intro").is_displayed()


@pytest.mark.parametrize("flags", [()])
def test_a_server_that_does_not_serve_what_was_pulled_says_so(empty, hub):
    empty.find("#pull").send_keys("org/tiny-GGUF\n")
    empty.wait(lambda: "restart the server with --pulled" in empty.find("#pull-note").text)
    empty.wait_for_status("There is no model")


def test_a_pull_is_stopped_and_an_unknown_name_is_an_error(empty, hub):
    hub.holds_after = 20_000
    empty.find("#pull").send_keys("org/tiny-GGUF\n")
    empty.wait(lambda: " of " in empty.find("#pull-size").text)
    empty.find("#pull-cancel").click()
    empty.wait(lambda: empty.find("#pull-note").text.startswith("Stopped."))
    hub.go_on.set()
    empty.run("document.getElementById('pull').value = ''")
    empty.find("#pull").send_keys("no-such-model\n")
    empty.wait(lambda: empty.find("#pull-note").text.startswith("Not pulled: no model is called 'no-such-model'"))
    assert empty.find("#pull-start").is_enabled()
