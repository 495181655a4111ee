"""Two-stage retrieval: select candidates by their vectors, then order them with /rerank.

A reranker scores a query and a document together. Use --reranker to name one that the server has, such as
bge-reranker-v2-m3 after gguf-embed serve -m all-MiniLM-L6-v2 -m bge-reranker-v2-m3. Without it, /rerank uses cosines.

python docs/examples/rerank.py [--url http://127.0.0.1:8080] [--reranker MODEL]
"""

from __future__ import annotations

import argparse
import json
import urllib.request
from typing import Any

import numpy as np

QUERY = "How long does it take to boil an egg?"
DOCUMENTS = [
    "A soft-boiled egg needs four to six minutes in boiling water, a hard-boiled one nine to twelve.",
    "Hens lay about 250 eggs in a year.",
    "Water boils at 100 degrees Celsius at sea level.",
    "An omelette is made of beaten eggs, fried in butter.",
    "The package will take three days to arrive.",
    "Mount Everest is 8,849 meters high.",
]


def post(url: str, body: dict[str, Any]) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode())) as reply:
        return json.load(reply)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--reranker", metavar="MODEL", help="a reranker that the server has")
    options = parser.parse_args()

    data = post(f"{options.url}/v1/embeddings", {"input": [QUERY, *DOCUMENTS]})["data"]
    vectors = np.array([item["embedding"] for item in data])
    chosen = np.argsort(-(vectors[1:] @ vectors[0]))[:4]
    print(f"{QUERY}\n\nSelected by their vectors: documents {', '.join(map(str, chosen))}")

    how = {"model": options.reranker} if options.reranker else {"method": "embedding"}
    documents = [DOCUMENTS[index] for index in chosen]
    ranked = post(f"{options.url}/rerank", {"query": QUERY, "documents": documents, "top_n": 3, **how})
    print(f"\nReranked by {ranked['model']} (score: {ranked['score_kind']})")
    for result in ranked["results"]:
        index = chosen[result["index"]]
        print(f"  {result['relevance_score']:.3f}  {index}: {DOCUMENTS[index]}")


if __name__ == "__main__":
    main()
