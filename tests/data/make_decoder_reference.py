"""Make `convert_decoders/`: small tokenizers of each kind, and what the original packages make of the texts there.

Run by hand from the repository's root, never by the tests, in an environment of its own:

    pip install torch transformers sentence-transformers sentencepiece gguf
    PYTHONPATH=. python tests/data/make_decoder_reference.py

It writes
    tokenizers.json.xz   by name: tokenizer.json, tokenizer_config.json, and `ids` of each text in `texts.json`
                         with special tokens, as the `tokenizers` package gives them
    vectors.npz          <model>: float32[n_texts, n_dims] of each text in `VECTOR_TEXTS`, as transformers and
                         sentence-transformers compute them with the weights of
                         `tests/convert/tokenizers/decoder_directory.py`; `provenance`: versions, as JSON
"""

from __future__ import annotations

import io
import json
import lzma
import platform
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from sentence_transformers import SentenceTransformer
from sentencepiece import sentencepiece_model_pb2
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoModelForCausalLM

from tests.convert.tokenizers.decoder_directory import MODELS, VECTOR_TEXTS, write_decoder_directory

HERE = Path(__file__).parent / "convert_decoders"
TEXTS: dict[str, str] = json.loads((HERE / "texts.json").read_text("utf-8"))

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + TAIL
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + TAIL
QWEN35 = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def corpus(*, with_texts: bool = True) -> Iterator[str]:
    """Sentences, and the texts themselves: enough for some hundred merges in every script."""
    topics = (
        "The weather in the north is cold and the sea is calm. A vector is a list of numbers, and a model makes it.",
        "Der schnelle braune Fuchs springt über den faulen Hund. Die Straße führt durch Österreich und die Schweiz.",
        "Le renard brun saute par-dessus le chien paresseux. L'été, les élèves étudient à l'école près de la forêt.",
        "Быстрая лиса прыгает через ленивую собаку. Погода сегодня хорошая, и море спокойное.",
        "人工智能模型把文字变成向量。今天天气很好，我们去公园散步。我想学习中文。",
        "人工知能は文章をベクトルに変えます。今日は天気がいいので散歩に行きましょう。",
        "인공지능 모델은 텍스트를 벡터로 바꿉니다. 오늘은 날씨가 좋아서 산책을 갑니다.",
        "النموذج يحول النص إلى متجه من الأرقام. الطقس جميل اليوم والبحر هادئ.",
        "मॉडल पाठ को संख्याओं की सूची में बदलता है। आज मौसम अच्छा है और समुद्र शांत है।",
        "Is it true? yes\nno\nyes\nno\nyes\nno\nyes\nno\n",
        "def main(arguments: list[str]) -> int:\n    for value in arguments:\n        print(value)\n    return 0\n",
    )
    for _ in range(6):
        yield from topics
    for _ in range(2 if with_texts else 0):
        yield from TEXTS.values()


def byte_bpe(split: object, *, normalizer: object = None, n_tokens: int = 900, specials: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def by_regex(regex: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(regex), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def template(tokenizer: Tokenizer, single: str, pair: str) -> processors.TemplateProcessing:
    names = {piece.split(":")[0] for piece in (single + " " + pair).split() if not piece.startswith("$")}
    return processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(name, tokenizer.token_to_id(name)) for name in sorted(names)]
    )


def roberta() -> tuple[Tokenizer, dict[str, object]]:
    names = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    tokenizer = byte_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), specials=tuple(names.values()))
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer, settings(names | {"cls": "<s>", "sep": "</s>"})


def modernbert() -> tuple[Tokenizer, dict[str, object]]:
    names = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = byte_bpe(split, normalizer=normalizers.NFC(), specials=tuple(names.values()))
    runs = [AddedToken(" " * n, normalized=True, special=False) for n in range(24, 1, -1)]
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("|||EMAIL|||", normalized=True, special=False), *runs])
    tokenizer.post_processor = template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    return tokenizer, settings(names)


