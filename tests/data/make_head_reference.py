"""Make `heads/`: tiny ColBERT and SPLADE models, and what sentence-transformers answers with them.

Run by hand, never by the tests, from the repository's root in an environment of its own:

    pip install torch==2.13.0 sentence-transformers==6.2.0
    PYTHONPATH=. python tests/data/make_head_reference.py [MODEL …]

heads/<model>/                  the files that it has besides those of its encoder, `convert/<base>`
    base                        the encoder's name
    heads.json                  the shapes of the heads' tensors by file; `tiny_weights.py` makes the weights
    reference.npz               queries, documents: float32, the vectors of all texts in a row (ColBERT), or
                                float32[n_texts, n_vocab] (SPLADE); n_queries, n_documents: vectors per text
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder, SparseEncoder
from transformers import AutoModel, AutoTokenizer

from tests.data.head_directories import DATA, write_directory

QUERIES = ("what does the fox do?", "hello", "Größe und Farbe, and the texts of all books about vectors")
PYLATE = {
    "model_type": "ColBERT",
    "query_prefix": "[Q] ",
    "document_prefix": "[D] ",
    "query_length": 12,
    "document_length": 24,
    "attend_to_expansion_tokens": False,
    "skiplist_words": [".", ",", "-", "§"],
    "similarity_fn_name": "MaxSim",
}
DENSE = {
    "in_features": 64,
    "out_features": 16,
    "bias": False,
    "activation_function": "torch.nn.modules.linear.Identity",
}
TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
MLM = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.sparse_encoder.models.MLMTransformer"}
SPLADE = {"idx": 1, "name": "1", "path": "1_SpladePooling"}
SPLADE["type"] = "sentence_transformers.sparse_encoder.models.SpladePooling"


def dense(number: int) -> dict[str, Any]:
    return {"idx": number, "name": str(number), "path": f"{number}_Dense", "type": "pylate.models.Dense.Dense"}


def pylate(**changes: object) -> dict[str, Any]:
    return {
        "config_sentence_transformers.json": PYLATE | changes,
        "modules.json": [TRANSFORMER, dense(1)],
        "1_Dense/config.json": DENSE,
        "sentence_bert_config.json": None,
        "added_tokens": ["[Q] ", "[D] "],
    }


def splade(**pooling: object) -> dict[str, Any]:
    return {
        "config_sentence_transformers.json": {"model_type": "SparseEncoder", "similarity_fn_name": "dot"},
        "modules.json": [MLM, SPLADE],
        "1_SpladePooling/config.json": {"pooling_strategy": "max", "activation_function": "relu"} | pooling,
        "sentence_bert_config.json": None,
    }


ST6_BASE = "sentence_transformers."
ST6 = {
    "config_sentence_transformers.json": {
        "model_type": "MultiVectorEncoder",
        "prompts": {"query": "[Q] ", "document": "[D] "},
    },
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        "module_output_name": "token_embeddings",
        "document_length": 24,
        "query_expansion": {"strategy": "min", "attend": False, "token": None, "length": 10},
    },
    "modules.json": [
        TRANSFORMER | {"type": ST6_BASE + "base.modules.transformer.Transformer"},
        dense(1) | {"type": ST6_BASE + "base.modules.dense.Dense"},
        {
            "idx": 2,
            "name": "2",
            "path": "2_MultiVectorMask",
            "type": ST6_BASE + "multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
        },
        {"idx": 3, "name": "3", "path": "3_Normalize", "type": ST6_BASE + "base.modules.normalize.Normalize"},
    ],
    "1_Dense/config.json": DENSE | {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"},
    "2_MultiVectorMask/config.json": {
        "skiplist_words": [".", ","],
        "skiplist_tasks": ["document"],
        "keep_only_token_ids": None,
    },
    "3_Normalize/config.json": {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"},
    "added_tokens": ["[Q] ", "[D] "],
}


BERT_MLM = {
    "cls.predictions.transform.dense.weight": (64, 64),
    "cls.predictions.transform.dense.bias": (64,),
    "cls.predictions.transform.LayerNorm.weight": (64,),
    "cls.predictions.transform.LayerNorm.bias": (64,),
    "cls.predictions.bias": (998,),
}
DISTILBERT_MLM = {
    "vocab_transform.weight": (64, 64),
    "vocab_transform.bias": (64,),
    "vocab_layer_norm.weight": (64,),
    "vocab_layer_norm.bias": (64,),
    "vocab_projector.bias": (1039,),
}
ROBERTA_MLM = {
    "lm_head.dense.weight": (64, 64),
    "lm_head.dense.bias": (64,),
    "lm_head.layer_norm.weight": (64,),
    "lm_head.layer_norm.bias": (64,),
    "lm_head.bias": (700,),
}
MODERN_MLM = {"head.dense.weight": (64, 64), "head.norm.weight": (64,), "decoder.bias": (700,)}
IN_MODEL = "model.safetensors"

MODELS: dict[str, tuple[str, dict[str, Any], dict[str, dict[str, Sequence[int]]]]] = {
    # name: encoder, files, shapes of the heads' tensors by file
    "colbert_bert": ("bert", pylate(), {"1_Dense/model.safetensors": {"linear.weight": (16, 64)}}),
    **{
        f"colbert_{base}": (base, pylate(), {"1_Dense/model.safetensors": {"linear.weight": (16, 64)}})
        for base in ("distilbert", "roberta", "nomic_bert")
    },
    "colbert_attended": (
        "bert",
        pylate(attend_to_expansion_tokens=True),
        {"1_Dense/model.safetensors": {"linear.weight": (16, 64)}},
    ),
    "colbert_modern": (
        "modern_bert",
        pylate(do_query_expansion=False)
        | {
            "modules.json": [TRANSFORMER, dense(1), dense(2)],
            "1_Dense/config.json": DENSE | {"out_features": 32},
            "2_Dense/config.json": DENSE | {"in_features": 32},
        },
        {
            "1_Dense/model.safetensors": {"linear.weight": (32, 64)},
            "2_Dense/model.safetensors": {"linear.weight": (16, 32)},
        },
    ),
    "colbert_sentence_transformers": ("bert", ST6, {"1_Dense/model.safetensors": {"linear.weight": (16, 64)}}),
    "bge_m3": ("xlm_roberta", {"modules.json": None, "sentence_bert_config.json": None}, {}),
    "colbert_xlm_roberta": ("xlm_roberta", pylate(), {"1_Dense/model.safetensors": {"linear.weight": (16, 64)}}),
    "colbert_stanford": (
        "bert",
        {
            "artifact.metadata": {
                "query_maxlen": 12,
                "doc_maxlen": 24,
                "dim": 16,
                "mask_punctuation": True,
                "attend_to_mask_tokens": False,
                "query_token_id": "q",
                "doc_token_id": "d",
            },
            "config.json": {"architectures": ["HF_ColBERT"]},
            "modules.json": None,
            "config_sentence_transformers.json": None,
            "sentence_bert_config.json": None,
        },
        {IN_MODEL: {"linear.weight": (16, 64)}},
    ),
    "splade_bert": (
        "bert",
        splade() | {"config.json": {"architectures": ["BertForMaskedLM"]}, "tensor_prefix": "bert."},
        {IN_MODEL: BERT_MLM},
    ),
    "splade_distilbert": (
        "distilbert",
        splade() | {"config.json": {"architectures": ["DistilBertForMaskedLM"]}, "tensor_prefix": "distilbert."},
        {IN_MODEL: DISTILBERT_MLM},
    ),
    "splade_roberta": (
        "roberta",
        splade() | {"config.json": {"architectures": ["RobertaForMaskedLM"]}, "tensor_prefix": "roberta."},
        {IN_MODEL: ROBERTA_MLM},
    ),
    "splade_twice": (
        "bert",
        splade(activation_function="log1p_relu")
        | {"config.json": {"architectures": ["BertForMaskedLM"]}, "tensor_prefix": "bert."},
        {IN_MODEL: BERT_MLM},
    ),
    "splade_modern": (
        "modern_bert",
        splade() | {"config.json": {"architectures": ["ModernBertForMaskedLM"]}, "tensor_prefix": "model."},
        {IN_MODEL: MODERN_MLM},
    ),
}


def main() -> None:
    texts = json.loads((DATA / "convert" / "texts.json").read_text("utf-8"))["texts"]
    for name in sys.argv[1:] or MODELS:
        base, files, shapes = MODELS[name]
        folder = DATA / "heads" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "base").write_text(base)
        (folder / "files.json").write_text(json.dumps(files, indent=2, ensure_ascii=False))
        (folder / "heads.json").write_text(json.dumps(shapes, indent=2))
        if name == "bge_m3":
            save_m3_heads(folder)
        with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
            directory = write_directory(name, Path(temporary) / "model")
            np.savez_compressed(folder / "reference.npz", **answers(name, str(directory), texts))


def save_m3_heads(folder: Path) -> None:
    """As torch.save writes them in BGE-M3's repository."""
    torch.manual_seed(0)
    for file, n_out in (("colbert_linear.pt", 64), ("sparse_linear.pt", 1)):
        torch.save(torch.nn.Linear(64, n_out).state_dict(), folder / file)


