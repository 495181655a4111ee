"""One vector per token: how well a document matches each word of a query (late interaction, as in ColBERT).

MaxSim is the best cosine with any token of the document, for each token of the query. Models that were not trained for
it only give a rough idea.

python docs/examples/token_vectors.py [--url http://127.0.0.1:8080]
"""

from __future__ import annotations

import argparse
import json
import urllib.request

import numpy as np

QUERY = "ships near the shore"
DOCUMENT = "We sat on the bank and watched the boats on the river."


def token_vectors(url: str, text: str) -> tuple[list[str], np.ndarray]:
    """The words of a text and float32[n_words, n_dims] of length 1, without special tokens such as [CLS]."""
    body = json.dumps({"content": text, "pooling": "none", "return_tokens": True}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/embedding", body)) as reply:
        (item,) = json.load(reply)
    places = item["tokens"]["offsets"]
    kept = [index for index, place in enumerate(places) if place is not None]
    rows = np.array([item["embedding"][index] for index in kept], np.float32)
    words = [text[places[index][0] : places[index][1]] for index in kept]
    return words, rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    url = parser.parse_args().url

    query_words, query = token_vectors(url, QUERY)
    words, document = token_vectors(url, DOCUMENT)
    cosines = query @ document.T
    print(f"{len(words)} tokens of {document.shape[1]} numbers: {' | '.join(words)}\n")
    for word, row in zip(query_words, cosines, strict=True):
        print(f"{word:>10}  best match: {words[int(row.argmax())]:<10} {row.max():.3f}")
    print(f"\nMaxSim, averaged over the query's tokens: {cosines.max(axis=1).mean():.3f}")


if __name__ == "__main__":
    main()
