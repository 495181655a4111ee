"""Make `rerank/reference.json`: scores of tiny random rerankers for pairs that are short, long, and cut.

Run by hand, never by the tests, from the repository's root in an environment of its own:

    pip install torch safetensors tokenizers transformers==5.23.0
    PYTHONPATH=. python tests/data/make_rerank_reference.py

The models are those of `convert/` and `convert_decoders/`. Of each a list of query, document, the ids that transformers
reads and its scores: logits, or for Qwen3 the probability of "yes" as its model card computes it. `cut`: null, or the
tokens that the pair was cut to by the model's own tokenizer ("only second"), for Qwen3 those of the document.
"""

from __future__ import annotations

import json
import lzma
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.convert.tokenizers.decoder_directory import MODELS, write_decoder_directory
from tests.data.tiny_weights import make_weights, write_safetensors

HERE = Path(__file__).parent
ENCODERS = ("bert_reranker", "xlm_roberta_reranker", "roberta_reranker", "modern_bert_reranker")
PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
MIDDLE = (
    "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    "<Query>: {query}\n<Document>: {document}"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
QUERIES = ("what does the fox do?", "lazy", "что делает лиса", "狐狸", "naïve façades, 1,234.5?")
DOCUMENTS = (
    "The quick brown fox jumps over the lazy dog.",
    "The dog is lazy. The dog sleeps all day, and at night it sleeps as well, which is why foxes like it.",
    "Быстрая коричневая лиса прыгает через ленивую собаку",
    "敏捷的棕色狐狸跳过了懒狗。",
    "",
    "Embeddings turn texts into vectors, and vectors can be compared: the closer two of them are, the better.",
)
LONG = DOCUMENTS[-1] * 3
CUT = 40


def cases() -> list[tuple[str, str, int | None]]:
    whole = [(query, document, None) for query in QUERIES for document in DOCUMENTS]
    return [*whole, *((query, LONG, CUT) for query in QUERIES)]


@torch.no_grad()
def encoder(name: str, folder: Path) -> list[dict[str, Any]]:
    source = HERE / "convert" / name
    stored = json.loads((source / "weights.json").read_text())
    shutil.copy(source / "config.json", folder)
    write_safetensors(folder / "model.safetensors", make_weights(stored["shapes"], stored["scale"]))
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.eval()
    tokenizer = Tokenizer.from_file(str(HERE / "convert" / "tokenizers" / f"{(source / 'tokenizer').read_text()}.json"))
    has_types = getattr(model.config, "type_vocab_size", 1) > 1
    found = []
    for query, document, cut in cases():
        tokenizer.no_truncation() if cut is None else tokenizer.enable_truncation(cut, strategy="only_second")
        pair = tokenizer.encode(query, document)
        types = {"token_type_ids": torch.tensor([pair.type_ids])} if has_types else {}
        logits = model(input_ids=torch.tensor([pair.ids]), **types).logits[0].tolist()
        one_type = model(input_ids=torch.tensor([pair.ids])).logits[0].tolist()
        found.append(entry(query, document, cut, pair.ids, logits) | {"one_type": one_type})
    return found


@torch.no_grad()
def qwen(folder: Path) -> list[dict[str, Any]]:
    packed = (HERE / "convert_decoders" / "tokenizers.json.xz").read_bytes()
    model_kind = MODELS["qwen3_reranker"]
    files = json.loads(lzma.decompress(packed))[model_kind.tokenizer]
    write_decoder_directory(folder / "m", model_kind, files)
    model = AutoModelForCausalLM.from_pretrained(folder / "m", dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = Tokenizer.from_str(json.dumps(files["tokenizer.json"]))
    yes_no = [tokenizer.token_to_id(word) for word in ("yes", "no")]
    found = []
    for query, document, cut in cases():
        middle = MIDDLE.format(query=query, document=document)
        whole = tokenizer.encode(middle, add_special_tokens=False).ids
        n_query = len(tokenizer.encode(MIDDLE.format(query=query, document=""), add_special_tokens=False).ids)
        kept = whole if cut is None else whole[: n_query + cut]
        prefix, suffix = (tokenizer.encode(text, add_special_tokens=False).ids for text in (PREFIX, SUFFIX))
        ids = [*prefix, *kept, *suffix]
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1, yes_no]
        found.append(entry(query, document, cut, ids, [torch.softmax(logits, 0)[0].item()]))
    return found


def entry(query: str, document: str, cut: int | None, ids: list[int], scores: list[float]) -> dict[str, Any]:
    return {"query": query, "document": document, "cut": cut, "ids": ids, "scores": scores}


def main() -> None:
    torch.set_num_threads(1)
    found = {}
    for name in (*ENCODERS, "qwen3_reranker"):
        with tempfile.TemporaryDirectory() as scratch:
            found[name] = qwen(Path(scratch)) if name == "qwen3_reranker" else encoder(name, Path(scratch))
        print(name, flush=True)
    (HERE / "rerank").mkdir(exist_ok=True)
    (HERE / "rerank" / "reference.json").write_text(json.dumps(found, ensure_ascii=False), "utf-8")


if __name__ == "__main__":
    main()
