"""Make `lfm2/reference.npz`: the multi-vectors that PyTorch gives for tiny LFM2-ColBERTs with random weights.

Run by hand from the repository's root, never by the tests, in an environment of its own:

    pip install torch==2.13.0 transformers==5.24.0 gguf
    PYTHONPATH=. python tests/data/make_lfm2_reference.py

Texts are read as PyLate reads them, without filling queries up: a prefix after the first token, queries of at most 32
and documents of at most 512 tokens, no vectors of punctuation in documents. The encoder is transformers' Lfm2Model
with attention to both sides and centered convolutions, as in the `modeling_lfm2_bidirectional.py` of LFM2.5-ColBERT.

    <architecture>.queries, <architecture>.documents   float32, the vectors of all texts in a row
    <architecture>.n_queries, …                        vectors per text
"""

from __future__ import annotations

import json
import lzma
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn.functional import conv1d, normalize
from transformers import Lfm2Config, Lfm2Model
from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv

from tests.lfm2_models import (
    DATA,
    DECODER,
    ENCODER,
    PREFIXES,
    PYLATE,
    SKIPPED,
    TOKENIZER,
    projection,
    random_weights,
    write_lfm2,
)

DECODERS = Path(__file__).parent / "convert_decoders"
QUERIES = ("what does the fox do?", "hello")
TEXTS = tuple(json.loads((DECODERS / "texts.json").read_text("utf-8")).values())
DOCUMENTS = (*TEXTS[:16], "a long document, word by word. " * 100)


def centered(self: Lfm2ShortConv, hidden_states: torch.Tensor, **_: object) -> torch.Tensor:
    """The forward pass of a convolution whose window is around the token instead of before it."""
    before, after, x = self.in_proj(hidden_states).transpose(1, 2).chunk(3, dim=1)
    mixed = conv1d(before * x, self.conv.weight, padding=self.conv_kernel_size // 2, groups=len(self.conv.weight))
    return self.out_proj((after * mixed).transpose(1, 2))


class Original:
    def __init__(self, architecture: str, directory: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        config = json.loads((directory / "config.json").read_text("utf-8"))
        config = {key: value for key, value in config.items() if key not in ("architectures", "auto_map")}
        self.model = Lfm2Model._from_config(Lfm2Config(**config), attn_implementation="eager").eval().float()
        weights = {name: torch.from_numpy(value) for name, value in random_weights(config["vocab_size"]).items()}
        self.model.load_state_dict(weights)
        self.dense = torch.from_numpy(projection()["linear.weight"])
        self.is_encoder = architecture == ENCODER
        if self.is_encoder:
            for layer in self.model.layers:
                if not layer.is_attention_layer:
                    layer.conv.forward = centered.__get__(layer.conv)

    def vectors(self, text: str, *, is_query: bool) -> np.ndarray:
        length = PYLATE["query_length" if is_query else "document_length"]
        first, *others = self.tokenizer.encode(text).ids[: length - 1]
        ids = torch.tensor([first, self.tokenizer.token_to_id(PREFIXES[0 if is_query else 1]), *others])
        unmasked = {"full_attention": None, "conv": None}
        with torch.no_grad():
            mask = unmasked if self.is_encoder else None
            rows = self.model(input_ids=ids[None], attention_mask=mask, use_cache=False).last_hidden_state[0]
        skipped = [self.tokenizer.token_to_id(word) for word in SKIPPED]
        kept = torch.ones_like(ids, dtype=torch.bool) if is_query else ~torch.isin(ids, torch.tensor(skipped))
        return normalize(rows @ self.dense.T, dim=1)[kept].numpy()


def made(architecture: str) -> dict[str, np.ndarray]:
    tokenizer = json.loads(lzma.decompress((DECODERS / "tokenizers.json.xz").read_bytes()))[TOKENIZER]
    with tempfile.TemporaryDirectory() as folder:
        original = Original(architecture, write_lfm2(Path(folder) / "m", architecture, tokenizer))
        arrays = {}
        for name, texts in (("queries", QUERIES), ("documents", DOCUMENTS)):
            found = [original.vectors(text, is_query=name == "queries") for text in texts]
            arrays[f"{architecture}.{name}"] = np.concatenate(found).astype(np.float32)
            arrays[f"{architecture}.n_{name}"] = np.array([len(rows) for rows in found])
        return arrays


def main() -> None:
    torch.set_num_threads(1)
    versions = {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
    provenance = json.dumps({"versions": versions | {"python": platform.python_version()}})
    np.savez_compressed(DATA / "reference.npz", provenance=provenance, **made(DECODER), **made(ENCODER))


if __name__ == "__main__":
    main()
