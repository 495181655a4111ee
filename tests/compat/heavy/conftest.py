"""For tests in .venv-compat, which has the clients but not the server: that one runs from .venv (SERVER_PYTHON)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server_process import Server, start_server, stop

litellm = importlib.util.find_spec("litellm")
assert litellm, "make test-compat runs these, in .venv-compat"
RANKS = Path(str(litellm.origin)).parent / "litellm_core_utils" / "tokenizers"

# Before any client is imported: what keeps them from the network, and from a user's own accounts.
for name in list(os.environ):
    if name.startswith(("OPENAI_", "OLLAMA_", "CHROMA_", "HUGGINGFACE_", "LANGSMITH_", "LANGCHAIN_")):
        del os.environ[name]
os.environ |= {
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "ANONYMIZED_TELEMETRY": "False",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "TIKTOKEN_CACHE_DIR": str(RANKS),  # for LangChain; the server is told its own
}


@pytest.fixture(scope="session")
def default_model() -> None:
    """Stands for the fixture of that name: the server makes the model itself, its weights are in .venv."""


@pytest.fixture(scope="session")
def cl100k_server(cache_dir: Path) -> Iterator[Server]:
    """The default model behind ids of cl100k_base, whose file litellm brings along."""
    server = start_server(cache_dir, "--openai-token-ids", "cl100k_base", TIKTOKEN_CACHE_DIR=str(RANKS))
    yield server
    stop(server)


@pytest.fixture(scope="session")
def reranker(cache_dir: Path, models: Path) -> Iterator[Server]:
    """A tiny random reranker: 64 tokens per pair, the key is `right`."""
    server = start_server(cache_dir, "-m", models / "reranker.gguf", "--api-key", "right")
    yield server
    stop(server)
