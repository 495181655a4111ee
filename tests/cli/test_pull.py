"""`gguf-embed pull`: its downloads, its output, and interrupted downloads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from gguf_embed.cli.pull import with_quant
from gguf_embed.cli.terminal import duration_text
from gguf_embed.errors import ConfigError, InvalidRequest
from tests.cli.command import Place
from tests.cli.screen import screen
from tests.gguf_models import write_tiny_encoder
from tests.model_store.fake_hub import FakeHub, serve
from tests.server_process import wait_until

REPO = "org/tiny-GGUF"
MIB = 2**20


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_encoder(tmp_path_factory.mktemp("model") / "m.gguf").read_bytes()


@pytest.fixture
def fake(model):
    padded = model + bytes(24 * MIB - len(model))
    files = {REPO: {"tiny-F16.gguf": model, "tiny-Q8_0.gguf": model + b"\0"}, "org/big": {"big.gguf": padded}}
    with serve(FakeHub(files=files, refused={"org/gated": (401, "GatedRepo")})) as hub:
        yield hub


@pytest.fixture
def place(fake, tmp_path):
    return Place(tmp_path, fake.endpoint)


@pytest.mark.process
def test_a_model_is_pulled_with_one_line_per_step(place):
    done = place.run("pull", REPO)
    assert (done.returncode, done.stdout) == (
        0,
        f"pulled {REPO}:Q8_0: 99 kB, {place.folder}/hub/models--org--tiny-GGUF/snapshots/"
        "0123456789abcdef0123456789abcdef01234567/tiny-Q8_0.gguf\n",
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("pulling ")
    assert line.endswith(" (99 kB)")


@pytest.mark.process
def test_quant_chooses_the_file_and_a_second_pull_is_silent(fake, place):
    assert "tiny-F16.gguf" in place.run("pull", REPO, "--quant", "f16").stdout
    fake.requests.clear()
    done = place.run("pull", f"{REPO}:F16")
    assert (done.returncode, done.stderr, fake.downloads) == (0, "", [])


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["org/gated"], ["org/gated", "gated", "HF_TOKEN"]),
        (["org/nothing"], ["org/nothing", "private"]),
        ([REPO, "--quant", "Q6_K"], [REPO, "Q6_K", "tiny-F16.gguf, tiny-Q8_0.gguf"]),
        (["../../etc/no-such-file"], ["'../../etc/no-such-file'"]),
        (["jina-reranker-v3.5"], ["jina-reranker-v3.5", "window"]),
        (["all-minillm"], ["'all-minillm'"]),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(place, arguments, words):
    done = place.run("pull", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("gguf-embed: ")
    assert [word for word in words if word not in line] == []


@pytest.mark.process
def test_offline_is_an_error_for_missing_files_only(place):
    place.run("pull", REPO)
    assert place.run("pull", REPO, HF_HUB_OFFLINE="1").returncode == 0
    done = place.run("pull", "org/big", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "offline mode (--offline or HF_HUB_OFFLINE) forbids downloading it" in done.stderr


@pytest.mark.process
def test_without_the_hub_the_cached_files_are_used_with_a_warning(place):
    place.run("pull", REPO)
    done = place.run("pull", REPO, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0
    assert [word for word in ("hub", "org/tiny-GGUF", "cached") if word not in done.stderr] == []


@pytest.mark.process
def test_ctrl_c_keeps_the_partial_download_and_prints_how_to_resume(fake, place):
    pty = pytest.importorskip("pty")
    fake.holds_after = 12 * MIB
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gguf_embed", "pull", "org/big"]
    with subprocess.Popen(command, env=place.environment, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        seen = os.read(ours, 4096)  # the bar has begun
        wait_until(lambda: [path.stat().st_size for path in place.partial_files] == [12 * MIB])
        process.send_signal(signal.SIGINT)
        while b"stopped" not in seen:
            seen += os.read(ours, 4096)
        assert process.wait(30) == 130
    os.close(ours)
    assert b"\r" in seen
    assert b"12.6 MB of 25.2 MB; `gguf-embed pull org/big`" in seen
    assert b"Traceback" not in seen
    assert [path.stat().st_size for path in place.partial_files] == [12 * MIB]
    fake.holds_after = None
    assert place.run("pull", "org/big").returncode == 0
    assert fake.ranges[-1] == f"bytes={12 * MIB}-"
    assert place.partial_files == []


@pytest.mark.process
def test_on_a_terminal_of_any_width_only_the_result_stays(place):
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    for columns in (50, 80):
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, columns))
        command = [sys.executable, "-m", "gguf_embed", "pull", REPO]
        with subprocess.Popen(
            command, env=place.environment | {"TERM": "xterm"}, stdout=theirs, stderr=theirs
        ) as process:
            os.close(theirs)
            written = b""
            with suppress(OSError):  # the other side is closed
                while part := os.read(ours, 4096):
                    written += part
            assert process.wait(30) == 0
        os.close(ours)
        first, *rest = screen(written.decode(), columns)
        assert first.startswith(f"pulled {REPO}:Q8_0: 99 kB, ")
        assert rest[-1] == f"gguf-embed serve -m {REPO}:Q8_0"


@pytest.mark.parametrize(
    ("name", "quant", "full"),
    [("m", None, "m"), ("m", "Q8_0", "m:Q8_0"), ("o/r:q8_0", "Q8_0", "o/r:Q8_0"), ("m:latest", "f16", "m:f16")],
)
def test_quant_is_another_way_to_write_the_name(name, quant, full):
    assert with_quant(name, quant) == full


@pytest.mark.parametrize(
    ("name", "quant", "error", "message"),
    [
        ("m:F16", "Q8_0", ConfigError, "m:F16 .*--quant .*Q8_0"),
        ("m", "best", ConfigError, "--quant 'best'"),
        ("../m", "Q8_0", InvalidRequest, "'../m"),
    ],
)
def test_quant_that_contradicts_the_name_is_refused(name, quant, error, message):
    with pytest.raises(error, match=message):
        with_quant(name, quant)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (7200, "2 h")]
)
def test_durations_read_well(seconds, text):
    assert duration_text(seconds) == text
