"""Both shapes of a request with pictures → what the service is asked, and what is refused."""

import base64

import pytest

from gguf_embed.errors import InvalidRequest, NotSupported
from gguf_embed.remote_hosts import RemoteHosts
from gguf_embed.server.pictures import MAX_PICTURES, parse_pictures
from gguf_embed.server.remote_pictures import RemotePicture
from tests.vision_models import noise, png

NO_HOSTS = RemoteHosts()
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
        (marked("words"), marked("words"), []),  # no pictures: the text parser reads it
        ([1, marked("<__media__>", B64)], [1, marked("<__media__>", B64)], []),  # and refuses this
    ],
)
def test_pictures_are_taken_out_and_texts_are_left(value, left, inputs):
    parsed = parse_pictures(value, "input", NO_HOSTS)
    assert (parsed.value, list(parsed.inputs)) == (left, inputs)


def test_content_may_be_the_parts_themselves():
    parsed = parse_pictures([text("a"), image(URL)], "content", NO_HOSTS)
    assert (parsed.value, parsed.inputs) == ([""], ((0, ("a", ONE)),))


def test_a_url_of_a_named_host_waits_to_be_fetched():
    parsed = parse_pictures({"content": [image("https://a.com/x.png")]}, "input", RemoteHosts(("a.com",)))
    ((_, (part,)),) = parsed.inputs
    assert isinstance(part, RemotePicture)
    assert part.url.url == "https://a.com:443/x.png"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (marked("no marker", B64), 'input".prompt_string has 0 times <__media__>, multimodal_data 1 entries'),
        (marked("<__media__><__media__>", B64), "2 times <__media__>, multimodal_data 1 entries"),
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
        ({"content": [image("file:///etc/passwd")]}, "files and other schemes are never read"),
        ({"content": [image("/etc/passwd")]}, "is not base64"),
        ({"content": [image("ftp://a.com/x.png")]}, "files and other schemes are never read"),
        ({"content": [image("data:text/plain;base64,AAAA")]}, "must be data:image/png;base64"),
        ({"content": [image("data:image/png,raw")]}, "must be data:image/png;base64"),
        ({"content": [image("https://a.com/x.png")]}, "a.com:443, and this server fetches nothing from there"),
        ([marked("<__media__>", B64)] * (MAX_PICTURES + 1), "holds 65 pictures, the limit per request is 64"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(value, problem):
    with pytest.raises(InvalidRequest, match=problem):
        parse_pictures(value, "input", NO_HOSTS)


@pytest.mark.parametrize("kind", ["input_audio", "input_video", "video_url"])
def test_sound_and_video_are_not_supported(kind):
    with pytest.raises(NotSupported, match="reads text and pictures only"):
        parse_pictures({"content": [{"type": kind, kind: {"data": "AAAA"}}]}, "input", NO_HOSTS)
