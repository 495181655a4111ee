"""Which URLs of a request may be fetched."""

import pytest

from gguf_embed.errors import ConfigError, InvalidRequest, WayOut
from gguf_embed.images.url_allowlist import is_public, parse_hosts

HOSTS = parse_hosts("Images.Example.com, 10.0.0.5:8000,[::1]:90,localhost")


@pytest.mark.parametrize(
    ("url", "fetched"),
    [
        ("https://images.example.com/a.png", "https://images.example.com:443/a.png"),
        ("http://IMAGES.example.COM?x=1#part", "http://images.example.com:80/?x=1"),
        ("http://10.0.0.5:8000/a%20b.png", "http://10.0.0.5:8000/a%20b.png"),
        ("http://[::1]:90/", "http://[::1]:90/"),
        ("https://localhost/x", "https://localhost:443/x"),
    ],
)
def test_the_url_of_an_allowed_host_is_rebuilt(url, fetched):
    assert HOSTS.check(url, "here").url == fetched


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png",
        "https://images.example.com.evil.com/a.png",
        "https://evilimages.example.com/",
        "https://images.example.com:8443/a.png",
        "http://10.0.0.5/a.png",
        "http://10.0.0.5:8001/a.png",
        "http://images.example.com@169.254.169.254/",
        "http://169.254.169.254/latest/meta-data",
        "http://0x0a000005:8000/",
        "http://user:password@images.example.com/",
        "http://images.example.com\\@evil.com/",
        "http://evil.com\\@images.example.com/",
        "http://images.example.com/a b",
        "http://images.example.com/a\r\nX: y",
        "http://images.example.com:x/",
        "http://[images.example.com/",
        "http:///a.png",
        "ftp://images.example.com/a.png",
        "file://images.example.com/etc/passwd",
    ],
)
def test_everything_else_is_refused(url):
    with pytest.raises(InvalidRequest, match=r"^here "):
        HOSTS.check(url, "here")


def test_without_the_flag_no_url_is_fetched_and_the_error_says_how_to_allow_it():
    with pytest.raises(InvalidRequest, match=r"example\.com:443") as caught:
        parse_hosts(None).check("https://example.com/a.png", "here")
    assert caught.value.ways_out == (WayOut.SEND_INLINE, WayOut.ALLOW_HOST)


@pytest.mark.parametrize(
    "value", ["", "a,", "http://a.com", "a.com/path", "a.com:", "a.com:0", "a.com:99999", "*", "a b"]
)
def test_an_invalid_host_is_refused_at_startup(value):
    with pytest.raises(ConfigError, match="--allow-remote-media"):
        parse_hosts(value)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::5db8:d822", True),  # NAT64 of 93.184.216.34
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::e000:1", False),
        ("64:ff9b:1::a00:1", False),
        ("2002:7f00:1::1", False),  # 6to4
        ("2002:a9fe:a9fe::", False),
        ("2001:0:7f00:1::1", False),  # Teredo
        ("2001:db8::1", False),
        ("::127.0.0.1", False),
        ("::ffff:0:127.0.0.1", False),
        ("fec0::1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("ff02::1", False),
        ("ff0e::1", False),
    ],
)
def test_private_addresses_are_known(address, public):
    assert is_public(address) is public
