"""Make `encoders/`: tiny encoders that llama.cpp does not compute, and what transformers answers with them.

Run by hand, never by the tests, from the repository's root in an environment of its own:

    pip install torch safetensors sentencepiece transformers==5.24.0
    PYTHONPATH=. python tests/data/make_encoder_reference.py

The layout is that of `convert/` (`make_convert_reference.py`), and so are the texts and the pairs, but for one text
that is longer than the distances that relative positions tell apart. In addition:

t5_relu/2_Dense/    a Dense module, whose weights.json has the shape of its matrix
jina_v3/reference.npz  also vectors_<number of the task>, with its adapters
buckets.npz   int32[801], the buckets of the distances -400 to 400: `mpnet` with 32 buckets, which are T5's as well, and
              `deberta` with 8 buckets to each side, for distances up to 64, and `deberta_v3` with its own
              256 for 512; their distances are the seeing token's position minus the seen one's
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import transformers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from tests.data import make_convert_reference as common
from tests.data.make_convert_reference import SIZES, TinyModel
from tests.data.tiny_weights import make_weights, write_safetensors

OUT = Path(__file__).parent / "encoders"
LONG = " ".join(text for text in common.TEXTS if text.isascii())
TEXTS = (*common.TEXTS, LONG)

N_EXTRA = 8  # T5's tokens <extra_id_0> to <extra_id_7>

MPNET = SIZES | {"max_position_embeddings": 514, "relative_attention_num_buckets": 32}
T5 = {"d_model": 64, "d_kv": 24, "d_ff": 96, "num_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 32}
NTK_FACTOR = 8.0  # of the original's config, for a base of 20,000; transformers says the same as linear scaling
GTE = SIZES | {
    "max_position_embeddings": 512,
    "type_vocab_size": 1,
    "rope_parameters": {
        "rope_type": "linear",
        "rope_theta": 20_000.0 * NTK_FACTOR,
        "factor": NTK_FACTOR ** (2 / (SIZES["hidden_size"] // SIZES["num_attention_heads"])),
    },
}
DEBERTA = SIZES | {
    "max_position_embeddings": 512,
    "relative_attention": True,
    "position_buckets": 8,
    "max_relative_positions": 64,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
JINA = SIZES | {
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 20_000.0},
}
TASKS = {
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ",
    "separation": "",
}
LORA_RANK, LORA_ALPHA = 4, 2
MODELS = (
    TinyModel("mpnet", "MPNetModel", "MPNetConfig", "mpnet", "mean", MPNET, scale=0.4),
    TinyModel(
        "mpnet_reranker", "MPNetForSequenceClassification", "MPNetConfig", "mpnet", "", MPNET | {"num_labels": 1}
    ),
    TinyModel(
        "distilbert_reranker",
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        "wordpiece_uncased",
        "",
        {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "max_position_embeddings": 512, "num_labels": 2},
    ),
    TinyModel("deberta_v2", "DebertaV2Model", "DebertaV2Config", "deberta", "mean", DEBERTA, scale=0.4),
    TinyModel(
        "deberta_v2_reranker",
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        "deberta",
        "",
        DEBERTA | {"num_labels": 1},
    ),
    TinyModel("gte", "GteModel", "GteConfig", "unigram", "cls", GTE),
    TinyModel(
        "gte_reranker",
        "GteForSequenceClassification",
        "GteConfig",
        "unigram",
        "",
        SIZES | {"max_position_embeddings": 512, "num_labels": 1, "type_vocab_size": 0},
    ),
    TinyModel("t5_gated", "T5EncoderModel", "T5Config", "t5", "mean", T5 | {"feed_forward_proj": "gated-gelu"}),
    TinyModel("t5_relu", "T5EncoderModel", "T5Config", "t5", "mean", T5 | {"feed_forward_proj": "relu"}),
)


def mpnet() -> transformers.PreTrainedTokenizerBase:
    """As MPNet's own: WordPiece with <s> and </s>; <unk> is an entry that is never used."""
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer(lowercase=True)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=900,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"],
        limit_alphabet=600,
        show_progress=False,
    )
    trained.train_from_iterator(common.corpus(), trainer)
    return transformers.MPNetTokenizer(vocab=trained.get_vocab())


