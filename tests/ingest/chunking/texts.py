"""Random texts, and a tokenizer for tests that have no model."""

from __future__ import annotations

import random
import re

from gguf_embed.types import Span

_PIECES = re.compile(r"[^\W_]{1,4}|[^\w\s]|_")

WORDS = (
    "a",
    "to",
    "Server",
    "embedding",
    "naïve",
    "well-known",
    "don't",
    "3.14",
    "e.g.",
    "snake_case",
    "Übergröße",
    "x",
)
CHINESE = "資料庫儲存了許多文件，每一份都有自己的標題。我們把它們切成小塊！"
JAPANESE = "これは日本語のテキストです。カタカナも、漢字も入っています。"
EMOJI = ("👩‍👩‍👧‍👦", "🇩🇪🇫🇷", "👍🏽", "❤️", "😀😀😀")


def pieces_of(text: str) -> list[Span | None]:
    """Tokens of at most four letters, and one for each mark."""
    return [match.span() for match in _PIECES.finditer(text)]


def words(random_: random.Random, n: int) -> str:
    return " ".join(random_.choices(WORDS, k=n))


def sentence(random_: random.Random) -> str:
    return words(random_, random_.randint(1, 25)).capitalize() + random_.choice([". ", "! ", "?  ", ".\n", ".\r\n"])


def paragraph(random_: random.Random) -> str:
    return "".join(sentence(random_) for _ in range(random_.randint(1, 6)))


def code(random_: random.Random) -> str:
    lines = [random_.choice(["# comment", "x = 1", "    indented(call)", "", "def f():"]) for _ in range(8)]
    return "```python\n" + "\n".join(lines) + "\n```"


def nested_list(random_: random.Random) -> str:
    return "\n".join("  " * random_.randint(0, 2) + "- " + words(random_, 6) for _ in range(6))


def random_text(seed: int) -> str:
    """One to 30 parts of all kinds, prose and Markdown, with any whitespace between them."""
    random_ = random.Random(seed)
    kinds = [
        lambda: paragraph(random_),
        lambda: paragraph(random_),
        lambda: "#" * random_.randint(1, 4) + " " + words(random_, 3),
        lambda: words(random_, 2) + "\n" + random_.choice("=-") * 8,
        lambda: code(random_),
        lambda: nested_list(random_),
        lambda: CHINESE * random_.randint(1, 8),
        lambda: JAPANESE * random_.randint(1, 8),
        lambda: random_.choice(EMOJI) * random_.randint(1, 30),
        lambda: "x" * random_.randint(1, 400),
        lambda: "https://example.org/" + "/".join(random_.choices(WORDS[:4], k=random_.randint(1, 40))),
        lambda: "\t".join(random_.choices(WORDS, k=12)),
        lambda: "\u200b" * 3,
    ]
    gaps = ["\n\n", "\r\n\r\n", "\n", " ", "\n \t\n\n", "\u3000", "\f", "", "  " * 200]
    weights = [10, 3, 3, 3, 1, 1, 1, 1, 1]
    parts = []
    for _ in range(random_.randint(1, 30)):
        parts += [random_.choice(kinds)(), *random_.choices(gaps, weights)]
    return "".join(parts)
