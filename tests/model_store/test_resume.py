"""Downloads that are interrupted, damaged or do not fit: what is kept, the message, and how the next one resumes."""

from __future__ import annotations

import errno
import hashlib
import os
from itertools import pairwise
from pathlib import Path

import pytest

from gguf_embed.errors import ModelFileError
from gguf_embed.model_store.download import Hub, Listener, fetch_directory, fetch_files, fetch_model
from gguf_embed.model_store.hub_errors import explained
from gguf_embed.model_store.names import FileChoice
from gguf_embed.model_store.partial_file import check_content, check_room, human_size
from gguf_embed.types import PullProgress
from tests.model_store.fake_hub import FakeHub, serve

REPO, NAME = "org/big-GGUF", "big-F16.gguf"
MIB = 2**20
CONTENT = bytes(range(256)) * (24 * 4096)  # 24 MiB, handed on in pieces of 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class EnoughError(Exception):
    """What a listener raises when nobody wants the file any more."""


@pytest.fixture
def fake():
    with serve(FakeHub(files={REPO: {NAME: CONTENT}})) as hub:
        yield hub


@pytest.fixture
def hub(fake, tmp_path):
    return Hub(endpoint=fake.endpoint, cache_dir=tmp_path / "hub")


def blob(hub: Hub, suffix: str = "") -> Path:
    return hub.cache_dir / "models--org--big-GGUF" / "blobs" / f"{SHA256}{suffix}"


def listener(steps: list[PullProgress]) -> Listener:
    return Listener(lambda line: None, steps.append)


def stop_after(n_bytes: int) -> Listener:
    def progress(step: PullProgress) -> None:
        if step.completed_bytes >= n_bytes:
            raise EnoughError

    return Listener(lambda line: None, progress)


def test_a_download_tells_its_size_and_how_far_it_is(hub):
    steps: list[PullProgress] = []
    (file,) = fetch_files(hub, REPO, FileChoice(), listener(steps))
    assert (file.sha256, file.size_bytes, file.path.read_bytes()) == (SHA256, len(CONTENT), CONTENT)
    coming = [step for step in steps if step.total_bytes]
    assert {(step.status, step.digest, step.total_bytes) for step in coming} == {
        (f"pulling {SHA256[:12]}", f"sha256:{SHA256}", len(CONTENT))
    }
    sizes = [step.completed_bytes for step in coming]
    assert (sizes[0], sizes[-1]) == (0, len(CONTENT))
    assert max(after - before for before, after in pairwise(sizes)) == MIB
    assert sizes == sorted(sizes)
    assert steps[-1].status == "verifying sha256 digest"


def test_a_stopped_download_continues_where_it_stopped(fake, hub):
    with pytest.raises(EnoughError):
        fetch_files(hub, REPO, FileChoice(), stop_after(10 * MIB))
    assert blob(hub, ".incomplete").stat().st_size == 10 * MIB
    steps: list[PullProgress] = []
    (file,) = fetch_files(hub, REPO, FileChoice(), listener(steps))
    assert file.path.read_bytes() == CONTENT
    assert fake.ranges == ["", f"bytes={10 * MIB}-"]
    assert steps[0].completed_bytes == 10 * MIB
    assert not blob(hub, ".incomplete").exists()


def test_after_an_interrupt_the_last_report_counts_all_bytes_that_are_kept(hub):
    reported: list[int] = []
    interrupts = [KeyboardInterrupt]

    def progress(step: PullProgress) -> None:
        if step.completed_bytes and interrupts:  # the bytes are written, but not reported yet
            raise interrupts.pop()
        reported.append(step.completed_bytes)

    with pytest.raises(KeyboardInterrupt):
        fetch_files(hub, REPO, FileChoice(), Listener(lambda line: None, progress))
    assert reported == [0, MIB]
    assert blob(hub, ".incomplete").stat().st_size == MIB


def test_an_interrupted_download_is_resumed(fake, hub):
    fake.cuts = [15 * MIB]
    (file,) = fetch_files(hub, REPO, FileChoice(), listener([]))
    assert file.path.read_bytes() == CONTENT
    assert fake.ranges == ["", f"bytes={15 * MIB}-"]


