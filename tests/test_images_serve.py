"""Images over HTTP, with a tiny model and tower of random weights in a real process."""

import base64
import signal
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from tests.gguf_models import write_tiny_decoder, write_tiny_encoder
from tests.server_process import run_to_end, start_server, stop
from tests.vision_models import N_PATCHES, noise, png, png_chunk, write_tiny_mmproj

pytestmark = pytest.mark.process

ONE, TWO = png(noise(1)), png(noise(2))
B64, B64_TWO = (base64.b64encode(data).decode() for data in (ONE, TWO))
MARKED = {"prompt_string": "hello <__media__> world", "multimodal_data": [B64]}


def parts(*urls):
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"content": [{"type": "text", "text": "hello "}, *images, {"type": "text", "text": " world"}]}


def parts_of(words):
    image = {"type": "image_url", "image_url": {"url": B64}}
    return {"content": [{"type": "text", "text": words}, image]}


def claiming(width, height):
    """A PNG whose header has this size, in base64."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + header).decode()


THREE_LARGE = (claiming(4096, 4096), claiming(4096, 4096), claiming(1, 1))
PARTS = parts(f"data:image/png;base64,{B64}")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_tiny_decoder(folder / "text.gguf")
    write_tiny_mmproj(folder / "mmproj.gguf")
    return folder


@pytest.fixture(scope="module")
def web_site():
    """A web server on loopback; `site.asked` has the paths that were asked for."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            status, data = {"/one.png": (200, ONE), "/words": (200, b"words"), "/large": (200, b"x" * 17_000_000)}.get(
                self.path, (302 if self.path == "/moved" else 404, b"")
            )
            self.send_response(status)
            self.send_header("Location", "/one.png")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                self.wfile.write(data)
            except ConnectionError:  # the reader has had enough
                self.close_connection = True

        def log_message(self, *args):
            pass

    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    site.asked = []
    thread = threading.Thread(target=site.serve_forever, args=(0.01,))
    thread.start()
    yield site
    site.shutdown()
    thread.join()
    site.server_close()


@pytest.fixture(scope="module")
def server(files, web_site, tmp_path_factory):
    server = start_server(
        tmp_path_factory.mktemp("cache"), "-m", files / "text.gguf", "--mmproj", files / "mmproj.gguf",
        "--allow-remote-media", f"127.0.0.1:{web_site.server_port},localhost.localdomain:{web_site.server_port}",
        "--prompt", "query=hello ", "--weights", "file", "-fa", "on",
    )  # fmt: skip
    yield server
    stop(server)


@pytest.fixture(scope="module")
def text_server(files, tmp_path_factory):
    flags = ("--engine", "llama", "--weights", "file", "-fa", "on")  # as the server with images
    server = start_server(tmp_path_factory.mktemp("cache"), "-m", files / "text.gguf", *flags)
    yield server
    stop(server)


def message(reply):
    return reply.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embedding"])
def test_both_shapes_give_the_same_unit_vector_on_both_routes(server, path):
    vectors = [server.post(path, {"input": value}).vectors() for value in (MARKED, PARTS, [MARKED])]
    assert vectors[0].shape == (1, 32)
    assert np.linalg.norm(vectors[0]) == pytest.approx(1.0, abs=1e-5)
    for vector in vectors[1:]:
        np.testing.assert_array_equal(vector, vectors[0])
    np.testing.assert_array_equal(server.post("/v1/embeddings", {"input": MARKED}).vectors(), vectors[0])


@pytest.mark.parametrize("content", [PARTS, PARTS["content"], [PARTS]])
def test_content_takes_parts_as_one_input(server, content):
    np.testing.assert_array_equal(server.post("/embedding", {"content": content}).vectors(), server.embed(MARKED))


def test_texts_in_a_request_with_images_keep_their_index_and_their_vectors(server, text_server):
    vectors = server.embed(["hello world", MARKED, "", {**MARKED, "multimodal_data": [B64_TWO]}])
    np.testing.assert_allclose(vectors[[0, 2]], text_server.embed(["hello world", ""]), atol=1e-5)
    np.testing.assert_allclose(vectors[1], server.embed(MARKED)[0], atol=1e-6)
    assert np.abs(vectors[1] - vectors[3]).max() > 1e-3


