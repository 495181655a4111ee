"""Reads images with an image tower: each becomes one vector, in the space of the text tower's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from gguf_embed.engines.base import ImageRows, LoadSpec
from gguf_embed.engines.cpu_count import threads_for
from gguf_embed.engines.openvino.agreement import MIN_COSINE_TO_FULL, cosines
from gguf_embed.engines.openvino.failures import openvino_errors, reason_of
from gguf_embed.engines.openvino.graphs.image_tower import build_image_network
from gguf_embed.engines.openvino.precision import keep_exact
from gguf_embed.engines.openvino.runtime import FULL, REDUCED, compile_graph
from gguf_embed.engines.openvino.stored_constants import StoredConstants
from gguf_embed.engines.openvino.weights import GraphWeights
from gguf_embed.errors import EngineFailure, InvalidRequest, ModelFileError, NotSupported, WayOut
from gguf_embed.gguf_file import towers
from gguf_embed.gguf_file.bounds import check_bounds
from gguf_embed.gguf_file.header import GgufHeader, read_header
from gguf_embed.images.pixels import PixelForm, read_patches
from gguf_embed.types import DENSE, FloatMatrix, ImageInput, OutputSpec
from gguf_embed.vectors import Rows

MAX_SIDE = 2048
"""Limit on the size of the images that a tower may ask for; usual are 224 to 512."""

MAX_IMAGES = 16
"""Images computed together: enough for all threads, few enough to bound the memory."""


class TowerReader:
    """Implements `ImageReader`. Belongs to one thread after it was opened."""

    max_inputs = MAX_IMAGES

    def __init__(self, header: GgufHeader, spec: LoadSpec, n_embd: int, precision: str) -> None:
        """Build and compile the tower's graph. `n_embd` are the numbers of the text tower's vectors.

        Raises `ModelFileError` for a file that is not such a tower, or belongs to another model.
        """
        self._form = pixel_form(GraphWeights(header))
        builder = _TowerBuilder(header, self._form, n_embd, threads_for(spec.config.compute))
        with openvino_errors(f"{header.path.name}: OpenVINO cannot compile it"):
            tower = builder.compile(precision, is_required=spec.config.compute.precision == REDUCED)
        self._constants, self._n_rows = tower.constants, tower.n_rows
        self._request: Any = tower.request

    def embed_batch(self, inputs: Sequence[ImageInput], output: OutputSpec) -> list[ImageRows]:
        if output.kind != DENSE:
            raise NotSupported(f"images have no {output.kind} with this model, only one vector each", [WayOut.POOL])
        pixels = np.stack([read_patches(only_image(image), self._form, f"input {image.index}:") for image in inputs])
        vectors = self._compute(pixels)
        return [ImageRows(Rows.one_each(DENSE, vector[np.newaxis].copy()), self._n_rows) for vector in vectors]

    def _compute(self, pixels: FloatMatrix) -> FloatMatrix:
        """float32[B, n_embd] of float32[B, patches, numbers]."""
        try:
            self._request.infer([pixels], True)
        except RuntimeError as error:
            raise EngineFailure(f"OpenVINO refused {len(pixels)} images: {reason_of(error)}") from error
        found: FloatMatrix = self._request.get_output_tensor(0).data
        if not np.isfinite(found).all():
            raise EngineFailure("the image tower returned numbers that are not finite")
        return found

    def release_buffers(self) -> None:
        """Implements `KeepsBuffers`, as `OpenVinoContext` does."""
        self._constants.release()

    def close(self) -> None:
        """Safe to call twice."""
        self._request = None


@dataclass(frozen=True, slots=True)
class _CompiledTower:
    request: Any
    constants: StoredConstants
    n_rows: int

    def vectors(self, pixels: FloatMatrix) -> FloatMatrix:
        """float32[B, n_embd] of float32[B, patches, numbers]."""
        self.request.infer([pixels], True)
        vectors: FloatMatrix = self.request.get_output_tensor(0).data.copy()
        return vectors


@dataclass(frozen=True, slots=True)
class _TowerBuilder:
    header: GgufHeader
    form: PixelForm
    n_embd: int  # of the text tower
    n_threads: int

    def compile(self, precision: str, *, is_required: bool) -> _CompiledTower:
        """The tower in this precision; in float32 instead of BF16 where that is not required, and fails or differs.

        One at a time is in memory. Raises `ModelFileError`, and `EngineFailure` if the graph for BF16 cannot be marked.
        """
        if precision != REDUCED or is_required:
            return self._compiled(precision)
        pixels = sample_pixels(self.form)
        expected = self._compiled(FULL).vectors(pixels)
        try:
            reduced = self._compiled(REDUCED)
            if cosines(expected, reduced.vectors(pixels)).min() >= MIN_COSINE_TO_FULL:
                return reduced
            del reduced
        except EngineFailure:
            pass
        return self._compiled(FULL)

    def _compiled(self, precision: str) -> _CompiledTower:
        network = build_image_network(GraphWeights(self.header, for_bf16=precision == REDUCED), self.form)
        if network.n_embd != self.n_embd:
            raise ModelFileError(
                f"{self.header.path.name}: its vectors of images have {network.n_embd} numbers, those of texts "
                f"{self.n_embd}: give the image tower of the same model"
            )
        if precision == REDUCED:
            network = replace(network, model=keep_exact(network.model, network.marks))
        constants = StoredConstants.of(network.model)
        request = compile_graph(network.model, precision, 1, self.n_threads).create_infer_request()
        return _CompiledTower(request, constants, network.n_rows)


def sample_pixels(form: PixelForm) -> FloatMatrix:
    """float32[2, patches, numbers]: noise, and a smooth picture, as a tower sees them."""
    n_patches, n_numbers = (form.size // form.patch_size) ** 2, 3 * form.patch_size**2
    noise = np.random.default_rng(0).standard_normal((n_patches, n_numbers))
    smooth = np.sin(np.linspace(0, 3, n_patches))[:, np.newaxis] + np.linspace(-1, 1, n_numbers)
    pixels: FloatMatrix = np.stack([noise, smooth]).astype(np.float32)
    return pixels


def only_image(given: ImageInput) -> bytes:
    """The image of an input. Raises `InvalidRequest` for anything beside it."""
    match given.parts:
        case (bytes() as data,):
            return data
    raise InvalidRequest(
        f"input {given.index} has more than one image or text: this model gives each its own vector, so send them as "
        "separate inputs"
    )


def find_tower(spec: LoadSpec) -> GgufHeader | None:
    """The image tower of the file or of --mmproj; None for a model without one. Raises `ModelFileError`."""
    path = spec.config.mmproj
    tower = towers.image_tower(read_header(path or spec.header.path))
    if tower is None and path is not None:
        raise ModelFileError(
            f"--mmproj {path} is not the image tower of a CLIP, a SigLIP or a nomic-embed-vision: give the model's own"
        )
    if tower is not None:
        check_bounds(tower)
    return tower


def pixel_form(weights: GraphWeights) -> PixelForm:
    """What the tower reads. Raises `ModelFileError` for a key that is missing or impossible."""
    header = weights.header
    size, patch = weights.integer("image_size"), weights.integer("patch_size")
    if not patch <= size <= MAX_SIDE:
        raise weights.error(f"images of {size} pixels a side and patches of {patch}, expected up to {MAX_SIDE}")
    mean, std = (_three(weights, key) for key in ("image_mean", "image_std"))
    if min(std) <= 0:
        raise weights.error(f"{header.architecture}.image_std is {std}, expected positive numbers")
    match header.get(towers.RESIZE, str):
        case "crop" | "squash" as resize:
            return PixelForm(size, patch, mean, std, resize)
        case other:
            raise weights.error(f"{towers.RESIZE} is {other!r}, expected crop or squash")


def _three(weights: GraphWeights, key: str) -> tuple[float, ...]:
    values = weights.header.metadata.get(f"{weights.architecture}.{key}")
    if not isinstance(values, tuple) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
        raise weights.error(f"{weights.architecture}.{key} is {values}, expected three numbers")
    found = cast("tuple[float, ...]", values)
    if not all(abs(value) < 10 for value in found):
        raise weights.error(f"{weights.architecture}.{key} is {values}, expected numbers from 0 to 1")
    return found