def t5() -> transformers.PreTrainedTokenizerBase:
    """A SentencePiece model with its rules for normalization, and T5's tokens for gaps at the end."""
    with tempfile.TemporaryDirectory() as scratch:
        lines = Path(scratch, "lines.txt")
        lines.write_text("\n".join(line for text in common.corpus() for line in text.splitlines()), "utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(lines),
            model_prefix=f"{scratch}/t5",
            vocab_size=1000,
            character_coverage=0.98,
            normalization_rule_name="nmt_nfkc",
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(Path(scratch, "t5.model").read_bytes())
    vocabulary = [(piece.piece, piece.score) for piece in proto.pieces]
    vocabulary += [(f"<extra_id_{number}>", 0.0) for number in range(N_EXTRA - 1, -1, -1)]
    charsmap = proto.normalizer_spec.precompiled_charsmap
    return transformers.T5Tokenizer(vocab=vocabulary, _spm_precompiled_charsmap=charsmap, extra_ids=N_EXTRA)


def deberta() -> transformers.PreTrainedTokenizerBase:
    """As DeBERTa's third version: Unigram without SentencePiece's rules for normalization."""
    roles = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    trained = Tokenizer(models.Unigram())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=900, special_tokens=roles, unk_token="[UNK]", show_progress=False)
    trained.train_from_iterator(common.corpus(ascii_only=True), trainer)
    vocabulary = [(text, score) for text, score in json.loads(trained.to_str())["model"]["vocab"]]
    return transformers.DebertaV2Tokenizer(vocab=vocabulary, unk_id=roles.index("[UNK]"))


def copied(name: str) -> Tokenizer:
    """A tokenizer of `convert/`."""
    for suffix in ("", "_config"):
        shutil.copy(common.OUT / "tokenizers" / f"{name}{suffix}.json", OUT / "tokenizers" / f"{name}{suffix}.json")
    return Tokenizer.from_file(str(OUT / "tokenizers" / f"{name}.json"))


def saved(name: str, make: Callable[[], transformers.PreTrainedTokenizerBase]) -> Tokenizer:
    """The tokenizer as transformers saves it. One that is there is kept: training it again gives another."""
    path = OUT / "tokenizers" / f"{name}.json"
    if path.exists():
        return Tokenizer.from_file(str(path))
    with tempfile.TemporaryDirectory() as scratch:
        make().save_pretrained(scratch)
        for theirs, ours in (("tokenizer.json", f"{name}.json"), ("tokenizer_config.json", f"{name}_config.json")):
            content = json.loads(Path(scratch, theirs).read_text("utf-8"))
            (OUT / "tokenizers" / ours).write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    return Tokenizer.from_file(str(path))


def add_dense(folder: Path) -> None:
    """A Dense module after the pooling, as sentence-t5 has it; the stored vectors are multiplied by its matrix."""
    n_embd = SIZES["hidden_size"]
    stored = {"scale": 0.2, "shapes": {"linear.weight": [n_embd, n_embd]}}
    matrix = make_weights(stored["shapes"], stored["scale"])["linear.weight"]
    (folder / "2_Dense").mkdir()
    config = {"in_features": n_embd, "out_features": n_embd, "bias": False}
    config["activation_function"] = "torch.nn.modules.linear.Identity"
    (folder / "2_Dense" / "config.json").write_text(json.dumps(config))
    (folder / "2_Dense" / "weights.json").write_text(json.dumps(stored))
    modules = json.loads((folder / "modules.json").read_text())
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(json.dumps([*modules[:2], dense, *modules[2:]]))
    with np.load(folder / "reference.npz") as reference:
        arrays = dict(reference)
    np.savez_compressed(folder / "reference.npz", **arrays | {"vectors": arrays["vectors"] @ matrix.T})


def make_jina_v3(tokenizer: Tokenizer) -> None:
    """As the original has it: adapters beside each matrix. Transformers computes them merged into the matrices."""
    base = TinyModel("jina_v3", "JinaEmbeddingsV3Model", "JinaEmbeddingsV3Config", "unigram", "mean", JINA, scale=0.2)
    folder = OUT / base.name
    shutil.rmtree(folder, ignore_errors=True)
    common.make_model(base, tokenizer, OUT, TEXTS)
    stored = json.loads((folder / "weights.json").read_text())
    plain = {f"roberta.{name}": shape for name, shape in stored["shapes"].items() if not name.startswith("pooler.")}
    shapes: dict[str, list[int]] = {}
    for name, shape in plain.items():
        shapes |= adapted(name, shape) if len(shape) == 2 else {name: shape}
    (folder / "weights.json").write_text(json.dumps({"scale": base.scale, "shapes": shapes}))
    config = json.loads((folder / "config.json").read_text())
    for key in ("rope_parameters", "layer_types", "head_dim"):
        config.pop(key, None)
    config |= {"architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta", "rotary_emb_base": 20_000.0}
    config |= {"position_embedding_type": "rotary", "lora_adaptations": list(TASKS), "task_instructions": TASKS}
    config |= {"lora_rank": LORA_RANK, "lora_alpha": LORA_ALPHA}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = make_weights(shapes, base.scale)
    arrays = {f"vectors_{task}": jina_vectors(weights, task, tokenizer) for task in (None, *range(len(TASKS)))}
    ids = common.flat([tokenizer.encode(text).ids for text in TEXTS])
    np.savez_compressed(folder / "reference.npz", **ids, **arrays, vectors=arrays["vectors_None"])


