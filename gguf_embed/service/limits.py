"""What to tell of a text that is too long: whose fault it is, and which ways out its request has."""

from __future__ import annotations

from gguf_embed.errors import ChunksTooLong, InputTooLong, InvalidRequest
from gguf_embed.preprocessing import prompt_prefixes as prompts
from gguf_embed.preprocessing.tokens import Tokenizer
from gguf_embed.types import DENSE, EmbedRequest, ModelInfo


def explain(error: InputTooLong, request: EmbedRequest, info: ModelInfo, tokenizer: Tokenizer) -> InputTooLong:
    """The error with what this request could do instead.

    Raises `InvalidRequest` where the prompt leaves no room for any text: no input is at fault then.
    """
    prompt = prompts.choose(request.prompt, info.prompts)
    n_tokens = len(tokenizer.encode(prompt.text)) if prompt is not None and prompt.text else 0
    if n_tokens >= error.limit:
        raise InvalidRequest(
            f"the prompt that is put before every text has {n_tokens} tokens by itself, the limit with a text is "
            f"{error.limit}: send a shorter one",
            request.prompt.param if request.prompt else "prompt",
        )
    if request.spans_are_inputs:
        return ChunksTooLong(error.index, error.n_tokens, error.limit)
    can_average = (request.output or info.output).kind == DENSE and not request.spans
    return InputTooLong(error.index, error.n_tokens, error.limit, can_average=can_average)
