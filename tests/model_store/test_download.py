"""Downloads from a local hub: which file is chosen, what is cached, and the message when it fails."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gguf_embed.errors import ModelFileError
from gguf_embed.model_store.default_model import resolve_default
from gguf_embed.model_store.download import Hub, fetch_model
from gguf_embed.model_store.locate import ModelSource, locate_model
from tests.gguf_models import write_tiny_encoder
from tests.model_store.fake_hub import FakeHub, serve

REPO = "org/tiny-GGUF"


def ignore(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_encoder(tmp_path_factory.mktemp("model") / "m.gguf").read_bytes()


@pytest.fixture
def fake(model):
    files = {"README.md": b"#", "tiny-F16.gguf": b"other", "tiny-Q8_0.gguf": model}
    with serve(FakeHub(files={REPO: files})) as hub:
        yield hub


@pytest.fixture
def hub(fake, tmp_path):
    return Hub(endpoint=fake.endpoint, cache_dir=tmp_path / "hub")


def test_a_model_is_downloaded_once_and_then_served_from_the_cache(fake, hub, model):
    said: list[str] = []
    path = fetch_model(hub, REPO, None, None, said.append)
    assert path.read_bytes() == model
    assert (path.name, said) == ("tiny-Q8_0.gguf", [f"downloading {REPO}/tiny-Q8_0.gguf (99 kB)"])
    fake.requests.clear()
    assert fetch_model(hub, REPO, None, None, said.append) == path
    assert len(said) == 1
    assert not [request for request in fake.requests if request[0] == "GET" and "resolve" in request[1]]


@pytest.mark.parametrize(
    ("quant", "file", "name"),
    [
        ("f16", None, "tiny-F16.gguf"),
        (None, "tiny-F16.gguf", "tiny-F16.gguf"),
        ("F16", "tiny-Q8_0.gguf", "tiny-Q8_0.gguf"),
    ],
)
def test_quantization_or_file_chooses(hub, quant, file, name):
    assert fetch_model(hub, REPO, quant, file, ignore).name == name


def test_every_part_of_a_split_model_is_downloaded(fake, hub, model):
    names = ("s-F16-00001-of-00002.gguf", "s-F16-00002-of-00002.gguf")
    fake.files["org/split"] = dict.fromkeys(names, model)
    located = locate_model(ModelSource(hf_repo="org/split"), hub.cache_dir, ignore, hub=hub)
    assert (located.path.name, located.name) == (names[0], "org/split:F16")
    assert located.path.with_name(names[1]).is_file()


@pytest.mark.parametrize(
    ("repo", "name"),
    [(REPO, f"{REPO}:Q8_0"), (f"hf.co/{REPO}:Q8_0", f"{REPO}:Q8_0"), (f"{REPO}:q8_0", f"{REPO}:q8_0")],
)
def test_a_hub_model_is_named_after_its_repository(hub, tmp_path, repo, name):
    assert locate_model(ModelSource(hf_repo=repo), tmp_path, ignore, hub=hub).name == name


@pytest.mark.parametrize(
    ("repo", "quant", "file", "message"),
    [
        ("org/nothing", None, None, "org/nothing is not on the hub.*HF_TOKEN"),
        (REPO, "Q6_K", None, r"no GGUF of type Q6_K; choose one of: tiny-F16.gguf, tiny-Q8_0.gguf"),
        (REPO, None, "tiny.gguf", r"has no tiny.gguf; choose one of: tiny-F16.gguf"),
        ("org/gated", None, None, "org/gated is gated.*HF_TOKEN"),
        ("org/secret", None, None, "org/secret .403.*HF_TOKEN"),
        ("org/busy", None, None, "answered 418"),
        ("org/unknown-token", None, None, "org/unknown-token .401.*HF_TOKEN"),
        ("org/limited", None, None, "org/limited .429.: wait"),
    ],
)
def test_what_the_hub_refuses_is_explained_with_the_way_out(fake, hub, repo, quant, file, message):
    fake.refused = {
        "org/gated": (403, "GatedRepo"),
        "org/secret": (403, ""),
        "org/busy": (418, ""),
        "org/unknown-token": (401, "InvalidToken"),
        "org/limited": (429, ""),
    }
    with pytest.raises(ModelFileError, match=message) as caught:
        fetch_model(hub, repo, quant, file, ignore)
    assert "\n" not in caught.value.message


def test_a_repository_without_a_gguf_names_the_converter(fake, hub):
    fake.files["org/original"] = {"model.safetensors": b"w", "config.json": b"{}"}
    fake.files["org/text"] = {"README.md": b"#"}
    with pytest.raises(ModelFileError, match=r"^org/original .*`gguf-embed convert org/original`"):
        fetch_model(hub, "org/original", None, None, ignore)
    with pytest.raises(ModelFileError, match=r"org/text has no GGUF model$"):
        fetch_model(hub, "org/text", None, None, ignore)


def test_offline_uses_the_cache_without_a_request(fake, hub, tmp_path):
    path = fetch_model(hub, REPO, None, None, ignore)
    fake.requests.clear()
    offline = ModelSource(hf_repo=REPO, offline=True)
    assert locate_model(offline, tmp_path, ignore, hub=hub).path == path
    assert fake.requests == []


def test_offline_without_a_cached_file_is_reported(fake, hub):
    offline = Hub(endpoint=hub.endpoint, cache_dir=hub.cache_dir, offline=True)
    with pytest.raises(ModelFileError, match="not in the hub's cache"):
        fetch_model(offline, REPO, None, None, ignore)
    fetch_model(hub, REPO, "Q8_0", None, ignore)
    with pytest.raises(ModelFileError, match=r"the cached copy of .* has no GGUF of type F16; choose one of"):
        fetch_model(offline, REPO, "F16", None, ignore)
    assert fake.requests


def test_an_unreachable_hub_leaves_what_is_cached(hub):
    path = fetch_model(hub, REPO, None, None, ignore)
    gone = Hub(endpoint="http://127.0.0.1:9", cache_dir=hub.cache_dir)  # nothing listens there
    said: list[str] = []
    assert fetch_model(gone, REPO, None, None, said.append) == path
    assert "the hub http://127.0.0.1:9 cannot be reached" in said[0]
    with pytest.raises(ModelFileError, match=r"127\.0\.0\.1:9 cannot be reached for org/other .*or download the file"):
        fetch_model(gone, "org/other", None, None, ignore)


def test_the_default_model_comes_from_the_hub_last(fake, hub, model, tmp_path):
    name = "all-MiniLM-L6-v2-ggml-model-f16.gguf"
    fake.files["second-state/All-MiniLM-L6-v2-Embedding-GGUF"] = {name: model}
    assert resolve_default(tmp_path / "cache", ignore, hub=hub, find_package=lambda _: None).name == name


@pytest.mark.process
def test_the_environment_names_hub_cache_and_token(fake, tmp_path):
    script = (
        "import sys; from pathlib import Path\n"
        "from gguf_embed.model_store.locate import ModelSource, locate_model\n"
        "assert 'huggingface_hub' not in sys.modules and 'gguf' not in sys.modules\n"
        f"print(locate_model(ModelSource(hf_repo='{REPO}'), Path('unused'), lambda _: None).path)\n"
    )
    environment = os.environ | {"HF_ENDPOINT": fake.endpoint, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_TOKEN": "t"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "hub"))