def test_texts_alone_are_not_changed_by_the_tower(server, text_server):
    texts = ["hello world", "the end", "x" * 30]
    np.testing.assert_allclose(server.embed(texts), text_server.embed(texts), atol=1e-6)


def test_usage_counts_the_rows_of_the_image(server):
    usage = server.post("/v1/embeddings", {"input": PARTS}).json()["usage"]
    assert usage["prompt_tokens"] == 2 + N_PATCHES + 2


def test_the_usual_options_hold_for_images(server):
    plain = server.embed(PARTS)
    np.testing.assert_array_equal(server.embed(PARTS, encoding_format="base64"), plain)
    assert server.embed(PARTS, dimensions=8).shape == (1, 8)
    rows = server.post("/embedding", {"input": PARTS, "pooling": "none"}).vectors()
    assert rows.shape == (2 + N_PATCHES + 2, 32)
    last = server.post("/embedding", {"input": PARTS, "embd_normalize": -1}).vectors()
    np.testing.assert_allclose(rows[-1], last[0], atol=1e-3)
    mean = server.post("/embedding", {"input": PARTS, "pooling": "mean", "embd_normalize": -1}).vectors()
    np.testing.assert_allclose(rows.mean(axis=0), mean[0], atol=1e-3)


def test_a_prompt_goes_before_the_first_words(server):
    image = PARTS["content"][1:]
    asked = server.embed({"content": image}, input_type="query")
    np.testing.assert_array_equal(asked, server.embed(PARTS))


def test_images_from_a_named_host_are_fetched(server, web_site):
    url = f"http://127.0.0.1:{web_site.server_port}/one.png"
    np.testing.assert_array_equal(server.embed(parts(url)), server.embed(PARTS))


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/none.png", "answered 404"),
        ("/moved", "answered 302"),
        ("/words", "neither a PNG nor a JPEG"),
        ("/large", "larger than 16,777,216 bytes"),
    ],
)
def test_anything_but_an_image_from_an_allowed_host_is_a_400(server, web_site, path, problem):
    reply = server.post("/v1/embeddings", {"input": parts(f"http://127.0.0.1:{web_site.server_port}{path}")})
    assert reply.status == 400
    assert problem in message(reply)
    assert web_site.asked[-1] == path


def test_nothing_is_fetched_from_a_host_that_was_not_named(server, text_server, web_site):
    n_asked = len(web_site.asked)
    for asked, status, problem in ((server, 400, "--allow-remote-media"), (text_server, 501, "--mmproj FILE")):
        reply = asked.post("/embedding", {"input": parts(f"http://localhost:{web_site.server_port}/one.png")})
        assert (reply.status, problem in message(reply)) == (status, True), message(reply)
    assert len(web_site.asked) == n_asked


def test_an_unknown_host_is_a_400(files, launch):
    server = launch("-m", files / "text.gguf", "-mm", files / "mmproj.gguf", "--allow-remote-media", "127.0.0.1:1")
    reply = server.post("/embedding", {"input": parts("http://127.0.0.1:1/x.png")})
    assert reply.status == 400
    assert "127.0.0.1" in message(reply)
    assert "data:image/png;base64" in message(reply)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embedding"])
@pytest.mark.parametrize("value", [MARKED, PARTS, ["text", MARKED]])
def test_without_a_tower_images_are_a_501_with_the_way_out(text_server, path, value):
    reply = text_server.post(path, {"input": value})
    assert reply.status == 501
    assert "--mmproj FILE" in message(reply)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embedding"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spans", [[0, 2]]),
        ("spans", [[[0, 2]], [[0, 2]]]),
        ("late_chunking", True),
        ("return_tokens", True),
        ("long_input", "chunk_mean"),
        ("on_error", "skip"),
    ],
)
def test_an_option_for_texts_only_is_a_501_that_names_the_field(server, path, name, value):
    reply = server.post(path, {"input": ["hello", MARKED], name: value})
    assert reply.status == 501, message(reply)
    assert message(reply).startswith(f'"{name}"')
    assert "images" in message(reply)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embedding"])
