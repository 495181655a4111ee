"""Explains why a text is too long, and what the request could do about it."""

from __future__ import annotations

from gguf_embed.errors import ChunksTooLong, InputTooLong, InvalidRequest
from gguf_embed.preprocessing import prompt_prefixes as prompts
from gguf_embed.preprocessing.tokenizers import Tokenizer
from gguf_embed.types import DENSE, EmbedRequest, ModelInfo


def explain(error: InputTooLong, request: EmbedRequest, info: ModelInfo, tokenizer: Tokenizer) -> InputTooLong:
    """The error with the ways out that apply to this request.

    Raises `InvalidRequest` if the prompt alone leaves no room for any text.
    """
    prompt = prompts.choose(request.prompt, info.prompts)
    n_tokens = len(tokenizer.encode(prompt.text)) if prompt is not None and prompt.text else 0
    if n_tokens >= error.limit:
        raise InvalidRequest(
            f"the prompt alone has {n_tokens} tokens, the limit for prompt and text together is {error.limit}: send a "
            "shorter prompt",
            request.prompt.param if request.prompt else "prompt",
        )
    if request.spans_are_inputs:
        return ChunksTooLong(error.index, error.n_tokens, error.limit)
    can_average = (request.output or info.output).kind == DENSE and not request.spans
    return InputTooLong(error.index, error.n_tokens, error.limit, can_average=can_average, others=error.others)
