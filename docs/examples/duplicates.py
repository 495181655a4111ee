"""Duplicates: all texts compared with each other, and those that say nearly the same named in pairs.

python docs/examples/duplicates.py [--url http://127.0.0.1:8080] [--threshold 0.7]
"""

from __future__ import annotations

import argparse
import json
import urllib.request

TEXTS = [
    "How do I reset my password?",
    "Where is my parcel? It has not arrived.",
    "I forgot my password, how can I set a new one?",
    "Can I pay by credit card?",
    "My parcel has not arrived, where is it?",
    "Where can I download my invoice?",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--threshold", type=float, default=0.7)
    options = parser.parse_args()

    body = json.dumps({"texts": TEXTS, "threshold": options.threshold}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{options.url}/similarity", body)) as reply:
        pairs = json.load(reply)["pairs"]
    for pair in pairs:
        print(f"{pair['score']:.3f}  {TEXTS[pair['first']]}  =  {TEXTS[pair['second']]}")


if __name__ == "__main__":
    main()