def test_an_option_with_its_default_value_changes_nothing(server, path):
    fields = {"late_chunking": False, "spans": None, "on_error": "fail", "long_input": "ERROR", "offset_unit": "utf8"}
    asked = server.post(path, {"input": MARKED, "return_tokens": False, **fields})
    np.testing.assert_array_equal(asked.vectors(), server.embed(MARKED))


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embedding"])
def test_without_a_tower_parts_of_text_are_a_text(text_server, path):
    words = {"content": [{"type": "text", "text": "hello "}, {"type": "text", "text": "world"}]}
    np.testing.assert_array_equal(text_server.post(path, {"input": words}).vectors(), text_server.embed("hello world"))


@pytest.mark.parametrize(
    ("status", "problem", "body"),
    [
        (400, "multimodal_data has 1 entries", {"input": {"prompt_string": "a", "multimodal_data": [B64]}}),
        (400, "is not base64", {"input": {"prompt_string": "<__media__>", "multimodal_data": ["ÿ"]}}),
        (400, "damaged", {"input": {**MARKED, "multimodal_data": [base64.b64encode(ONE[:-30]).decode()]}}),
        (
            400,
            "(84 tokens",
            {"input": parts(*[f"data:image/png;base64,{B64}"] * 5)},
        ),
        (400, "input 1 has images of 33,554,433 pixels together", {"input": ["text", parts(*THREE_LARGE)]}),
        (400, "input 0 has 1,000,002 characters", {"input": parts_of("x" * 1_000_002)}),
        (400, "input 0 is ", {"input": [[1, 2], MARKED]}),
        (400, "this model has 32", {"input": MARKED, "dimensions": 33}),
        (501, "sound", {"input": {"content": [{"type": "input_audio", "input_audio": {"data": "AA=="}}]}}),
    ],
)
def test_a_wrong_request_is_an_error_and_the_server_still_works(server, status, problem, body):
    reply = server.post("/embedding", body)
    assert reply.status == status, message(reply)
    assert problem in message(reply)
    assert server.embed("still here").shape == (1, 32)


def test_props_name_the_marker_and_whether_images_are_read(server, text_server):
    for asked, sees in ((server, True), (text_server, False)):
        props = asked.get("/props").json()
        assert props["media_marker"] == "<__media__>"
        assert props["modalities"]["vision"] is sees


def test_nothing_of_llama_cpp_s_log_reaches_the_terminal(files, launch):
    server = launch("-m", files / "text.gguf", "--mmproj", files / "mmproj.gguf")
    assert "images   mmproj.gguf, experimental" in server.banner
    server.embed(PARTS)
    code, printed = server.end(signal.SIGTERM)
    assert (code, printed.splitlines()) == (0, ["stopped"])


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["-m", "text.gguf", "--mmproj", "text.gguf"], "is a qwen3 model, not a vision tower"),
        (["-m", "text.gguf", "--mmproj", "none.gguf"], "none.gguf: no such file; check the path\n"),
        (["-m", "bert.gguf", "--mmproj", "mmproj.gguf"], "bert.gguf reads a text as a whole"),
        (
            ["-m", "text.gguf", "--mmproj", "wide.gguf"],
            "mismatch between text model (n_embd = 32) and mmproj (n_embd = 48)",
        ),
        (
            ["-m", "a=text.gguf", "-m", "b=text.gguf", "--mmproj", "mmproj.gguf"],
            "--mmproj applies to a single model, but 2",
        ),
        (["--mmproj", "mmproj.gguf"], "--mmproj applies to a single model, but 0"),
        (["-m", "text.gguf", "--allow-remote-media", "http://x"], "give HOST or HOST:PORT"),
    ],
)
def test_a_start_that_cannot_work_is_refused_in_one_line(files, tmp_path, flags, problem):
    write_tiny_mmproj(tmp_path / "wide.gguf", n_embd_text=48)
    write_tiny_encoder(tmp_path / "bert.gguf")
    found = {
        "bert.gguf": tmp_path,
        "text.gguf": files,
        "mmproj.gguf": files,
        "wide.gguf": tmp_path,
        "none.gguf": tmp_path,
    }
    placed = [
        f"{name}={files / file}" if (name := flag.partition("=")[0]) in "ab" and (file := flag.partition("=")[2]) else
        str(found[flag] / flag) if flag in found else flag
        for flag in flags
    ]  # fmt: skip
    ended = run_to_end(tmp_path, "serve", "--port", "0", *placed)
    assert ended.returncode != 0
    assert problem in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr
