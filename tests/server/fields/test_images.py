"""Parsing requests with images in both shapes, and refusing invalid ones."""

import asyncio
import base64
import threading
import time
from dataclasses import replace

import pytest

from gguf_embed.errors import InvalidRequest, NotSupported
from gguf_embed.images.url_allowlist import RemoteHosts
from gguf_embed.server.fields import images as images
from gguf_embed.server.fields.image_fetch import RemoteImage
from gguf_embed.server.fields.images import MAX_IMAGES, MAX_PARTS, ImageRules, parse_images
from gguf_embed.server.http.errors import TooManyInputs
from gguf_embed.types import ImageInput
from tests.server.fake_service import MODEL, FakeService, serving
from tests.vision_models import noise, png

RULES = ImageRules(RemoteHosts(), max_inputs=2048)
ONE, TWO = png(noise(1)), png(noise(2))
B64 = base64.b64encode(ONE).decode()
B64_TWO = base64.b64encode(TWO).decode()
URL = f"data:image/png;base64,{B64}"


def text(words):
    return {"type": "text", "text": words}


def image(url):
    return {"type": "image_url", "image_url": {"url": url}}


def marked(words, *data):
    return {"prompt_string": words, "multimodal_data": list(data)}


@pytest.mark.parametrize(
    ("value", "left", "inputs"),
    [
        (marked("a <__media__> b", B64), "", [(0, ("a ", ONE, " b"))]),
        (marked("<__media__>", B64), "", [(0, (ONE,))]),
        (marked("<__media__><__media__>!", B64, B64_TWO), "", [(0, (ONE, TWO, "!"))]),
        (["x", marked("<__media__>", B64), "y"], ["x", "", "y"], [(1, (ONE,))]),
        ({"content": [text("a"), image(URL)]}, "", [(0, ("a", ONE))]),
        ({"content": [image(URL.replace("png", "jpeg"))]}, "", [(0, (ONE,))]),
        ({"content": [image(URL.replace(";base64", ";name=x;base64"))]}, "", [(0, (ONE,))]),
        ({"content": [{"type": "image_url", "image_url": B64}]}, "", [(0, (ONE,))]),
        ([{"content": [image("\n".join((B64[:76], B64[76:])))]}, [1, 2]], ["", [1, 2]], [(0, (ONE,))]),
        ({"content": [text("a <__media__>"), text(" b")]}, "a <__media__> b", []),
        ([{"content": [text("a"), text("b")]}, "c"], ["ab", "c"], []),
        (marked("words"), marked("words"), []),  # no images: the text parser reads it
        ([1, marked("<__media__>", B64)], [1, marked("<__media__>", B64)], []),  # and refuses this
    ],
)
def test_images_are_extracted_and_texts_are_kept(value, left, inputs):
    parsed = parse_images(value, "input", RULES)
    assert (parsed.value, list(parsed.inputs)) == (left, inputs)


def test_content_may_be_the_parts_themselves():
    parsed = parse_images([text("a"), image(URL)], "content", RULES)
    assert (parsed.value, parsed.inputs) == ([""], ((0, ("a", ONE)),))


def test_a_url_of_a_named_host_waits_to_be_fetched():
    parsed = parse_images({"content": [image("https://a.com/x.png")]}, "input", ImageRules(RemoteHosts(("a.com",)), 9))
    ((_, (part,)),) = parsed.inputs
    assert isinstance(part, RemoteImage)
    assert part.url.url == "https://a.com:443/x.png"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (marked("no marker", B64), 'input".prompt_string .*<__media__> 0 times.*multimodal_data has 1 entries'),
        (marked("<__media__><__media__>", B64), "<__media__> 2 times.*multimodal_data has 1 entries"),
        ([marked("<__media__>", "§§§")], r'"input\[0\]".multimodal_data\[0\] is not base64'),
        (marked("<__media__>", B64[:-3]), r"multimodal_data\[0\] is not base64"),
        (marked("<__media__>", 7), "must be a base64 string, found the number 7"),
        (marked("<__media__>", base64.b64encode(b"hello").decode()), "neither a PNG nor a JPEG"),
        (marked("<__media__>", "A" * 26_000_000), "26,000,000 characters"),
        ({"prompt_string": 5, "multimodal_data": [B64]}, "prompt_string must be a string, found the number 5"),
        ({"prompt_string": "a", "multimodal_data": "x"}, "multimodal_data must be an array"),
        ({"content": "words"}, "content must be an array of parts"),
        ({"content": []}, "content must be an array of parts, found an empty array"),
        ({"content": [{"type": "image", "image": B64}]}, r'content\[0\] must be {"type": "text"'),
        ({"content": ["words"]}, r"content\[0\] must be"),
        ({"content": [{"type": "image_url"}]}, r"content\[0\] must be"),
        ({"content": [image("file:///etc/passwd")]}, "only http, https and data URLs"),
        ({"content": [image("/etc/passwd")]}, "is not base64"),
        ({"content": [image("ftp://a.com/x.png")]}, "only http, https and data URLs"),
        ({"content": [image("data:text/plain;base64,AAAA")]}, "must be data:image/png;base64"),
        ({"content": [image("data:image/png,raw")]}, "must be data:image/png;base64"),
        ({"content": [image("https://a.com/x.png")]}, "a.com:443, "),
        ([marked("<__media__>", B64)] * (MAX_IMAGES + 1), "over 64 images.*limit per request"),
        (marked("x", *["AAAA"] * (MAX_IMAGES + 1)), "over 64 images"),
        ({"content": [text("a")] * (MAX_PARTS + 1)}, "over 10,000 parts"),
        ([{"content": [text("a")] * 5001}] * 2, "over 10,000 parts"),
        (marked("<__media__>", "é" + B64), r"is not base64 \(.*ASCII"),
        ([text("a"), {"content": [text("a"), image("§")]}], r'"input\[1\]".content\[1\].image_url is not base64'),
    ],
)
def test_an_error_names_the_place_in_the_request(value, problem):
    with pytest.raises(InvalidRequest, match=problem):
        parse_images(value, "input", RULES)


@pytest.mark.parametrize("kind", ["input_audio", "input_video", "video_url"])
def test_sound_and_video_are_not_supported(kind):
    with pytest.raises(NotSupported, match=r'^"input"\.content\[0\] is (sound|video)'):
        parse_images({"content": [{"type": kind, kind: {"data": "AAAA"}}]}, "input", RULES)


def test_an_error_in_content_parts_names_the_part():
    with pytest.raises(InvalidRequest, match=r'^"content\[1\]".image_url is not base64'):
        parse_images([text("a"), image("§")], "content", RULES)


@pytest.mark.parametrize(
    "value",
    [
        marked("<__media__>", "§§§"),
        {"content": [image("https://a.com/x.png")]},
        {"content": [image("ftp://a.com/x.png")]},
        [marked("no marker", B64)],
    ],
)
def test_a_model_without_a_tower_refuses_an_image_before_checking_it(value):
    with pytest.raises(NotSupported, match="no tower"):
        parse_images(value, "input", ImageRules(RemoteHosts(), 9, refusal=NotSupported("no tower")))


def test_fetched_images_are_checked_on_a_thread(monkeypatch):
    threads = []

    async def fetch(remote, max_bytes):
        return [ONE for _ in remote]

    def check(data, where):
        threads.append(threading.current_thread())

    monkeypatch.setattr(images, "fetch_images", fetch)
    monkeypatch.setattr(images, "check_image", check)

    async def scenario():
        service = FakeService(replace(MODEL, reads_images=True))
        async with serving(service, remote_hosts=RemoteHosts(("a.com",))) as running:
            reply = await running.post("/embedding", {"input": {"content": [image("http://a.com/x.png")]}})
        assert service.requests[0].images == (ImageInput(0, (ONE,)),)
        return reply

    assert asyncio.run(scenario()).status == 200
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_too_many_inputs_are_refused_before_the_first_is_read():
    with pytest.raises(TooManyInputs, match='"input" has 10 entries, the limit per request is 9'):
        parse_images([{"content": "not even parts"}] * 10, "input", ImageRules(RemoteHosts(), 9))


def test_whitespace_in_base64_is_skipped_without_a_list_of_its_pieces():
    spaced = " ".join(B64) + "\r\n\t\v\f" + " " * 1_000_000
    began_s = time.thread_time()
    parsed = parse_images(marked("<__media__>", spaced), "input", RULES)
    assert time.thread_time() - began_s < 0.3
    assert parsed.inputs == ((0, (ONE,)),)
    many = "aa " * 8_000_000
    with pytest.raises(InvalidRequest, match="neither a PNG nor a JPEG"):
        parse_images(marked("<__media__>", many), "input", RULES)
    assert time.thread_time() - began_s < 0.6  # in pieces it took over a second
