"""One request with images on one loaded model: check, send it over the model's image lane, finish."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from gguf_embed.errors import InvalidInput, InvalidRequest, NotSupported
from gguf_embed.preprocessing import prompt_prefixes as prompts
from gguf_embed.preprocessing.tokens import character_limit
from gguf_embed.scheduler.image_worker import ImageSubmission
from gguf_embed.service.embed import ServedModel, check_dimensions
from gguf_embed.types import AppliedPrompt, EmbedRequest, EmbedResult, ImageInput, Pooling, Timings, Usage
from gguf_embed.vectors import finish


async def embed_images(served: ServedModel, request: EmbedRequest, load_s: float) -> EmbedResult:
    """Answer the whole request, its inputs without images too. Raises one `EmbedError`.

    Nothing is ever cut here, and equal inputs are computed each.
    """
    lane = served.model.images
    if lane is None:
        raise NotSupported(no_tower(served.info.name))
    pooling = _check(request, served)
    prompt = prompts.choose(request.prompt, served.info.prompts)
    texts = in_order(request, "" if prompt is None else prompt.text)
    _check_characters(texts, served.info.max_input_tokens)
    if served.model.engine.vocabulary().composes:
        texts = [_composed(text) for text in texts]
    return _result(served, request, await lane.submit(texts, pooling), (prompt, load_s))


def no_tower(name: str) -> str:
    """Why a model cannot answer, for `NotSupported`."""
    return f"model {name!r} reads text only: start the server with --mmproj FILE, the model's vision tower"


def in_order(request: EmbedRequest, prefix: str) -> list[ImageInput]:
    """Every input as the image lane takes it, with the prefix before its first words.

    Raises `InvalidRequest` for token ids beside images.
    """
    images = {image.index: image.parts for image in request.images}
    found: list[ImageInput] = []
    for index, text in enumerate(request.inputs):
        parts = images.get(index, (text,) if isinstance(text, str) else None)
        if parts is None:
            raise InvalidRequest(f"input {index} is token ids, others hold images: send it in a request of its own")
        found.append(ImageInput(index, _prefixed(prefix, parts)))
    return found


def _prefixed(prefix: str, parts: tuple[str | bytes, ...]) -> tuple[str | bytes, ...]:
    if not prefix:
        return parts
    first = parts[0] if parts else None
    return (prefix + first, *parts[1:]) if isinstance(first, str) else (prefix, *parts)


def _check_characters(texts: Sequence[ImageInput], max_tokens: int) -> None:
    """All words of an input count: they are tokenized together, in some 150 bytes of memory each."""
    limit = character_limit(max_tokens)
    for text in texts:
        n_characters = sum(len(part) for part in text.parts if isinstance(part, str))
        if n_characters > limit:
            raise InvalidInput(text.index, f" has {n_characters:,} characters, the limit is {limit:,}: shorten it")


def _composed(text: ImageInput) -> ImageInput:
    """As the text path does it for models whose original tokenizer composes characters."""
    parts = (unicodedata.normalize("NFC", part) if isinstance(part, str) else part for part in text.parts)
    return replace(text, parts=tuple(parts))


def _check(request: EmbedRequest, served: ServedModel) -> Pooling:
    pooling = served.info.pooling if request.pooling is None else request.pooling
    if pooling is Pooling.RANK:
        raise NotSupported("images have no rank scores: ask for pooling last or mean")
    check_dimensions(request, served.info.n_embd)
    asked = {
        "late chunking and spans": request.spans,
        '"return_tokens"': request.return_tokens,
        '"long_input"': request.long_input != "error",
        '"on_error"': request.on_error != "fail",
    }
    for what in (name for name, is_asked in asked.items() if is_asked):
        raise NotSupported(f"{what}: not for a request with images; leave it out, or send texts only")
    return pooling


def _result(
    served: ServedModel, request: EmbedRequest, done: ImageSubmission, how: tuple[AppliedPrompt | None, float]
) -> EmbedResult:
    pooling = served.info.pooling if request.pooling is None else request.pooling
    kind = served.info.embd_normalize if request.embd_normalize is None else request.embd_normalize
    return EmbedResult(
        model=served.info,
        pooling=pooling,
        vectors=finish(np.concatenate(done.rows), -1 if pooling is Pooling.NONE else kind, request.dimensions),
        row_offsets=(0, *accumulate(map(len, done.rows))),
        usage=Usage(sum(done.n_tokens)),
        timings=Timings(queue_s=done.queue_s, compute_s=done.compute_s, load_s=how[1]),
        prompt=how[0],
    )
