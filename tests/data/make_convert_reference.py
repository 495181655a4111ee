"""Make `convert/`: tiny encoders of every kind that we convert, and what transformers answers with them.

Run by hand, never by the tests, from the repository's root in an environment of its own:

    pip install torch safetensors transformers==5.23.0
    PYTHONPATH=. python tests/data/make_convert_reference.py

Every run trains other tokenizers: equally frequent pieces come in no fixed order.

convert/texts.json                  the texts and the pairs
convert/tokenizers/<name>.json      a tokenizer.json, trained here, and its tokenizer_config.json
convert/<model>/                    config.json and sentence-transformers' files as a hub repository has them
    weights.json                    the shapes of its tensors; `tiny_weights.py` makes the weights
    tokenizer                       the name of its tokenizer
    reference.npz                   ids: int32, all texts' ids in a row; n_ids: int32[n_texts]
                                    vectors: float32[n_texts, 64], pooled, not normalized; or of a cross-encoder
                                    logits: float32[n_pairs, n_labels], for ids of pairs as the tokenizer makes them,
                                    one_type: the same with every token type 0
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.data.tiny_weights import make_weights, write_safetensors

HERE = Path(__file__).parent
OUT = HERE / "convert"

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "hello",
    "Embeddings turn texts into vectors, and vectors can be compared: the closer two of them are, the more their "
    "texts have to do with each other. That is all there is to it, although the details fill books.",
    "Größe, façade, naïve, Łódź and Åland",
    "Быстрая коричневая лиса прыгает через ленивую собаку",
    "敏捷的棕色狐狸跳过了懒狗。",
    "素早い茶色の狐がのろまな犬を飛び越える",
    "빠른 갈색 여우가 게으른 개를 뛰어넘는다",
    "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है",
    "الثعلب البني السريع يقفز فوق الكلب الكسول",
    "def add(a, b):\n    return a + b  # 1,234.5 + 0x1F",
    "👩‍💻 works at 9:30 — isn't it “fine”?",
)
PAIRS = (
    ("what does the fox do?", "The quick brown fox jumps over the lazy dog."),
    ("what does the fox do?", "Embeddings turn texts into vectors."),
    ("lazy", "The dog is lazy. The dog sleeps all day, and at night it sleeps as well, which is why foxes like it."),
    ("что делает лиса", "Быстрая коричневая лиса прыгает через ленивую собаку"),
    ("狐狸", "敏捷的棕色狐狸跳过了懒狗。"),
)


@dataclass(frozen=True)
class TinyModel:
    """One directory to make. `pooling` is mean or cls; "" for a cross-encoder."""

    name: str
    model_class: str
    config_class: str
    tokenizer: str
    pooling: str
    config: dict[str, Any]
    extra_files: dict[str, dict[str, Any]] = field(default_factory=dict)
    scale: float = 0.2  # of its matrices


SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
ROBERTA = SIZES | {"max_position_embeddings": 130, "type_vocab_size": 1, "pad_token_id": 1}
MODERN = SIZES | {
    "num_hidden_layers": 4,
    "local_attention": 8,
    "global_attn_every_n_layers": 3,
    "max_position_embeddings": 256,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "cls_token_id": 0,
    "sep_token_id": 2,
}
USE = {
    "config_sentence_transformers.json": {
        "prompts": {"query": "search_query: ", "document": "search_document: ", "plain": ""},
        "default_prompt_name": "query",
    },
    "sentence_bert_config.json": {"max_seq_length": 100, "do_lower_case": False},
}
MODELS = (
    TinyModel(
        "bert", "BertModel", "BertConfig", "wordpiece_uncased", "mean", SIZES | {"max_position_embeddings": 256}, USE
    ),
    TinyModel(
        "bert_reranker",
        "BertForSequenceClassification",
        "BertConfig",
        "wordpiece_uncased",
        "",
        SIZES | {"max_position_embeddings": 256, "num_labels": 1},
    ),
    TinyModel(
        "distilbert",
        "DistilBertModel",
        "DistilBertConfig",
        "wordpiece_cased",
        "mean",
        {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "max_position_embeddings": 256},
    ),
    TinyModel(  # as multilingual-e5-small
        "bert_unigram", "BertModel", "BertConfig", "unigram", "mean", SIZES | {"max_position_embeddings": 256}
    ),
    TinyModel("roberta", "RobertaModel", "RobertaConfig", "byte_bpe", "cls", ROBERTA),
    TinyModel(
        "roberta_reranker",
        "RobertaForSequenceClassification",
        "RobertaConfig",
        "byte_bpe",
        "",
        ROBERTA | {"id2label": {0: "contradiction", 1: "entailment", 2: "neutral"}},
    ),
    TinyModel("xlm_roberta", "XLMRobertaModel", "XLMRobertaConfig", "unigram", "cls", ROBERTA),
    TinyModel(
        "xlm_roberta_reranker",
        "XLMRobertaForSequenceClassification",
        "XLMRobertaConfig",
        "unigram",
        "",
        ROBERTA | {"num_labels": 1},
    ),
    TinyModel(
        "nomic_bert",
        "NomicBertModel",
        "NomicBertConfig",
        "wordpiece_uncased",
        "mean",
        SIZES | {"max_position_embeddings": 256},
    ),
    TinyModel("modern_bert", "ModernBertModel", "ModernBertConfig", "byte_bpe_modern", "mean", MODERN),
    TinyModel(
        "modern_bert_silu",
        "ModernBertModel",
        "ModernBertConfig",
        "byte_bpe_modern",
        "cls",
        MODERN | {"hidden_activation": "silu"},
    ),
    TinyModel(
        "modern_bert_reranker",
        "ModernBertForSequenceClassification",
        "ModernBertConfig",
        "byte_bpe_modern",
        "",
        MODERN | {"num_labels": 1, "classifier_pooling": "mean"},
        scale=0.15,  # llama.cpp's GELU errs by up to 0.0005, which grows with the sums it goes into
    ),
    TinyModel(
        "modern_bert_reranker_cls",
        "ModernBertForSequenceClassification",
        "ModernBertConfig",
        "byte_bpe_modern",
        "",
        MODERN | {"num_labels": 2, "classifier_pooling": "cls"},
        scale=0.15,
    ),
)


def corpus(*, ascii_only: bool = False) -> Iterator[str]:
    """What the tokenizers learn from. Every character is an entry of a Unigram, so it gets fewer of them."""
    yield from TEXTS
    yield from (text for pair in PAIRS for text in pair)
    texts = [entry["text"][:600] for entry in json.loads((HERE / "reference_texts.json").read_text("utf-8"))]
    yield from (text for text in texts if text.isascii() or not ascii_only)


def wordpiece(lowercase: bool) -> tuple[Tokenizer, dict[str, str]]:
    roles = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=900, special_tokens=list(roles.values()), limit_alphabet=600, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, roles


def byte_bpe(modern: bool) -> tuple[Tokenizer, dict[str, str]]:
    roles = (
        {"cls": "[CLS]", "pad": "[PAD]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"}
        if modern
        else {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC() if modern else None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=list(roles.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    if modern:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
        )
        return tokenizer, roles
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer, roles | {"cls": "<s>", "sep": "</s>"}


def unigram() -> tuple[Tokenizer, dict[str, str]]:
    roles = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=900, special_tokens=list(roles.values()), unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(corpus(ascii_only=True), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer, roles | {"cls": "<s>", "sep": "</s>"}


def make_tokenizers() -> dict[str, Tokenizer]:
    folder = OUT / "tokenizers"
    folder.mkdir(parents=True)
    made = {
        "wordpiece_uncased": wordpiece(lowercase=True),
        "wordpiece_cased": wordpiece(lowercase=False),
        "byte_bpe": byte_bpe(modern=False),
        "byte_bpe_modern": byte_bpe(modern=True),
        "unigram": unigram(),
    }
    for name, (tokenizer, roles) in made.items():
        (folder / f"{name}.json").write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False), "utf-8")
        settings = {f"{role}_token": token for role, token in roles.items()}
        (folder / f"{name}_config.json").write_text(json.dumps(settings), "utf-8")
    return {name: tokenizer for name, (tokenizer, _) in made.items()}


def make_model(tiny: TinyModel, tokenizer: Tokenizer, out: Path = OUT, texts: Sequence[str] = TEXTS) -> None:
    folder = out / tiny.name
    folder.mkdir()
    config = getattr(transformers, tiny.config_class)(vocab_size=tokenizer.get_vocab_size(), **tiny.config)
    model_class = getattr(transformers, tiny.model_class)
    with tempfile.TemporaryDirectory() as scratch:
        model_class(config).save_pretrained(scratch)
        with safe_open(f"{scratch}/model.safetensors", "np") as stored:
            shapes = {name: stored.get_slice(name).get_shape() for name in sorted(stored.keys())}
        write_safetensors(Path(scratch) / "model.safetensors", make_weights(shapes, tiny.scale))
        model = model_class.from_pretrained(scratch, dtype=torch.float32, attn_implementation="eager").eval()
        shutil.copy(f"{scratch}/config.json", folder / "config.json")
    (folder / "weights.json").write_text(json.dumps({"scale": tiny.scale, "shapes": shapes}))
    (folder / "tokenizer").write_text(tiny.tokenizer)
    for name, content in tiny.extra_files.items():
        (folder / name).write_text(json.dumps(content), "utf-8")
    if tiny.pooling:
        write_pooling(folder, tiny.pooling)
        np.savez_compressed(folder / "reference.npz", **embed(model, tokenizer, tiny.pooling, texts))
    else:
        np.savez_compressed(folder / "reference.npz", **score(model, tokenizer))


def write_pooling(folder: Path, pooling: str) -> None:
    """modules.json and the pooling's config, as sentence-transformers writes them."""
    kinds = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    flags = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 64} | flags))


