"""Reads images with an image tower: each becomes one vector, in the space of the text tower's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from gguf_embed.engines.base import ImageRows, LoadSpec
from gguf_embed.engines.cpu_count import threads_for
from gguf_embed.engines.openvino.agreement import MIN_COSINE_TO_FULL, cosines
from gguf_embed.engines.openvino.failures import openvino_errors, reason_of
from gguf_embed.engines.openvino.graphs.image_tower import ImageNetwork, build_image_network
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
        weights = GraphWeights(header)
        self._form = pixel_form(weights)
        with openvino_errors(f"{header.path.name}: OpenVINO cannot compile it"):
            network = build_image_network(weights, self._form)
            if network.n_embd != n_embd:
                raise ModelFileError(
                    f"{header.path.name}: its vectors of images have {network.n_embd} numbers, those of texts "
                    f"{n_embd}: "
                    "give the image tower of the same model"
                )
            self._constants = StoredConstants.of(network.model)
            self._request: Any = _compiled(network, precision, spec, self._form)
        self._n_rows = network.n_rows

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
        """Implements `KeepsBuffers`."""
        self._constants.release()
        if self._request is not None:
            self._request.get_compiled_model().release_memory()

    def close(self) -> None:
        """Safe to call twice."""
        self._request = None


def _compiled(network: ImageNetwork, precision: str, spec: LoadSpec, form: PixelForm) -> Any:
    """An inference request in this precision; in float32 instead where BF16 was not asked for and vectors differ."""
    n_threads = threads_for(spec.config.compute)
    if precision != REDUCED:
        return compile_graph(network.model, FULL, 1, n_threads).create_infer_request()
    try:
        model = keep_exact(network.model, network.exact)
    except EngineFailure:
        if spec.config.compute.precision == REDUCED:
            raise
        return compile_graph(network.model, FULL, 1, n_threads).create_infer_request()
    reduced = compile_graph(model, REDUCED, 1, n_threads).create_infer_request()
    if spec.config.compute.precision == REDUCED:
        return reduced
    full = compile_graph(model, FULL, 1, n_threads).create_infer_request()
    return reduced if _least_cosine(full, reduced, sample_pixels(form)) >= MIN_COSINE_TO_FULL else full


def _least_cosine(first: Any, second: Any, pixels: FloatMatrix) -> float:
    """Of the vectors that two requests give for the same pictures."""
    rows = []
    for request in (first, second):
        request.infer([pixels], True)
        rows.append(request.get_output_tensor(0).data.copy())
    return float(cosines(*rows).min())


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