def qwen3_embedding() -> tuple[Tokenizer, dict[str, object]]:
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer = byte_bpe(by_regex(QWEN2), normalizer=normalizers.NFC(), specials=())
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in specials])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    closing = template(tokenizer, "$A <|endoftext|>", "$A <|endoftext|> $B <|endoftext|>")
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False), closing]
    )
    return tokenizer, settings({"eos": "<|im_end|>", "pad": "<|endoftext|>"})


def qwen35() -> tuple[Tokenizer, dict[str, object]]:
    tokenizer = byte_bpe(by_regex(QWEN35), normalizer=normalizers.NFC(), specials=("<|endoftext|>",))
    return tokenizer, settings({"eos": "<|endoftext|>"})


def llama3() -> tuple[Tokenizer, dict[str, object]]:
    tokenizer = byte_bpe(by_regex(LLAMA3), specials=())
    tokenizer.model.ignore_merges = True
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    tokenizer.post_processor = template(tokenizer, "<|begin_of_text|> $A", "<|begin_of_text|> $A <|begin_of_text|> $B")
    return tokenizer, settings({"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"})


def llama3_with_merges() -> tuple[Tokenizer, dict[str, object]]:
    tokenizer = byte_bpe(by_regex(LLAMA3), specials=("<|endoftext|>",))
    return tokenizer, settings({"eos": "<|endoftext|>"})


def starcoder() -> tuple[Tokenizer, dict[str, object]]:
    digits = pre_tokenizers.Digits(individual_digits=True)
    split = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return byte_bpe(split, specials=("<|endoftext|>",)), settings({"eos": "<|endoftext|>"})


def train_sentencepiece(**options: object) -> sentencepiece_model_pb2.ModelProto:
    model = io.BytesIO()
    sentences = (line for text in corpus() for line in text.replace("\0", "").split("\n") if line.strip())
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences, model_writer=model, minloglevel=2, num_threads=1, **options
    )
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    return proto


def xlm_roberta(steps: str) -> tuple[Tokenizer, dict[str, object]]:
    """Fairseq's order of ids: <s> <pad> </s> <unk>, the pieces from the fourth on, <mask>."""
    proto = train_sentencepiece(
        model_type="unigram",
        vocab_size=1100,
        hard_vocab_limit=False,
        character_coverage=0.995,
        normalization_rule_name="nmt_nfkc",
    )
    pieces = [(piece.piece, piece.score) for piece in proto.pieces[3:]]
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces, ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=3, byte_fallback=False))
    rules = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    if steps == "split":
        tokenizer.normalizer = rules
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    else:
        one_space = normalizers.Replace(Regex(" {2,}"), " ")
        tokenizer.normalizer = normalizers.Sequence([rules, normalizers.Strip(left=False, right=True), one_space])
        tokenizer.pre_tokenizer = metaspace
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = template(tokenizer, "<s> $A </s>", "<s> $A </s> </s> $B </s>")
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "unk": "<unk>", "pad": "<pad>"}
    return tokenizer, settings(names | {"mask": "<mask>"})


