"""What people see at 80 and 120 columns. `python -m tests.cli.snapshots` writes it into the folder of the same name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from unittest.mock import patch

from gguf_embed.cli import list_models, ps
from gguf_embed.cli.progress import Bar
from gguf_embed.cli.pull_display import PullDisplay
from gguf_embed.model_store.default_model import DefaultHere
from gguf_embed.types import PullProgress
from tests.cli.command import Place
from tests.cli.one_shot import Stream, call
from tests.gguf_models import write_tiny_encoder

FOLDER = Path(__file__).parent / "snapshots"
COLUMNS = (80, 120)

LOADED = [
    {
        "name": "bge-m3",
        "size": 1_200_000_000,
        "size_vram": 0,
        "details": {"family": "bert", "quantization_level": "F16"},
        "context_length": 8192,
        "expires_at": "2318-03-21T00:00:00Z",
    },
    {
        "name": "second-state/All-MiniLM-L6-v2-Embedding-GGUF:Q8_0",
        "size": 30_000_000,
        "size_vram": 0,
        "details": {"family": "bert", "quantization_level": "Q8_0"},
        "context_length": 512,
        "expires_at": "2023-11-14T22:18:20Z",
    },
]
NOW_S = 1_700_000_000.0

MISTAKES = (
    ["serv"],
    ["model.gguf"],
    ["serve", "all-minilm"],
    ["serve", "--prot", "8080"],
    ["serve", "--port", "99999"],
    ["serve", "--max-inputs", "0"],
    ["serve", "-m", "bge-smal-en"],
    ["show", "bge-m"],
    ["pull", "nomic-embed-txt"],
    ["rm", "all-minilm"],
    ["doctor", "bge-m3"],
    ["doctor", "tinny.gguf"],
    ["convert", "original/model.safetensors"],
    ["embed", "text", "-m", "original"],
    ["ps", "extra"],
)


def printed(*words: str) -> Callable[[int], str]:
    """What a command prints on a terminal of so many columns."""

    def run(columns: int) -> str:
        environment = Place(Path.cwd(), "http://127.0.0.1:9").environment | {"NO_COLOR": "1", "COLUMNS": str(columns)}
        done = call(*words, terminal=True, environment=environment)
        return done.out.decode() + done.err

    return run


def mistakes(columns: int) -> str:
    return "".join(f"$ gguf-embed {' '.join(words)}\n{printed(*words)(columns)}" for words in MISTAKES)


def loaded(columns: int) -> str:
    return "\n".join(ps.model_lines(LOADED, NOW_S, columns)) + "\n"


def pulling(columns: int) -> str:
    """The bar after each step of a pull."""
    now_s, stream, lines = [0.0], Stream(is_terminal=True), []
    with patch.dict(os.environ, {"COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "xterm"}):
        bar = Bar(stream, clock=lambda: now_s[0], redraws=False)
        display = PullDisplay(stream, bar)
        steps = [PullProgress("pulling f3e3b8c45421", "sha256:f3e3b8", 231_000_000, n * 21_000_000) for n in range(12)]
        for step in (PullProgress("pulling manifest"), *steps, PullProgress("verifying sha256 digest")):
            display.show(step)
            if step.total_bytes:
                lines.append(bar.line())
            now_s[0] += 1.2
    return "".join(lines)


SHOWN: dict[str, Callable[[int], str]] = {
    "help": printed("--help"),
    "serve-help": printed("serve", "--help"),
    "list": printed("list", "--models-dir", "models"),
    "list-catalog": printed("list", "--catalog"),
    "list-catalog-rerank": printed("list", "--catalog", "rerank", "--max-size", "500M"),
    "show": printed("show", "nomic-embed-text"),
    "doctor": printed("doctor", "tiny.gguf"),
    "mistakes": mistakes,
    "ps": loaded,
    "pull": pulling,
}


def shown(name: str, columns: int, folder: Path) -> str:
    """One of `SHOWN`, in a folder with a few models and no cache."""
    (folder / "models").mkdir(exist_ok=True)
    (folder / "original").mkdir(exist_ok=True)
    (folder / "original" / "model.safetensors").write_bytes(b"x")
    for path in ("tiny.gguf", "models/a-model-with-a-rather-long-name-Q8_0.gguf", "models/tiny.gguf"):
        write_tiny_encoder(folder / path)
    with chdir(folder), patch.object(list_models, "default_on_this_machine", lambda cache: DefaultHere(None)):
        return SHOWN[name](columns)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in SHOWN:
        for columns in COLUMNS:
            with tempfile.TemporaryDirectory() as folder:
                text = shown(name, columns, Path(folder))
            (FOLDER / f"{name}-{columns}.txt").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
