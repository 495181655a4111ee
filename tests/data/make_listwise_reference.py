"""Make `listwise/reference.json`: what PyTorch gives for a tiny jina-reranker-v3 with random weights.

Run by hand from the repository's root, never by the tests, in an environment of its own:

    pip install torch==2.13.0 transformers==5.24.0 gguf
    PYTHONPATH=. python tests/data/make_listwise_reference.py

The steps are those of `modeling.py` in jinaai/jina-reranker-v3, written again here: texts cut to 512 and 2,048
tokens, blocks of 125 documents, one prompt per block, transformers' Qwen3, a projector on the rows of the markers,
cosines; with several blocks, the query's vector is the average of theirs, weighted with the best cosine of each, from
0 to 1.
"""

from __future__ import annotations

import json
import lzma
import platform
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cosine_similarity
from transformers import Qwen3Config, Qwen3Model

from tests.convert.bert_directory import Weights
from tests.convert.tokenizers.decoder_directory import random_weights
from tests.listwise_models import DATA, MARKERS, MODEL, projector, write_listwise

TOKENIZERS = Path(__file__).parent / "convert_decoders" / "tokenizers.json.xz"
LENGTHS = (512, 2048)  # of a query, of a document
BLOCK = 125

PANDA = "what is a panda?"
TEXTS = (
    "The giant panda is a bear species endemic to China.",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "",
    "今天天气很好，我们去公园散步。",
    "\n\nBegins with line breaks, ends with a space ",
    "def main(arguments: list[str]) -> int:\n    return 0\n",
)
CASES: tuple[dict[str, Any], ...] = (
    {"query": PANDA, "documents": list(TEXTS)},
    {"query": PANDA, "documents": list(TEXTS[:2]), "instruction": "Prefer sentences about animals."},
    {"query": PANDA, "documents": [TEXTS[0]]},
    {
        "query": "e\u0301te\u0301",
        "documents": ["e\u0301te\u0301 et hiver", f"a {MARKERS[0]}marker{MARKERS[1]} is left out", "same", "same"],
    },
    {"query": "Wie ist das Wetter?", "documents": [f"{TEXTS[number % 6]} {number}" for number in range(130)]},
    {"query": PANDA, "documents": [TEXTS[1], "a panda is black and white " * 500, TEXTS[0]]},
)


def prompt(query: str, documents: Sequence[str], instruction: str) -> str:
    """What follows the marker of the query is left in, to show that it has no effect."""
    asked = f"<instruct>\n{instruction}\n</instruct>\n" if instruction else ""
    passages = "".join(
        f'<passage id="{number}">\n{document}{MARKERS[0]}\n</passage>\n' for number, document in enumerate(documents)
    )
    return (
        "<|im_start|>system\nYou are a search relevance expert who can determine a ranking of the passages based on "
        "how relevant they are to the query. If the query is a question, how relevant a passage is depends on how well "
        "it answers the question. If not, try to analyze the intent of the query and assess how well each passage "
        "satisfies the intent. If an instruction is provided, you should follow the instruction when determining the "
        f"ranking.<|im_end|>\n<|im_start|>user\nI will provide you with {len(documents)} passages, each indicated by a "
        f"numerical identifier. Rank the passages based on their relevance to query: {query}\n{asked}{passages}"
        f"<query>\n{query}{MARKERS[1]}\n</query><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


class Original:
    """The model in PyTorch."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        config = json.loads((directory / "config.json").read_text("utf-8"))
        config = {key: value for key, value in config.items() if key not in ("architectures", "auto_map")}
        self.model = Qwen3Model._from_config(Qwen3Config(**config), attn_implementation="eager").eval().float()
        weights = random_weights(MODEL, config["vocab_size"])
        state = {name.removeprefix("model."): torch.from_numpy(value) for name, value in weights.items()}
        self.model.load_state_dict(state)
        layers: Weights = projector()
        self.first, self.second = (torch.from_numpy(layers[f"projector.{number}.weight"]) for number in (0, 2))
        self.markers = [self.tokenizer.token_to_id(text) for text in MARKERS]

    def cut(self, text: str, length: int) -> str:
        ids = self.tokenizer.encode(text).ids
        text = self.tokenizer.decode(ids[:length], skip_special_tokens=False) if len(ids) >= length else text
        return text.replace(MARKERS[0], "").replace(MARKERS[1], "")

    def vectors(self, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the documents and of the query."""
        ids = torch.tensor(self.tokenizer.encode(text).ids)
        with torch.no_grad():
            rows = self.model(input_ids=ids[None]).last_hidden_state[0]
        projected = torch.relu(rows @ self.first.T) @ self.second.T
        return projected[ids == self.markers[0]], projected[ids == self.markers[1]]

    def scores(self, query: str, documents: Sequence[str], instruction: str = "") -> list[float]:
        query = self.cut(query, LENGTHS[0])
        texts = [self.cut(document, LENGTHS[1]) for document in documents]
        blocks = [
            self.vectors(prompt(query, texts[at : at + BLOCK], instruction)) for at in range(0, len(texts), BLOCK)
        ]
        weights = torch.stack([(1 + cosine_similarity(rows, own).max()) / 2 for rows, own in blocks])
        queries = torch.cat([own for _, own in blocks])
        averaged = (weights[:, None] * queries).sum(0, keepdim=True) / weights.sum()
        found: list[float] = cosine_similarity(torch.cat([rows for rows, _ in blocks]), averaged).tolist()
        return found


def made() -> Iterator[dict[str, Any]]:
    tokenizer = json.loads(lzma.decompress(TOKENIZERS.read_bytes()))[MODEL.tokenizer]
    with tempfile.TemporaryDirectory() as folder:
        original = Original(write_listwise(Path(folder), tokenizer))
        for case in CASES:
            yield case | {"scores": [round(score, 7) for score in original.scores(**case)]}


def main() -> None:
    torch.set_num_threads(1)
    versions = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    provenance = {"versions": versions | {"python": platform.python_version()}}
    content = json.dumps({"provenance": provenance, "cases": list(made())}, ensure_ascii=False, indent=1)
    DATA.mkdir(exist_ok=True)
    (DATA / "reference.json").write_text(content + "\n", "utf-8")


if __name__ == "__main__":
    main()
