"""OpenAI's own client (pip install openai): similarities, an error, and a field that OpenAI's API does not have.

python docs/examples/openai_client.py [--url http://127.0.0.1:8080] [--api-key KEY]
"""

from __future__ import annotations

import argparse

import numpy as np
from openai import BadRequestError, OpenAI

TEXTS = ["The weather is lovely today.", "It is so sunny outside!", "He drove to the stadium."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--api-key", default="not needed", help="the key that the server was started with")
    options = parser.parse_args()
    client = OpenAI(base_url=f"{options.url}/v1", api_key=options.api_key)
    model = client.models.list().data[0].id

    reply = client.embeddings.create(model=model, input=TEXTS)
    vectors = np.array([item.embedding for item in reply.data])
    print(f"{reply.model}: {len(vectors)} vectors of {vectors.shape[1]} numbers, {reply.usage.total_tokens} tokens")
    print("\nCosine similarities")
    for text, row in zip(TEXTS, vectors @ vectors.T, strict=True):
        print("  " + "  ".join(f"{cosine:6.3f}" for cosine in row) + f"  {text}")

    too_long = "word " * 100_000
    try:
        client.embeddings.create(model=model, input=too_long)
    except BadRequestError as error:
        print(f"\nA text that is too long\n  {error.status_code} {error.code}")
    cut = client.embeddings.create(model=model, input=too_long, extra_body={"truncate": True})
    (truncated,) = cut.model_extra["truncated"]
    print(f"  with truncate: {truncated['n_kept']} of {truncated['n_tokens']} tokens used")


if __name__ == "__main__":
    main()
