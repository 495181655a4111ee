"""Makes `bm25/reference.json` with fastembed 0.9.1: BM25's sparse vectors, with the stop words that the package has."""

from __future__ import annotations

import json
import tempfile
import tomllib
from pathlib import Path

from fastembed.sparse.bm25 import Bm25

DATA = Path(__file__).parent / "bm25"
STOP_WORDS = Path(__file__).parents[2] / "gguf_embed" / "convert" / "stop_words.toml"
TEXTS = {
    "english": [
        "The runners were running through the gardens of well-known houses, and a runner fell.",
        "It's 42 o'clock; don't worry about naïve CAFÉ owners' déjà-vu!",
        "snake_case and _ and __init__ and " + "x" * 40 + " and " + "y" * 41,
        "İstanbul ΣΊΣΥΦΟΣ Straße 東京 ２０２６",
        "generously universal university relational conditional national " * 60,
        "How do I reset my password?",
    ],
    "german": [
        "Die Häuser der Läufer wurden größer, während sie über die Straßen liefen.",
        "Können wir morgen früh noch einmal über die Verträge und Bedürfnisse sprechen?",
        "Ärger, Übermut und Ölwechsel: die Aufgaben des Gärtners",
    ],
}


def main() -> None:
    stop_words = tomllib.loads(STOP_WORDS.read_text("utf-8"))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for language, words in stop_words.items():
            (Path(folder) / f"{language}.txt").write_text("\n".join(words.split()), "utf-8")
        for language, texts in TEXTS.items():
            model = Bm25("Qdrant/bm25", language=language, specific_model_path=folder)
            found[language] = {
                "texts": texts,
                "documents": [dict(sorted(zip(*rows(one), strict=True))) for one in model.embed(texts)],
                "queries": [sorted(one.indices.tolist()) for one in model.query_embed(texts)],
            }
    (DATA / "reference.json").write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", "utf-8")


def rows(one: object) -> tuple[list[int], list[float]]:
    return one.indices.tolist(), one.values.tolist()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
