"""The tiny models of `heads/` as directories of a hub repository: an encoder of `convert/` with heads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.data.tiny_weights import make_weights, write_safetensors

DATA = Path(__file__).parent


def write_directory(name: str, path: Path) -> Path:
    folder = DATA / "heads" / name
    base = DATA / "convert" / (folder / "base").read_text()
    files: dict[str, Any] = json.loads((folder / "files.json").read_text("utf-8"))
    shapes = json.loads((folder / "heads.json").read_text("utf-8"))
    shutil.copytree(
        base, path, ignore=shutil.ignore_patterns("weights.json", "tokenizer", "reference.npz", "1_Pooling")
    )
    tokenizer = (base / "tokenizer").read_text()
    for source, target in ((tokenizer, "tokenizer"), (f"{tokenizer}_config", "tokenizer_config")):
        shutil.copy(DATA / "convert" / "tokenizers" / f"{source}.json", path / f"{target}.json")
    update(path / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    stored = json.loads((base / "weights.json").read_text("utf-8"))
    in_model, tokens = shapes.get("model.safetensors", {}), files.pop("added_tokens", [])
    table = next(key for key in stored["shapes"] if key.endswith(("word_embeddings.weight", "tok_embeddings.weight")))
    if tokens:
        add_tokens(path / "tokenizer.json", tokens, stored["shapes"][table][0])
        stored["shapes"][table][0] += len(tokens)
        update(path / "config.json", {"vocab_size": stored["shapes"][table][0]})
    update(path / "config.json", files.pop("config.json", {}))
    prefix = files.pop("tensor_prefix", "")
    for file, content in files.items():
        write_or_remove(path / file, content)
    encoder = {prefix + key: value for key, value in make_weights(stored["shapes"], stored["scale"]).items()}
    write_safetensors(path / "model.safetensors", encoder | make_weights(in_model, 0.2))
    for file in folder.glob("*.pt"):
        shutil.copy(file, path)
    for file, of_file in shapes.items():
        if file != "model.safetensors":
            write_safetensors(path / file, make_weights(of_file, 0.2))
    return path


def add_tokens(path: Path, tokens: list[str], first_id: int) -> None:
    content = json.loads(path.read_text("utf-8"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for number, token in enumerate(tokens, first_id):
        content["added_tokens"].append({"id": number, "content": token} | flags)
    path.write_text(json.dumps(content), "utf-8")


def update(path: Path, entries: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | entries), "utf-8")


def write_or_remove(path: Path, content: object) -> None:
    if content is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")
