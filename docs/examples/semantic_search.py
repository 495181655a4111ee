"""Semantic search: embed a few documents once, then rank them for each query by cosine.

python docs/examples/semantic_search.py [--url http://127.0.0.1:8080] [QUERY ...]
"""

from __future__ import annotations

import argparse
import json
import urllib.request

import numpy as np

DOCUMENTS = [
    "The cat sleeps on the warm window sill all afternoon.",
    "Bread dough has to rise for an hour before it is baked.",
    "A train from Berlin to Munich takes about four hours.",
    "Photosynthesis turns sunlight, water and carbon dioxide into sugar.",
    "The central bank raised interest rates to slow down inflation.",
    "Regular backups protect your files when a hard disk fails.",
]
QUERIES = ["How do plants get their energy?", "a pet taking a nap", "avoid losing data"]


def embed(url: str, texts: list[str], kind: str) -> np.ndarray:
    """float32[n_texts, n_dims], with vectors of length 1. The input type `kind` adds the model's own prompt, if any."""
    body = json.dumps({"input": texts, "input_type": kind}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/embeddings", body)) as reply:
        return np.array([item["embedding"] for item in json.load(reply)["data"]], np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("queries", nargs="*", default=QUERIES, metavar="QUERY")
    options = parser.parse_args()

    documents = embed(options.url, DOCUMENTS, "document")
    queries = embed(options.url, options.queries, "query")
    for query, scores in zip(options.queries, queries @ documents.T, strict=True):
        print(f"\n{query}")
        for index in np.argsort(-scores)[:3]:
            print(f"  {scores[index]:.3f}  {DOCUMENTS[index]}")


if __name__ == "__main__":
    main()