def test_a_download_that_fails_says_how_much_is_kept(fake, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    fake.cuts = [15 * MIB] + [0] * 10
    with pytest.raises(ModelFileError, match=r"15\.7 MB of 25\.2 MB") as caught:
        fetch_model(hub, REPO, None, None, lambda line: None)
    assert "\n" not in caught.value.message
    fake.cuts.clear()
    assert fetch_model(hub, REPO, None, None, lambda line: None).read_bytes() == CONTENT


def test_a_hub_that_ignores_ranges_sends_everything_again(fake, hub):
    with pytest.raises(EnoughError):
        fetch_files(hub, REPO, FileChoice(), stop_after(10 * MIB))
    fake.ignores_ranges = True
    (file,) = fetch_files(hub, REPO, FileChoice(), listener([]))
    assert file.path.read_bytes() == CONTENT


def test_a_partial_file_longer_than_the_whole_is_started_again(fake, hub):
    blob(hub).parent.mkdir(parents=True)
    blob(hub, ".incomplete").write_bytes(CONTENT + b"!")
    assert fetch_model(hub, REPO, None, None, lambda line: None).read_bytes() == CONTENT
    assert fake.ranges == [""]


@pytest.mark.parametrize("etag", ["0" * 64, "0" * 40])
def test_content_with_another_hash_is_deleted(fake, hub, etag):
    fake.etags[NAME] = etag
    with pytest.raises(ModelFileError, match=f"hash is [0-9a-f]+, the hub declares {etag}"):
        fetch_model(hub, REPO, None, None, lambda line: None)
    assert [path for path in hub.cache_dir.rglob("*") if path.is_file() and path.stat().st_size > 1000] == []


@pytest.mark.parametrize("etag", ["6b1cbb8f2e1ac1e1ac2fb35d9c1c7a3bd7be8c4a-3", "W/strange"])
def test_an_etag_that_is_not_a_hash_is_not_checked(fake, hub, etag):
    fake.etags[NAME] = etag
    (file,) = fetch_files(hub, REPO, FileChoice(), listener([]))
    assert file.sha256 == SHA256


def test_git_s_own_hash_of_a_small_file_is_checked(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"hello\n")
    check_content(path, "ce013625030ba8dba906f756967f9e9ca394464a", 6, "f")  # git hash-object
    with pytest.raises(ModelFileError, match=r"^f .*6 bytes, the hub declares 7;"):
        check_content(path, "ce013625030ba8dba906f756967f9e9ca394464a", 7, "f")
    assert not path.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_reported(hub):
    blob(hub).parent.mkdir(parents=True)
    blob(hub, ".incomplete").symlink_to("/dev/full")
    with pytest.raises(ModelFileError, match=r"disk is full.*HF_HUB_CACHE"):
        fetch_model(hub, REPO, None, None, lambda line: None)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EDQUOT, r"^org/x cannot be downloaded: the disk is full; free some space or set HF_HUB_CACHE$"),
        (errno.EROFS, r"^org/x cannot be stored: .*Read-only file system; set HF_HUB_CACHE to a folder"),
        (errno.EFBIG, r"^org/x cannot be stored: .*File too large; set HF_HUB_CACHE to a folder"),
    ],
)
def test_a_disk_that_takes_no_more_is_not_the_network(number, message):
    with pytest.raises(ModelFileError, match=message), explained("org/x"):
        raise OSError(number, os.strerror(number))


def test_a_file_that_cannot_fit_is_not_started(tmp_path):
    with pytest.raises(ModelFileError, match=r"big needs 1000\.0 TB more, .* [0-9.]+ [kMGT]?B free"):
        check_room(tmp_path, 10**15, "big")
    check_room(tmp_path, 1, "small")


def test_a_converter_gets_configurations_tokenizer_and_weights_in_one_folder(fake, hub):
    wanted = {
        "config.json": b"{}",
        "tokenizer.json": b"{}",
        "modules.json": b"[]",
        "1_Pooling/config.json": b"{}",
        "2_Dense/model.safetensors": b"dense",
        "model.safetensors": b"weights",
        "vocab.txt": b"a",
        "README.md": b"#",
    }
    others = {"pytorch_model.bin": b"x", "onnx/model.onnx": b"x", "onnx/config.json": b"{}", "tf_model.h5": b"x"}
    fake.files["org/original"] = wanted | others
    folder = fetch_directory(hub, "org/original", lambda line: None)
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == wanted
    fake.requests.clear()
    offline = Hub(endpoint=hub.endpoint, cache_dir=hub.cache_dir, offline=True)
    assert fetch_directory(offline, "org/original", lambda line: None) == folder
    assert fake.requests == []


def test_a_repository_without_weights_for_the_converter_is_refused(fake, hub):
    fake.files["org/pickled"] = {"pytorch_model.bin": b"x", "config.json": b"{}"}
    with pytest.raises(ModelFileError, match=r"^org/pickled .*safetensors"):
        fetch_directory(hub, "org/pickled", lambda line: None)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (99_000, "99 kB"),
        (1_000_000, "1.0 MB"),
        (999_600, "1.0 MB"),
        (123_456_789, "123 MB"),
        (99_960_000, "100 MB"),
        (2_500_000_000, "2.5 GB"),
        (10**15, "1000.0 TB"),
    ],
)
def test_sizes_read_well(n_bytes, text):
    assert human_size(n_bytes) == text