def gemma_pipeline(tokenizer: Tokenizer) -> tuple[Tokenizer, dict[str, object]]:
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in ("<pad>", "<eos>", "<bos>", "<unk>")])
    runs = ["\n" * n for n in range(1, 32)] + ["▁" * n for n in range(2, 32)] + ["<mask>", "<b>", "</b>"]
    tokenizer.add_tokens([AddedToken(run, normalized=False) for run in runs])
    tokenizer.post_processor = template(tokenizer, "<bos> $A <eos>", "<bos> $A <eos> <bos> $B <eos>")
    return tokenizer, settings({"bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "unk": "<unk>"})


def gemma() -> tuple[Tokenizer, dict[str, object]]:
    """As transformers makes it from a SentencePiece model: every split of a piece into two pieces is a merge."""
    newlines = ["\n" * n for n in range(1, 32)]
    proto = train_sentencepiece(
        model_type="bpe",
        vocab_size=1500,
        character_coverage=0.99,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        user_defined_symbols=["<mask>", *newlines, *("▁" * n for n in range(2, 32)), "<b>", "</b>"],
    )
    scores = {piece.piece: (piece.score, index) for index, piece in enumerate(proto.pieces)}
    vocab = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    merges = []
    for piece in proto.pieces:
        splits = [(piece.piece[:cut], piece.piece[cut:]) for cut in range(1, len(piece.piece))]
        local = [(vocab[left], vocab[right]) for left, right in splits if left in vocab and right in vocab]
        merges += [(-scores[piece.piece][0], pair) for pair in sorted(local)]
    merges.sort(key=lambda merge: merge[0])
    by_id = [piece.piece for piece in proto.pieces]
    model = models.BPE(
        vocab,
        [(by_id[left], by_id[right]) for _, (left, right) in merges],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    return gemma_pipeline(Tokenizer(model))


def gemma_trained() -> tuple[Tokenizer, dict[str, object]]:
    """Trained by the `tokenizers` package: one merge for each token, so the merges themselves count."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1400, special_tokens=specials, show_progress=False)
    lines = (line for text in corpus(with_texts=False) for line in text.split("\n"))  # other characters are bytes
    tokenizer.train_from_iterator(lines, trainer)
    # the bytes are no added tokens of the finished tokenizer
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return gemma_pipeline(
        Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    )


def settings(names: dict[str, str]) -> dict[str, object]:
    return {f"{role}_token": text for role, text in names.items()}


def make_tokenizers() -> dict[str, dict[str, object]]:
    made = {
        "roberta": roberta(),
        "modernbert": modernbert(),
        "qwen3_embedding": qwen3_embedding(),
        "qwen35": qwen35(),
        "llama3": llama3(),
        "llama3_with_merges": llama3_with_merges(),
        "starcoder": starcoder(),
        "xlm_roberta": xlm_roberta("split"),
        "xlm_roberta_replace": xlm_roberta("replace"),
        "gemma": gemma(),
        "gemma_trained": gemma_trained(),
    }
    return {
        name: {
            "tokenizer.json": json.loads(tokenizer.to_str()),
            "tokenizer_config.json": config,
            "ids": {key: tokenizer.encode(text).ids for key, text in TEXTS.items()},
        }
        for name, (tokenizer, config) in made.items()
    }


def make_vectors(tokenizers: dict[str, dict[str, object]]) -> dict[str, np.ndarray]:
    torch.set_num_threads(1)
    vectors = {}
    for name, model in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            directory = write_decoder_directory(Path(folder), model, tokenizers[model.tokenizer])
            texts = [TEXTS[key] for key in VECTOR_TEXTS]
            ids = [tokenizers[model.tokenizer]["ids"][key] for key in VECTOR_TEXTS]
            vectors[name] = scores(directory, ids) if model.rerank else encode(directory, texts, ids)
    return vectors


def encode(directory: Path, texts: list[str], ids: list[list[int]]) -> np.ndarray:
    model = SentenceTransformer(
        str(directory), device="cpu", model_kwargs={"dtype": torch.float32, "attn_implementation": "eager"}
    )
    assert [model.tokenizer(text)["input_ids"] for text in texts] == ids, "transformers changed the tokenizer"
    return np.asarray(model.encode(texts, batch_size=1, convert_to_numpy=True), np.float32)


def scores(directory: Path, ids: list[list[int]]) -> np.ndarray:
    """Logits of "yes" and "no" after the last token, as the Qwen3-Reranker's card computes them."""
    model = AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32, attn_implementation="eager")
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    answers = [tokenizer.token_to_id(word) for word in ("yes", "no")]
    rows = []
    for tokens in ids:
        with torch.no_grad():
            rows.append(model(torch.tensor([tokens])).logits[0, -1, answers].numpy())
    return np.asarray(rows, np.float32)


def main() -> None:
    tokenizers = make_tokenizers()
    data = json.dumps(tokenizers, ensure_ascii=False, separators=(",", ":")).encode()
    (HERE / "tokenizers.json.xz").write_bytes(lzma.compress(data, preset=9))
    packages = ("torch", "transformers", "sentence-transformers", "tokenizers", "sentencepiece", "numpy")
    provenance = {"versions": {name: version(name) for name in packages} | {"python": platform.python_version()}}
    np.savez_compressed(HERE / "vectors.npz", provenance=json.dumps(provenance), **make_vectors(tokenizers))


if __name__ == "__main__":
    main()
