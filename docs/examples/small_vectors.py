"""Small vectors: int8 needs a quarter of the space of float32, bits a thirty-second. Does the ranking change?

python docs/examples/small_vectors.py [--url http://127.0.0.1:8080]
"""

from __future__ import annotations

import argparse
import json
import urllib.request

import numpy as np

QUERY = "The children are playing in the garden."
DOCUMENTS = [
    "Kids have fun on the lawn.",
    "A dog runs across the meadow.",
    "The museum is closed on Mondays.",
    "My sister studies law in Paris.",
    "Interest rates went up again.",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    url = parser.parse_args().url

    body = json.dumps({"input": [QUERY, *DOCUMENTS], "output_dtype": ["float", "int8", "ubinary"]}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/embeddings", body)) as reply:
        rows = [item["embedding"] for item in json.load(reply)["data"]]
    floats = np.array([row["float"] for row in rows], np.float32)
    int8 = np.array([row["int8"] for row in rows], np.int8)
    bits = np.array([row["ubinary"] for row in rows], np.uint8)

    wide = int8.astype(np.float32) / 127
    distances = np.unpackbits(bits[1:] ^ bits[0], axis=1).sum(axis=1)  # Hamming
    scores = {
        "float": floats[1:] @ floats[0],
        "int8": wide[1:] @ wide[0],
        "ubinary": 1 - 2 * distances / (8 * bits.shape[1]),
    }
    stored = {"float": floats, "int8": int8, "ubinary": bits}
    print(QUERY)
    for name, found in scores.items():
        ranking = np.argsort(-found)
        print(f"\n{name}: {stored[name][0].nbytes} bytes per vector")
        for index in ranking[:3]:
            print(f"  {found[index]:6.3f}  {DOCUMENTS[index]}")


if __name__ == "__main__":
    main()