@torch.no_grad()
def embed(model: Any, tokenizer: Tokenizer, pooling: str, texts: Sequence[str]) -> dict[str, np.ndarray]:
    ids = [tokenizer.encode(text).ids for text in texts]
    rows = [model(input_ids=torch.tensor([i])).last_hidden_state[0].numpy() for i in ids]
    vectors = [r.mean(axis=0) if pooling == "mean" else r[0] for r in rows]
    return flat(ids) | {"vectors": np.array(vectors, np.float32)}


@torch.no_grad()
def score(model: Any, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    encodings = [tokenizer.encode(query, document) for query, document in PAIRS]
    ids = [encoding.ids for encoding in encodings]
    has_types = getattr(model.config, "type_vocab_size", 1) > 1
    types = [torch.tensor([e.type_ids]) if has_types else None for e in encodings]
    logits, one_type = [], []
    for pair, kind in zip(ids, types, strict=True):
        extra = {} if kind is None else {"token_type_ids": kind}
        logits.append(model(input_ids=torch.tensor([pair]), **extra).logits[0].numpy())
        one_type.append(model(input_ids=torch.tensor([pair])).logits[0].numpy())
    return flat(ids) | {"logits": np.array(logits, np.float32), "one_type": np.array(one_type, np.float32)}


def flat(ids: list[list[int]]) -> dict[str, np.ndarray]:
    return {"ids": np.concatenate(ids).astype(np.int32), "n_ids": np.array([len(i) for i in ids], np.int32)}


def main() -> None:
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    tokenizers = make_tokenizers()
    (OUT / "texts.json").write_text(json.dumps({"texts": TEXTS, "pairs": PAIRS}, ensure_ascii=False, indent=1), "utf-8")
    for tiny in MODELS:
        make_model(tiny, tokenizers[tiny.tokenizer])
        print(tiny.name, flush=True)


if __name__ == "__main__":
    main()
