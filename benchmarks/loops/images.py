"""The loop that a user would write to embed pictures with transformers: files to unit vectors, in batches.

This module imports only what its own loop needs: it also runs in an interpreter without this project's packages.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.loops.batches import Matrix

BATCH_SIZES = (4, 16, 32)
SAMPLE = "sample.jpg"


class ClipLoop:
    """transformers' CLIPModel with its image processor and fused attention, in float32 or with BF16 autocast.

    `folder` has the model's directory `clip`, and a picture to try it with.
    """

    def __init__(self, folder: Path, n_threads: int, precision: str) -> None:
        self._torch: Any = import_module("torch")
        self._image: Any = import_module("PIL.Image")
        transformers: Any = import_module("transformers")
        self._torch.set_num_threads(n_threads)
        self._precision = precision
        self._processor = transformers.CLIPImageProcessor.from_pretrained(folder / "clip")
        self._model = transformers.CLIPModel.from_pretrained(folder / "clip", attn_implementation="sdpa").eval()
        self.sample = [str(folder / SAMPLE)]

    @property
    def variants(self) -> Sequence[str]:
        return [str(size) for size in BATCH_SIZES]

    def run(self, files: Sequence[str], variant: str) -> Matrix:
        """float32[n_files, n]."""
        torch = self._torch
        parts = []
        is_bf16 = self._precision == "bf16"
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            for start in range(0, len(files), int(variant)):
                pictures = [self._image.open(file) for file in files[start : start + int(variant)]]
                pixels = self._processor(pictures, return_tensors="pt").pixel_values
                pooled = self._model.vision_model(pixel_values=pixels).pooler_output
                parts.append(self._model.visual_projection(pooled).float())
        vectors = torch.cat(parts)
        unit: Matrix = (vectors / vectors.norm(dim=-1, keepdim=True)).numpy()
        return unit
