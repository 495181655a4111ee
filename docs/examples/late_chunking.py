"""Late chunking: find the sentence that answers a question, even though it says "It" instead of "Berlin".

The model reads the whole text once, and each sentence gets its own vector ("spans"), so "It" is understood.

python docs/examples/late_chunking.py [--url http://127.0.0.1:8080]
"""

from __future__ import annotations

import argparse
import json
import re
import urllib.request
from typing import Any

import numpy as np

TEXT = (
    "Berlin is the capital of Germany. It has 3.8 million inhabitants. The wall that divided it fell in 1989. "
    "Its largest park is the Tiergarten. Many artists have moved there since."
)
QUESTION = "How many people live in Berlin?"


def embed(url: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The reply's `data`. Spans need mean pooling, so it is set regardless of the model's default."""
    body = {"pooling": "mean", **body}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/embeddings", json.dumps(body).encode())) as reply:
        return json.load(reply)["data"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    url = parser.parse_args().url

    spans = [list(match.span()) for match in re.finditer(r"\S[^.]*(?:\.\d[^.]*)*\.", TEXT)]
    together = embed(url, {"input": TEXT, "spans": spans})
    alone = embed(url, {"input": [TEXT[start:end] for start, end in spans]})
    (question,) = embed(url, {"input": QUESTION})

    print(f"{QUESTION}\n\n  in context   alone")
    for late, early in zip(together, alone, strict=True):
        start, end = late["span"]
        in_text, by_itself = (np.dot(item["embedding"], question["embedding"]) for item in (late, early))
        print(f"{in_text:12.3f}{by_itself:8.3f}  {TEXT[start:end]}")


if __name__ == "__main__":
    main()
