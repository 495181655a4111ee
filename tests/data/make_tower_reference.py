"""Make `towers/`: tiny CLIP and SigLIP models, and what transformers answers with them.

Run by hand, never by the tests, from the repository's root in an environment of its own:

    pip install torch==2.13.0 transformers==5.24.0 pillow==13.0.0 tokenizers sentencepiece==0.2.3 protobuf
    PYTHONPATH=. python tests/data/make_tower_reference.py

towers/<model>/   config.json, preprocessor_config.json, vocab.json and merges.txt, or spiece.model
    weights.json      the shapes of all tensors; `tiny_weights.py` makes the weights
    reference.npz     texts: float32[n_texts, n]; images: float32[n_images, n], of `towers/pictures.json`; neither
                      normalized; ids: int32, of all texts in a row; n_ids: per text
towers/texts.json     the texts
towers/pictures/      the pictures: PNG and JPEG files
"""

from __future__ import annotations

import collections
import io
import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipTokenizer,
)

from tests.data.tower_directories import DATA, write_directory

TEXTS = (
    "a photo of a cat",
    "Two dogs, running on the BEACH!",
    "it's the dog's 3rd day: 1984",
    "Größe naïve café — 今日は 😀",
    "  spaces\t and\nlines  ",
    "e\u0301 composed, \u00e9 too",
    "x",
    "a photo of a cat " * 20,
)
CORPUS = " ".join(TEXTS) + (
    " a photo of the dog and the cat on a beach, two cats running with a dog, it's a photo of spaces and lines in a day"
)
N_MERGES = 120
LAYERS = {"num_hidden_layers": 2, "layer_norm_eps": 1e-5}
MODELS: dict[str, dict[str, Any]] = {
    "clip_quick": {
        "projection_dim": 24,
        "text_config": {
            "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "hidden_act": "quick_gelu",
        },
        "vision_config": {
            "hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "hidden_act": "quick_gelu",
            "image_size": 32, "patch_size": 8,
        },
    },
    "clip_gelu": {
        "projection_dim": 32,
        "text_config": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "hidden_act": "gelu"},
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 80, "num_attention_heads": 2, "hidden_act": "gelu",
            "image_size": 42, "patch_size": 14,
        },
    },
}  # fmt: skip
SCALE = 0.25


def byte_characters() -> dict[int, str]:
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + number) for number, byte in enumerate(others)}


def train_vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    """Merges of the corpus, in CLIP's order of entries."""
    characters = byte_characters()
    words = collections.Counter(
        (*(characters[byte] for byte in word.encode()[:-1]), characters[word.encode()[-1]] + "</w>")
        for word in CORPUS.lower().split()
    )
    merges: list[tuple[str, str]] = []
    while True:
        pairs: collections.Counter[tuple[str, str]] = collections.Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs or len(merges) == N_MERGES:
            break
        best = max(sorted(pairs), key=lambda pair: pairs[pair])
        merges.append(best)
        words = collections.Counter({merged(word, best): count for word, count in words.items()})
    order = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order += [byte for byte in range(256) if byte not in order]
    entries = [characters[byte] for byte in order]
    entries += [entry + "</w>" for entry in entries] + ["".join(pair) for pair in merges]
    return [*entries, "<|startoftext|>", "<|endoftext|>"], merges


def merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    parts: list[str] = []
    for part in word:
        if parts and (parts[-1], part) == pair:
            parts[-1] += part
        else:
            parts.append(part)
    return tuple(parts)


def write_pictures() -> None:
    """Smooth color, an edge, and noise; wide, tall, small, gray, and with transparency."""
    folder = DATA / "pictures"
    folder.mkdir(exist_ok=True)
    y, x = np.mgrid[0:90, 0:160].astype(np.float32)
    smooth = np.stack([x / 160, y / 90, (np.sin(x / 9) * np.cos(y / 7) + 1) / 2], axis=-1)
    smooth[20:60, 50:100] = (0.9, 0.2, 0.1)
    wide = Image.fromarray((smooth * 255).astype(np.uint8))
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    wide.save(folder / "wide.png")
    wide.transpose(Image.Transpose.ROTATE_90).save(folder / "tall.jpg", quality=90)
    wide.save(folder / "wide.jpg", quality=85, progressive=True)
    Image.fromarray(noise).save(folder / "noise.png")
    Image.fromarray(noise[:20, :20]).save(folder / "small.png")
    wide.convert("L").save(folder / "gray.png")
    wide.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
    alpha = np.dstack([np.asarray(wide), np.tile(np.arange(160, dtype=np.uint8), (90, 1))])
    Image.fromarray(alpha).save(folder / "alpha.png")


