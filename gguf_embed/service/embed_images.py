"""Plans requests with images. The vision tower tokenizes them, on its own thread."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gguf_embed.errors import EmbedError, InputTooLong, InvalidInput, InvalidRequest, NotSupported, WayOut
from gguf_embed.output_cache.cache import OutputCache
from gguf_embed.preprocessing import prompt_prefixes
from gguf_embed.preprocessing.tokens import TokenizedText, character_limit
from gguf_embed.scheduler.image_scheduler import ImageScheduler
from gguf_embed.scheduler.scheduler import Submission
from gguf_embed.service.embed_checks import check_dimensions
from gguf_embed.service.embed_plan import EmbedPlan
from gguf_embed.service.pipeline import ServedModel
from gguf_embed.types import DENSE, TOKENS, EmbedRequest, ImageInput, Input, Output

KNOWN_READERS = ("clip-vit-base-patch32", "siglip-base-patch16-224", "nomic-embed-vision-v1.5")
MAX_NAMES_SHOWN = 10
_TOKENIZED_BY_TOWER = TokenizedText((), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlan(EmbedPlan):
    """Inputs of texts and images. They are never truncated, and equal inputs are not deduplicated."""

    scheduler: ImageScheduler
    images: Sequence[ImageInput]

    def tokenize(self) -> Sequence[TokenizedText | EmbedError]:
        return [_TOKENIZED_BY_TOWER] * len(self.images)

    async def submit(self, sequences: Sequence[Sequence[int]], cache: OutputCache | None) -> Submission:
        """Nothing is kept: the key would be the whole image."""
        return await self.scheduler.submit(self.images, self.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlonePlan(EmbedPlan):
    """Texts, and images that each have their own vector. `inputs` are the texts, and are computed like any others."""

    scheduler: ImageScheduler
    images: Sequence[ImageInput]
    text_indices: Sequence[int]  # of `inputs` in the request

    def tokenize(self) -> Sequence[TokenizedText | EmbedError]:
        texts: list[TokenizedText | EmbedError] = [_TOKENIZED_BY_TOWER] * len(self.index_of)
        try:
            found = self._prepare(self.inputs)
        except (InvalidInput, InputTooLong) as error:
            raise error.renumbered(self.text_indices.__getitem__) from error
        for index, text in zip(self.text_indices, found, strict=True):
            texts[index] = text
        return texts

    async def submit(self, sequences: Sequence[Sequence[int]], cache: OutputCache | None) -> Submission:
        """The images on their thread, the texts with those of other requests. The cache is not asked."""
        texts = self.served.model.scheduler
        of_images, of_texts = await asyncio.gather(
            self.scheduler.submit(self.images, self.output),
            texts.submit([sequences[index] for index in self.text_indices], self.output),
        )
        outputs: list[Output | None] = [None] * len(sequences)
        n_tokens = [0] * len(sequences)
        failures: dict[int, EmbedError] = {}
        for indices, part in (([image.index for image in self.images], of_images), (self.text_indices, of_texts)):
            for index, output, n in zip(indices, part.outputs, part.n_tokens, strict=True):
                outputs[index], n_tokens[index] = output, n
            failures |= {indices[number]: error for number, error in part.failures.items()}
        queue_s, compute_s = max(of_images.queue_s, of_texts.queue_s), of_images.compute_s + of_texts.compute_s
        return Submission(outputs, n_tokens, queue_s, compute_s, failures)


def plan_images(served: ServedModel, request: EmbedRequest) -> EmbedPlan:
    """Plan all inputs of a request with images, including those without images.

    Raises `InvalidRequest` or `NotSupported` for options that this model or images do not support.
    """
    model, info = served.model, served.info
    if model.images is None:
        raise no_tower(info.name)
    _check(request, served)
    if model.loaded.images_alone:
        return _plan_alone(served, request, model.images)
    prompt = None if request.prompt is None else prompt_prefixes.choose(request.prompt, info.prompts)
    images = in_order(request, "" if prompt is None else prompt.text)
    _check_characters(images, info.max_input_tokens)
    if model.codec.vocabulary().composes:
        images = [_composed(image) for image in images]
    return ImagePlan(
        served=served,
        output=request.output or info.output,
        index_of=range(len(images)),
        n_characters=0,
        request=request,
        inputs=(),
        prompt=prompt,
        scheduler=model.images,
        images=images,
    )


def _plan_alone(served: ServedModel, request: EmbedRequest, scheduler: ImageScheduler) -> AlonePlan:
    """Raises `InvalidRequest` for an input that is more than one text or image."""
    output = request.output or served.info.output
    if output != served.info.output:
        raise NotSupported(
            f"images have no pooling {output.pooling_name} with this model: leave the pooling out, or send texts only"
        )
    prompt = None if request.prompt is None else prompt_prefixes.choose(request.prompt, served.info.prompts)
    with_images = {image.index for image in request.images}
    for image in request.images:
        if len(image.parts) != 1:
            raise InvalidRequest(
                f"input {image.index} has {len(image.parts)} parts, and model {served.info.name!r} gives each text and "
                "each image its own vector: send them as separate inputs"
            )
    indices = [index for index in range(len(request.inputs)) if index not in with_images]
    texts: Sequence[Input] = [request.inputs[index] for index in indices]
    return AlonePlan(
        served=served,
        output=output,
        index_of=range(len(request.inputs)),
        n_characters=sum(map(len, texts)),
        request=request,
        inputs=texts if prompt is None else prompt_prefixes.apply(prompt, tuple(texts)),
        prompt=prompt,
        scheduler=scheduler,
        images=request.images,
        text_indices=indices,
    )


def no_tower(name: str, readers: Sequence[str] = ()) -> NotSupported:
    """The error for a request with images to a model without a vision tower. `readers`: models here that have one."""
    on_this_server = f"models on this server that read images: {', '.join(map(repr, readers[:MAX_NAMES_SHOWN]))}"
    others = on_this_server if readers else f"models that read images: {', '.join(KNOWN_READERS)}"
    return NotSupported(f"model {name!r} reads text only, not images ({others})", [WayOut.ADD_TOWER])


def in_order(request: EmbedRequest, prefix: str) -> list[ImageInput]:
    """Every input in the form the image worker takes, with the prefix before its first text.

    Raises `InvalidRequest` for token ids in the same request.
    """
    images = {image.index: image.parts for image in request.images}
    found: list[ImageInput] = []
    for index, text in enumerate(request.inputs):
        parts = images.get(index, (text,) if isinstance(text, str) else None)
        if parts is None:
            raise InvalidRequest(
                f"input {index} is an array of token ids, and other inputs have images: send it in a separate request"
            )
        found.append(ImageInput(index, _prefixed(prefix, parts)))
    return found


def _prefixed(prefix: str, parts: tuple[str | bytes, ...]) -> tuple[str | bytes, ...]:
    if not prefix:
        return parts
    first = parts[0] if parts else None
    return (prefix + first, *parts[1:]) if isinstance(first, str) else (prefix, *parts)


def _check_characters(images: Sequence[ImageInput], max_tokens: int) -> None:
    """Count all texts of an input together: they are tokenized in one call, at about 150 bytes per character."""
    limit = character_limit(max_tokens)
    for image in images:
        n_characters = sum(len(part) for part in image.parts if isinstance(part, str))
        if n_characters > limit:
            raise InvalidInput(image.index, f" has {n_characters:,} characters, the limit is {limit:,}: shorten it")


def _composed(image: ImageInput) -> ImageInput:
    """The input in NFC, as `LlamaTokenizer` does it for models whose original tokenizer composes characters."""
    parts = (unicodedata.normalize("NFC", part) if isinstance(part, str) else part for part in image.parts)
    return replace(image, parts=tuple(parts))


def _check(request: EmbedRequest, served: ServedModel) -> None:
    output = request.output or served.info.output
    if output.kind not in (DENSE, TOKENS):
        raise NotSupported(f"inputs with images have no {output.kind}, only vectors", [WayOut.POOL])
    if request.dimensions is not None:
        check_dimensions(request.dimensions, served.info.n_embd)
    requested = {
        "vectors of spans": request.spans,
        "token details": request.return_tokens,
        "a limit per text": request.max_tokens is not None,
        "averaging over windows": request.long_input != "error",
        "skipping failed inputs": request.on_error != "fail",
    }
    for what in (name for name, is_requested in requested.items() if is_requested):
        raise NotSupported(f"{what} cannot be combined with images: do without, or send texts only")
