"""Where the server can be reached: several addresses, both stacks, Unix sockets, a path prefix, TLS."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import urllib.request
from pathlib import Path

import pytest

from gguf_embed.cli.flag_types import PathPrefix
from gguf_embed.errors import ConfigError
from gguf_embed.server.listen import ListenAddress, bind_all, check_addresses, parse_hosts, url_to_try
from gguf_embed.server.tls import load_tls
from tests.server_process import READY, Server, run_to_end


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def urls_of(server: Server) -> list[str]:
    return [line.removeprefix(READY) for line in server.banner if line.startswith(READY)]


def run_banner_command(server: Server) -> list[float]:
    """The last line of the banner in a shell, as a user pastes it: the vector of its text."""
    line = server.banner[-1]
    assert line.startswith("curl ")
    done = subprocess.run(f"{line} --silent --show-error --max-time 30", shell=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    vector: list[float] = json.loads(done.stdout)["data"][0]["embedding"]
    return vector


def status_of(url: str) -> int:
    with urllib.request.urlopen(f"{url}/health", timeout=30) as reply:
        return int(reply.status)


@pytest.fixture
def encoder(models) -> Path:
    return models / "encoder.gguf"


# several addresses


@needs_ipv6
@needs_curl
def test_double_colon_alone_takes_both_stacks(launch, encoder):
    server = launch("-m", encoder, "--host", "::")
    assert urls_of(server) == [f"http://[::]:{server.port}"]
    assert status_of(f"http://127.0.0.1:{server.port}") == 200
    assert status_of(f"http://[::1]:{server.port}") == 200
    assert len(run_banner_command(server)) == 32


@needs_ipv6
@needs_curl
@pytest.mark.parametrize(
    ("flags", "environment"),
    [
        (["--host", "127.0.0.1,::1"], {}),
        (["--host", "127.0.0.1", "--host", "[::1]"], {}),
        ([], {"LLAMA_ARG_HOST": "127.0.0.1, ::1"}),
    ],
)
def test_several_addresses_share_a_port_and_are_all_listed(launch, encoder, flags, environment):
    server = launch("-m", encoder, *flags, **environment)
    assert urls_of(server) == [f"http://127.0.0.1:{server.port}", f"http://[::1]:{server.port}"]
    assert all(status_of(url) == 200 for url in urls_of(server))
    assert len(run_banner_command(server)) == 32


@needs_ipv6
def test_ollamas_port_is_open_on_every_address(launch, encoder):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = launch("-m", encoder, "--host", "127.0.0.1,::1", "--ollama-port", str(port))
    lines = [line for line in server.banner if line.startswith("ollama ")]
    assert lines == [f"ollama   http://127.0.0.1:{port}", f"ollama   http://[::1]:{port}"]
    assert status_of(f"http://[::1]:{port}") == 200
    assert len(urls_of(server)) == 2


def test_hosts_are_parsed_as_llama_server_does():
    assert [one.host for one in parse_hosts(["a, b", "[::1]", "a"], 1)] == ["a", "b", "::1"]
    assert [one.is_dual for one in parse_hosts(["::"], 1)] == [True]
    assert [one.is_dual for one in parse_hosts(["::,127.0.0.1"], 1)] == [False, False]
    assert [one.is_dual for one in parse_hosts(["::", "/x.sock"], 1)] == [True, True]
    with pytest.raises(ConfigError, match="--host 'a,,b' has an empty entry"):
        parse_hosts(["a,,b"], 1)
    with pytest.raises(ConfigError, match="--host http://x is a URL: give only its host there"):
        parse_hosts(["http://x"], 1)
    with pytest.raises(ConfigError, match="--ollama-port 2 needs an address, and --host names Unix sockets only"):
        parse_hosts(["/x.sock"], 1, 2)


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("x.sock", "x.sock"),
        ("/run/x.sock", "/run/x.sock"),
        ("/run/x", "/run/x"),
        ("unix:/run/x", "/run/x"),
        ("unix:///run/x", "/run/x"),
        ("127.0.0.1", None),
        ("::1", None),
        ("localhost", None),
    ],
)
def test_a_path_is_a_unix_socket(host, path):
    assert ListenAddress(host).socket_path == (None if path is None else Path(path))


def test_all_addresses_are_taken_or_none():
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        port, free_port = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is in use: .* with --ollama-port"):
            bind_all([ListenAddress("127.0.0.1", free_port), ListenAddress("127.0.0.1", port, "--ollama-port")])
        check_addresses([ListenAddress("127.0.0.1", free_port)])  # the first was given back


def test_a_name_stands_for_all_its_addresses_on_one_port():
    (bound,) = bind_all([ListenAddress("localhost", 0)])
    assert {one.getsockname()[1] for one in bound.sockets} == {bound.port}
    bound.close()


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("127.0.0.1:8080", "cannot listen on 127.0.0.1:8080 port 1: .*: give an address of this machine with --host"),
        ("no.such.host.invalid", "cannot listen on no.such.host.invalid port 1: .*--host"),
    ],
)
def test_an_address_of_no_machine_is_one_clear_line(host, message):
    with pytest.raises(ConfigError, match=message):
        check_addresses([ListenAddress(host, 1)])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://0.0.0.0:1/p", "http://127.0.0.1:1/p"),
        ("http://[::]:1", "http://[::1]:1"),
        ("https://[::]:1/p", "-k https://[::1]:1/p"),
        ("unix:/x.sock", "--unix-socket /x.sock http://localhost/p"),
    ],
)
def test_the_url_to_try_can_be_reached_from_here(url, words):
    assert url_to_try(url, "/p") == words


# Unix sockets


def ask_socket(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(path))
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return b"".join(iter(lambda: client.recv(65536), b""))


@needs_curl
def test_a_unix_socket_is_for_owner_and_group_and_removed_at_the_end(launch, encoder, tmp_path):
    path = tmp_path / "x.sock"
    server = launch("-m", encoder, "--host", path)
    assert urls_of(server) == [f"unix:{path}"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert b" 200 " in ask_socket(path)
    assert len(run_banner_command(server)) == 32
    code, printed = server.end(signal.SIGTERM)
    assert (code, "Traceback" in printed) == (0, False)
    assert not path.exists()


def test_a_socket_and_an_address_serve_together(launch, encoder, tmp_path):
    path = tmp_path / "x.sock"
    server = launch("-m", encoder, "--host", f"127.0.0.1,{path}", "--api-prefix", "/emb")
    assert urls_of(server) == [f"http://127.0.0.1:{server.port}/emb", f"unix:{path}"]
    assert server.get("/emb/health").status == 200
    assert b" 404 " in ask_socket(path)  # the prefix holds there, too


def test_what_a_killed_server_left_is_replaced(launch, encoder, tmp_path):
    path = tmp_path / "x.sock"
    first = launch("-m", encoder, "--host", path)
    first.process.kill()
    first.process.wait()
    assert path.exists()
    launch("-m", encoder, "--host", path)
    assert b" 200 " in ask_socket(path)


def test_a_socket_in_use_is_left_alone(launch, encoder, tmp_path, cache_dir):
    path = tmp_path / "x.sock"
    launch("-m", encoder, "--host", path)
    second = run_to_end(cache_dir, "serve", "-m", encoder, "--host", path)
    assert second.returncode == 1
    assert second.stderr.startswith(f"gguf-embed: {path} is in use: stop the program that uses it, or choose another")
    assert b" 200 " in ask_socket(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file.sock", "file.sock exists and is not a socket: choose another path with --host"),
        ("no/folder/x.sock", "there is no folder .*/no/folder: make it"),
        ("x" * 200 + ".sock", "at most 107 bytes"),
    ],
)
def test_a_path_that_cannot_be_a_socket_is_one_clear_line(name, message, tmp_path):
    (tmp_path / "file.sock").write_text("mine")
    with pytest.raises(ConfigError, match=message):
        check_addresses([ListenAddress(str(tmp_path / name))])
    assert (tmp_path / "file.sock").read_text() == "mine"


def test_a_socket_that_another_server_has_replaced_is_not_removed(tmp_path):
    path = tmp_path / "x.sock"
    (bound,) = bind_all([ListenAddress(str(path))])
    path.rename(tmp_path / "old.sock")
    path.write_text("another's")
    bound.close()
    assert path.read_text() == "another's"


# a prefix


@pytest.fixture(scope="module")
def prefixed(cache_dir, models):
    from tests.server_process import start_server, stop

    server = start_server(cache_dir, "-m", models / "encoder.gguf", "--api-prefix", "/emb/", "--api-key", "k")
    yield server
    stop(server)


KEY = {"Authorization": "Bearer k"}


@pytest.mark.process
def test_every_route_is_below_the_prefix_and_none_beside_it(prefixed):
    from gguf_embed.server.app import DIALECTS

    for route in (route for dialect in DIALECTS for route in dialect.routes):
        path = re.sub(r"{[^}]*}", "encoder", route.path)
        body = b"{}" if route.method == "POST" else None
        beside = prefixed.request(route.method, path, body, KEY)
        assert beside.status == 404, route
        assert beside.headers["Content-Type"].startswith("application/json")
        below = prefixed.request(route.method, f"/emb{path}", body, KEY)
        assert below.status not in (405, 500), route
        assert b"there is no route" not in below.body.lower(), route


@pytest.mark.process
@needs_curl
def test_the_banner_the_pages_and_the_description_name_the_prefix(prefixed):
    assert urls_of(prefixed) == [f"http://127.0.0.1:{prefixed.port}/emb"]
    command = prefixed.banner[-1].replace("YOUR_KEY", "k")
    done = subprocess.run(f"{command} --silent --fail", shell=True, capture_output=True, text=True)
    assert len(json.loads(done.stdout)["data"][0]["embedding"]) == 32
    index = prefixed.get("/emb/", **KEY).body.decode()
    assert " /emb/v1/embeddings " in index
    assert f"curl -w '\\n' http://127.0.0.1:{prefixed.port}/emb/v1/embeddings" in index
    docs = prefixed.get("/emb/docs").body.decode()
    assert f"http://127.0.0.1:{prefixed.port}/emb/v1/embeddings" in docs
    page = prefixed.get("/emb/", Accept="text/html")
    assert page.status == 200
    assert b'href="docs"' in page.body  # relative
    redirect = prefixed.get("/emb")
    assert (redirect.status, redirect.headers["Location"]) == (308, "/emb/")


@pytest.mark.process
def test_health_below_the_prefix_needs_no_key_and_errors_keep_their_dialect(prefixed):
    assert prefixed.get("/emb/health").status == 200
    assert prefixed.get("/emb/v1/models").status == 401
    ollama = prefixed.get("/emb/api/no-such", **KEY)
    assert isinstance(ollama.json()["error"], str)  # Ollama's shape
    assert "/emb/v1/embeddings" in prefixed.get("/emb/v1/embedding", **KEY).json()["error"]["message"]


@pytest.mark.parametrize(
    ("written", "prefix"), [("/emb", "/emb"), ("emb/", "/emb"), ("/a/b-c_1.~", "/a/b-c_1.~"), ("/", ""), ("", "")]
)
def test_a_prefix_begins_with_a_slash_and_ends_without(written, prefix):
    assert PathPrefix().convert(written, None, None) == prefix


@pytest.mark.parametrize("written", ["/a b", "/{x}", "/a?b", "/a//b", "/ä"])
def test_a_prefix_that_is_no_path_is_refused(written):
    with pytest.raises(Exception, match="is not a path such as /embeddings"):
        PathPrefix().convert(written, None, None)


# TLS


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and localhost, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")
    folder = tmp_path_factory.mktemp("tls")
    make_pair(folder, "server")
    make_pair(folder, "other")
    subprocess.run(
        ["openssl", "pkey", "-in", "server.key", "-aes256", "-passout", "pass:x", "-out", "locked.key"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder / "server.pem", folder / "server.key"


def make_pair(folder: Path, name: str) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip


@needs_curl
def test_https_with_the_servers_certificate(launch, encoder, pair):
    certificate, key = pair
    server = launch("-m", encoder, "--ssl-cert-file", certificate, LLAMA_ARG_SSL_KEY_FILE=str(key))
    url = f"https://127.0.0.1:{server.port}"
    assert urls_of(server) == [url]
    assert len(run_banner_command(server)) == 32
    trusting = ["curl", "--silent", "--show-error", "--cacert", str(certificate), f"{url}/health"]
    assert json.loads(subprocess.run(trusting, capture_output=True, check=True).stdout) == {"status": "ok"}
    distrusting = subprocess.run(["curl", "--silent", f"{url}/health"], capture_output=True)
    assert distrusting.returncode == 60  # curl's: the certificate is not known
    context = ssl.create_default_context(cafile=str(certificate))
    with urllib.request.urlopen(f"{url}/", context=context, timeout=30) as reply:
        assert f"curl -w '\\n' {url}/v1/embeddings" in reply.read().decode()
    plain = subprocess.run(["curl", "--silent", f"http://127.0.0.1:{server.port}/health"], capture_output=True)
    assert plain.returncode != 0
    assert status_with(context, url) == 200  # and the server still answers


def status_with(context: ssl.SSLContext, url: str) -> int:
    with urllib.request.urlopen(f"{url}/health", context=context, timeout=30) as reply:
        return int(reply.status)


def test_neither_file_is_plain_http():
    assert load_tls(None, None) is None


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("server.pem", None, r"--ssl-cert-file needs --ssl-key-file as well"),
        (None, "server.key", r"--ssl-key-file needs --ssl-cert-file as well"),
        ("none.pem", "server.key", r"--ssl-cert-file .*none.pem cannot be read: No such file"),
        ("server.pem", "none.key", r"--ssl-key-file .*none.key cannot be read: No such file"),
        ("server.key", "server.key", r"--ssl-cert-file .*server.key does not contain a PEM certificate"),
        ("server.pem", "server.pem", r"--ssl-key-file .*server.pem does not contain a PEM private key"),
        ("server.pem", "other.key", r"--ssl-key-file .*other.key is not the key of --ssl-cert-file .*server.pem"),
        ("server.pem", "locked.key", r"--ssl-key-file .*locked.key is encrypted: decrypt it"),
        ("bad.pem", "server.key", r"--ssl-cert-file .*bad.pem with --ssl-key-file .*server.key cannot be used"),
        (".", "server.key", r"--ssl-cert-file .* cannot be read: Is a directory"),
    ],
)
def test_a_wrong_file_is_named(pair, certificate, key, message):
    folder = pair[0].parent
    (folder / "bad.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match=message):
        load_tls(*(None if name is None else folder / name for name in (certificate, key)))


@pytest.mark.process
def test_a_wrong_file_ends_the_start_in_one_line(cache_dir, encoder, tmp_path):
    ended = run_to_end(cache_dir, "serve", "-m", encoder, "--ssl-cert-file", tmp_path / "a", "--ssl-key-file", "b")
    assert ended.returncode == 1
    assert ended.stderr == f"gguf-embed: --ssl-cert-file {tmp_path / 'a'} cannot be read: No such file or directory; " \
        "check the path\n"  # fmt: skip