def make(name: str, config: dict[str, Any]) -> None:
    folder = DATA / name
    folder.mkdir(exist_ok=True)
    entries, merges = train_vocabulary()
    text = {**LAYERS, **config["text_config"], "vocab_size": len(entries), "max_position_embeddings": 77}
    text |= {"bos_token_id": len(entries) - 2, "eos_token_id": len(entries) - 1, "pad_token_id": len(entries) - 1}
    vision = {**LAYERS, **config["vision_config"]}
    full = {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": config["projection_dim"]}
    full |= {"text_config": text, "vision_config": vision}
    (folder / "config.json").write_text(json.dumps(full))
    size = vision["image_size"]
    processor = {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size}, "resample": 3, "do_convert_rgb": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "vocab.json").write_text(json.dumps({entry: token for token, entry in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    random = CLIPModel(CLIPConfig(**full))
    shapes = {key: list(value.shape) for key, value in random.state_dict().items() if "position_ids" not in key}
    (folder / "weights.json").write_text(json.dumps({"shapes": shapes, "scale": SCALE}))
    with tempfile.TemporaryDirectory() as scratch:
        path = write_directory(name, Path(scratch) / name)
        model = CLIPModel.from_pretrained(path).eval()
        tokenizer = CLIPTokenizer.from_pretrained(path)
        images = CLIPImageProcessor.from_pretrained(path)
        ids = [tokenizer(text).input_ids for text in TEXTS]
        vectors, pictures = [], []
        with torch.no_grad():
            for text in ids:
                cut = text if len(text) <= 77 else [*text[:76], text[-1]]
                hidden = model.text_model(input_ids=torch.tensor([cut]))
                vectors.append(model.text_projection(hidden.pooler_output)[0].numpy())
            for file in sorted((DATA / "pictures").iterdir()):
                pixels = images(Image.open(io.BytesIO(file.read_bytes())), return_tensors="pt").pixel_values
                hidden = model.vision_model(pixel_values=pixels)
                pictures.append(model.visual_projection(hidden.pooler_output)[0].numpy())
    np.savez_compressed(
        folder / "reference.npz",
        texts=np.array(vectors, np.float32),
        images=np.array(pictures, np.float32),
        ids=np.concatenate([np.array(text, np.int32) for text in ids]),
        n_ids=np.array(list(map(len, ids)), np.int32),
    )


def make_siglip(name: str) -> None:
    folder = DATA / name
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch) / "corpus.txt"
        corpus.write_text(CORPUS.lower() * 3)
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus), model_prefix=str(Path(scratch) / "spiece"), vocab_size=120, model_type="unigram",
            normalization_rule_name="nfkc", add_dummy_prefix=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
            hard_vocab_limit=False, character_coverage=0.99,
        )  # fmt: skip
        (folder / "spiece.model").write_bytes((Path(scratch) / "spiece.model").read_bytes())
    n_vocab = sentencepiece.SentencePieceProcessor(str(folder / "spiece.model")).get_piece_size()
    sizes = {"num_hidden_layers": 2, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 32}
    sizes |= {"num_attention_heads": 4}
    full = {
        "model_type": "siglip",
        "architectures": ["SiglipModel"],
        "text_config": {**sizes, "intermediate_size": 64, "vocab_size": n_vocab, "max_position_embeddings": 64},
        "vision_config": {**sizes, "intermediate_size": 80, "image_size": 32, "patch_size": 8},
    }
    (folder / "config.json").write_text(json.dumps(full))
    processor = {
        "image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}, "resample": 3,
        "do_convert_rgb": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    shapes = {
        key: list(value.shape)
        for key, value in SiglipModel(SiglipConfig(**full)).state_dict().items()
        if "position_ids" not in key
    }
    (folder / "weights.json").write_text(json.dumps({"shapes": shapes, "scale": SCALE}))
    with tempfile.TemporaryDirectory() as scratch:
        path = write_directory(name, Path(scratch) / name)
        model = SiglipModel.from_pretrained(path, attn_implementation="eager").eval()
        tokenizer = SiglipTokenizer(str(path / "spiece.model"))
        images = SiglipImageProcessor.from_pretrained(path)
        ids = [tokenizer(text, padding="max_length", max_length=64).input_ids for text in TEXTS]
        vectors, pictures = [], []
        with torch.no_grad():
            for text in ids:
                cut = text if len(text) <= 64 else [*text[:63], text[-1]]
                vectors.append(model.text_model(input_ids=torch.tensor([cut])).pooler_output[0].numpy())
            for file in sorted((DATA / "pictures").iterdir()):
                pixels = images(Image.open(io.BytesIO(file.read_bytes())), return_tensors="pt").pixel_values
                pictures.append(model.vision_model(pixel_values=pixels).pooler_output[0].numpy())
    np.savez_compressed(
        folder / "reference.npz",
        texts=np.array(vectors, np.float32),
        images=np.array(pictures, np.float32),
        ids=np.concatenate([np.array(text, np.int32) for text in ids]),
        n_ids=np.array(list(map(len, ids)), np.int32),
    )


def main() -> None:
    (DATA / "texts.json").write_text(json.dumps(TEXTS, ensure_ascii=False))
    write_pictures()
    for name, config in MODELS.items():
        make(name, config)
    make_siglip("siglip")


if __name__ == "__main__":
    main()
