"""From --mmproj to a lane of its own for texts with images."""

from __future__ import annotations

from gguf_embed.config import ModelConfig
from gguf_embed.engines.base import Engine, ImageSpec
from gguf_embed.engines.llama.engine import LlamaEngine
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.vision_tower import check_tower
from gguf_embed.model_pool.cpu_count import n_processors
from gguf_embed.scheduler.image_worker import ImageWorker
from gguf_embed.types import ModelInfo

MAX_TOKENS = 8192
"""Of a text with its images. The context holds KV memory for them at all times: 0.9 GB for a model of 2 billion."""


def open_image_worker(engine: Engine, config: ModelConfig, info: ModelInfo) -> ImageWorker | None:
    """Load the vision tower and start its thread; None where no --mmproj was given. Raises `ModelFileError`."""
    if config.mmproj is None:
        return None
    if not config.mmproj.exists():
        raise ModelFileError(f"--mmproj {config.mmproj}: no such file; check the path")
    check_tower(read_header(config.mmproj))
    name = info.name if info.path is None else info.path.name  # the engine's may be a copy with other weights
    if not isinstance(engine, LlamaEngine):
        raise ModelFileError(f"{name} is a static model, which reads words only: --mmproj needs a causal decoder")
    if not engine.runs_in_parts:
        raise ModelFileError(
            f"{name} reads a text as a whole, so no images can be put between its tokens: --mmproj needs a causal "
            "decoder"
        )
    spec = ImageSpec(
        mmproj=config.mmproj,
        max_tokens=min(info.max_input_tokens, MAX_TOKENS),
        n_threads=config.compute.n_threads or n_processors(),
        use_gpu=config.compute.offload.n_gpu_layers != 0,
    )
    return ImageWorker(engine.open_images(spec))
