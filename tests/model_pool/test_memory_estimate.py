"""How much memory the registry expects a model to take, by what an earlier load has measured."""

from __future__ import annotations

import json

from gguf_embed.config import ModelConfig
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.eviction import with_options
from gguf_embed.model_pool.loading import load_model
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.types import LoadOptions
from tests.model_pool.test_registry import registry_of


def test_memory_is_estimated_by_the_precision_that_was_measured_before(models, tmp_path):
    path = models / "encoder.gguf"
    (spec,) = registry_of((path, "m"), base=ModelConfig(), cache_dir=tmp_path).specs()
    config = with_options(spec.config, LoadOptions(), has_gpu=False)
    load_model(LocatedModel(path, "m"), config, tmp_path, Metrics(), lambda line: None).close()
    (record,) = (file for file in (tmp_path / "measured").iterdir() if "weights" in file.read_text())
    for weights, takes_less in (("F32", False), ("BF16", True)):
        record.write_text(json.dumps(json.loads(record.read_text()) | {"weights": weights}))
        (known,) = registry_of((path, "m"), base=ModelConfig(), cache_dir=tmp_path).specs()
        assert (known.memory_bytes < spec.memory_bytes) is takes_less
        assert known.memory_bytes <= spec.memory_bytes
