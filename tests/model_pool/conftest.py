from __future__ import annotations

import pytest

from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.loading import load_model
from gguf_embed.model_store.locate import LocatedModel


@pytest.fixture
def load(tmp_path):
    """`load(path, config)` → the loaded model and the lines it reported. All are closed after the test."""
    opened, said = [], []

    def load_file(path, config):
        loaded = load_model(LocatedModel(path, path.stem), config, tmp_path / "cache", Metrics(), said.append)
        opened.append(loaded)
        return loaded, said

    yield load_file
    for loaded in opened:
        loaded.close()
