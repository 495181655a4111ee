"""Make `span_reference.npz`: the original all-MiniLM-L6-v2's vectors of parts of a text that it read as a whole.

Run by hand as `make_reference.py`, in the same environment. Late chunking by transformers alone: a part's vector is the
mean of the last hidden states of the tokens whose characters (the fast tokenizer's offset mapping) are in it;
[CLS] goes with the first part and [SEP] with the last; then length 1.

The npz holds
    chunks      str[n]             the parts; joined they are the text
    vectors     float32[n, 384]
    whole       float32[384]       of all tokens, the same way
    provenance  str                JSON: versions
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from make_reference import model_dir
from transformers import AutoModel, AutoTokenizer

HERE = Path(__file__).parent
CHUNKS = (
    "Berlin is the capital and the largest city of Germany. ",
    "Its more than 3.8 million inhabitants make it the most populous city of the European Union 🎉; ",
    "the café naïveté of 서울 and 東京 is unlike it, ",
    "and it is one of the states of the country, surrounded by Brandenburg.",
)


def main() -> None:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(model_dir())
    model = AutoModel.from_pretrained(model_dir(), dtype=torch.float32).eval()
    encoded = tokenizer("".join(CHUNKS), return_offsets_mapping=True, return_tensors="pt")
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        rows = model(**encoded).last_hidden_state[0].numpy()
    ends = np.cumsum([len(chunk) for chunk in CHUNKS])
    owner = [int(np.searchsorted(ends, start, side="right")) for start, _ in offsets]
    owner[0], owner[-1] = 0, len(CHUNKS) - 1
    means = [rows[[own == index for own in owner]].mean(axis=0) for index in range(len(CHUNKS))]
    vectors = np.stack([*means, rows.mean(axis=0)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    versions = {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
    np.savez_compressed(
        HERE / "span_reference.npz",
        chunks=np.array(CHUNKS),
        vectors=vectors[:-1].astype(np.float32),
        whole=vectors[-1].astype(np.float32),
        provenance=json.dumps(versions),
    )


if __name__ == "__main__":
    main()