def m3_answers(path: str, documents: Sequence[str]) -> dict[str, Any]:
    """FlagEmbedding's formulas: the first row; the largest relu(linear) per token; linear rows but the first one."""
    model, tokenizer = AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    colbert, sparse = (torch.load(Path(path) / f"{name}_linear.pt") for name in ("colbert", "sparse"))
    dense, weights, vectors = [], np.zeros((len(documents), model.config.vocab_size), np.float32), []
    for number, text in enumerate(documents):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        rows = model(ids).last_hidden_state[0]
        dense.append(torch.nn.functional.normalize(rows[0], dim=0).numpy())
        found = torch.relu(rows @ sparse["weight"].T + sparse["bias"])[:, 0]
        for token, weight in zip(ids[0].tolist(), found.tolist(), strict=True):
            if token not in (0, 1, 2, 3):
                weights[number, token] = max(weights[number, token], weight)
        projected = rows[1:] @ colbert["weight"].T + colbert["bias"]
        vectors.append(torch.nn.functional.normalize(projected, dim=1).numpy())
    return {
        "dense": np.stack(dense),
        "sparse": weights,
        "documents": np.concatenate(vectors),
        "n_documents": np.array([len(rows) for rows in vectors]),
    }


def answers(name: str, path: str, documents: Sequence[str]) -> dict[str, Any]:
    if name == "bge_m3":
        return m3_answers(path, documents)
    if name.startswith("splade"):
        model = SparseEncoder(path, device="cpu")
        encoded = model.encode_document(list(documents), convert_to_sparse_tensor=False, convert_to_tensor=True)
        return {"documents": encoded.numpy().astype(np.float32)}
    colbert = MultiVectorEncoder(path, device="cpu")
    queries = [np.asarray(rows) for rows in colbert.encode_query(list(QUERIES))]
    passages = [np.asarray(rows) for rows in colbert.encode_document(list(documents))]
    return {
        "queries": np.concatenate(queries).astype(np.float32),
        "n_queries": np.array([len(rows) for rows in queries]),
        "documents": np.concatenate(passages).astype(np.float32),
        "n_documents": np.array([len(rows) for rows in passages]),
    }


if __name__ == "__main__":
    main()