def adapted(name: str, shape: list[int]) -> dict[str, list[int]]:
    """A matrix with its adapters, under the original's names."""
    n_tasks, (n_out, n_in), stem = len(TASKS), shape, f"{name.removesuffix('weight')}parametrizations.weight"
    is_table = "embeddings" in name
    lora_a = [n_tasks, n_out, LORA_RANK] if is_table else [n_tasks, LORA_RANK, n_in]
    lora_b = [n_tasks, LORA_RANK, n_in] if is_table else [n_tasks, n_out, LORA_RANK]
    return {f"{stem}.original": shape, f"{stem}.0.lora_A": lora_a, f"{stem}.0.lora_B": lora_b}


@torch.no_grad()
def jina_vectors(weights: dict[str, np.ndarray], task: int | None, tokenizer: Tokenizer) -> np.ndarray:
    merged: dict[str, np.ndarray] = {}
    for name, values in weights.items():
        stem, found, part = name.removeprefix("roberta.").partition(".parametrizations.weight.")
        if not found:
            merged[stem] = values
        elif part == "original":
            at = f"{name.removesuffix('original')}0."
            a, b = weights[f"{at}lora_A"], weights[f"{at}lora_B"]
            change = 0.0
            if task is not None:
                change = a[task] @ b[task] if "embeddings" in name else b[task] @ a[task]
            merged[f"{stem}.weight"] = values + np.float32(LORA_ALPHA / LORA_RANK) * change
    with tempfile.TemporaryDirectory() as scratch:
        config = transformers.JinaEmbeddingsV3Config(vocab_size=tokenizer.get_vocab_size(), **JINA)
        transformers.JinaEmbeddingsV3Model(config, add_pooling_layer=False).save_pretrained(scratch)
        write_safetensors(Path(scratch) / "model.safetensors", merged)
        model, report = transformers.JinaEmbeddingsV3Model.from_pretrained(
            scratch, dtype=torch.float32, attn_implementation="eager", add_pooling_layer=False, output_loading_info=True
        )
    assert not any(report.values()), report
    return common.embed(model.eval(), tokenizer, "mean", TEXTS)["vectors"]


def make_buckets() -> dict[str, np.ndarray]:
    distances = torch.arange(-400, 401)
    return {
        "mpnet": MPNetEncoder.relative_position_bucket(distances, 32, 128).numpy().astype(np.int32),
        "deberta": make_log_bucket_position(distances, 8, 64).to(torch.int32).numpy(),
        "deberta_v3": make_log_bucket_position(distances, 256, 512).to(torch.int32).numpy(),
    }


def main() -> None:
    torch.set_num_threads(1)
    (OUT / "tokenizers").mkdir(parents=True, exist_ok=True)
    tokenizers = {"mpnet": saved("mpnet", mpnet), "t5": saved("t5", t5), "deberta": saved("deberta", deberta)}
    tokenizers |= {name: copied(name) for name in ("wordpiece_uncased", "unigram")}
    texts: dict[str, Any] = {"texts": TEXTS, "pairs": common.PAIRS}
    (OUT / "texts.json").write_text(json.dumps(texts, ensure_ascii=False, indent=1), "utf-8")
    np.savez_compressed(OUT / "buckets.npz", **make_buckets())
    for tiny in MODELS:
        shutil.rmtree(OUT / tiny.name, ignore_errors=True)
        common.make_model(tiny, tokenizers[tiny.tokenizer], OUT, TEXTS)
        print(tiny.name, flush=True)
    add_dense(OUT / "t5_relu")
    make_jina_v3(tokenizers["unigram"])


if __name__ == "__main__":
    main()
