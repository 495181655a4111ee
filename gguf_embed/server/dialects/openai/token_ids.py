"""Whose token ids a client sends to `POST /v1/embeddings`: this model's own, or OpenAI's.

LangChain's OpenAIEmbeddings sends cl100k_base ids unless it is told not to. Read as another model's ids they are other
words, and the vectors look like any other: so ids count as the model's own only where that shows, or was said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from gguf_embed.errors import InvalidInput, InvalidRequest
from gguf_embed.preprocessing.tokens import SpecialTokens, character_limit, special_tokens_around
from gguf_embed.server.context import ServerContext, Service
from gguf_embed.tokenization.openai_encodings import OpenAIEncoding, how_to_fetch
from gguf_embed.types import EmbedRequest, Input

MAX_CHARACTER_BYTES = 4
"""Of UTF-8."""

MAX_INLINE_TOKENS = 10_000
"""Requests up to this size are decoded on the event loop (about 1 ms); larger ones in a thread."""

N_CL100K = 100_277
"""Ids from here on are in no text of cl100k_base. Texts of o200k_base have ids up to 199,998, so one of them may end in
Qwen3's 151643; no closing token that we know is higher, so that encoding cannot be told too."""

INNER_BYTES = frozenset((*range(94, 124), *range(222, 256)))
"""The ids of the bytes 0x80 to 0xBF, in cl100k_base and o200k_base: inside a character, so no whole text begins so.

The second piece of a text that LangChain cut may; it would have to end in a model's closing token too.
"""

_LANGCHAIN = "LangChain's OpenAIEmbeddings sends OpenAI's ids: set check_embedding_ctx_length=False there"


def identify_model(special: SpecialTokens) -> bool:
    """Whether ids inside these special tokens cannot be OpenAI's: they begin as no text does, or hold an id of no text.

    BERT's 101 is a byte inside a character there. Gemma's 2 … 1 identifies nothing: it is a text in # and ".
    """
    begins_inside = bool(INNER_BYTES.intersection(special.opening[:1]))
    return begins_inside or any(token >= N_CL100K for token in special.opening + special.closing)


async def resolve_token_ids(context: ServerContext, request: EmbedRequest) -> EmbedRequest:
    """The request with OpenAI's ids turned into text; as it was where they are the model's own. For one that has ids.

    An array that mixes texts and ids is llama-server's form, so its ids are the model's. Raises `InvalidRequest` for
    ids that are refused, or that nobody can tell.
    """
    rule = context.options.token_ids
    match rule.meaning:
        case "model":
            return request
        case "auto":
            await _refuse_unframed(context.service, request)
            return request
        case "reject":
            _refuse_any(request.inputs)
            return request
        case name:
            if rule.encoding is None and any(map(is_ids_only, request.inputs)):
                raise InvalidRequest(
                    f"this server reads token ids as {name} and cannot: {rule.problem}. Send text. {_LANGCHAIN}; or "
                    f"fetch the file on the server's machine, {how_to_fetch(name)}, and start the server again",
                    "input",
                )
            if rule.encoding is None:
                return request
            info = context.service.resolve(request.model).info
            limits = TextLimits(character_limit(info.max_input_tokens), context.options.max_body_bytes)
            return await _decode(rule.encoding, request, limits)


def is_ids_only(prompt: Input) -> bool:
    """Whether an input is token ids and nothing else."""
    return isinstance(prompt, tuple) and set(map(type, prompt)) == {int}


async def _refuse_unframed(service: Service, request: EmbedRequest) -> None:
    bare = [index for index, prompt in enumerate(request.inputs) if is_ids_only(prompt)]
    if not bare:
        return
    with_special = await service.tokenize("a", model=request.model, add_special=True, parse_special=True)
    plain = await service.tokenize("a", model=request.model, add_special=False, parse_special=True)
    special = (special_tokens_around(with_special, plain) if plain else None) or SpecialTokens((), ())
    for index in bare:
        tokens = [part for part in request.inputs[index] if isinstance(part, int)]
        if not (identify_model(special) and special.surround(tokens)):
            raise InvalidRequest(_cannot_be_known(special, index), "input", index)


def _cannot_be_known(special: SpecialTokens, index: int) -> str:
    around = " … ".join(" ".join(map(str, tokens)) for tokens in (special.opening, special.closing))
    lack = f" without this model's special tokens ({around.strip()})" if identify_model(special) else ""
    return (
        f"input {index} is token ids{lack}, so it cannot be known whose they are: send text. {_LANGCHAIN}, or start "
        "the server with --openai-token-ids cl100k_base. This model's own ids: POST /embedding, or --openai-token-ids "
        "model"
    )


def _refuse_any(inputs: Sequence[Input]) -> None:
    for index, prompt in enumerate(inputs):
        if not isinstance(prompt, str):
            raise InvalidRequest(
                f"input {index} holds token ids, and this server takes text only (--openai-token-ids reject): send "
                f"text. {_LANGCHAIN}",
                "input",
                index,
            )


@dataclass(frozen=True, slots=True)
class TextLimits:
    """How much text ids may become."""

    characters: int  # of one input
    total_bytes: int  # of a request


async def _decode(encoding: OpenAIEncoding, request: EmbedRequest, limits: TextLimits) -> EmbedRequest:
    def run() -> EmbedRequest:
        return replace(request, inputs=decode_all(encoding, request.inputs, limits))

    if sum(len(prompt) for prompt in request.inputs if not isinstance(prompt, str)) <= MAX_INLINE_TOKENS:
        return run()
    return await asyncio.to_thread(run)


def decode_all(encoding: OpenAIEncoding, inputs: Sequence[Input], limits: TextLimits) -> tuple[Input, ...]:
    """Every input that is ids alone as its text, the others as they are. All are measured before one is decoded.

    Raises `InvalidRequest` above the limits too.
    """
    bare = {index: cast("tuple[int, ...]", prompt) for index, prompt in enumerate(inputs) if is_ids_only(prompt)}
    most, total = MAX_CHARACTER_BYTES * limits.characters, 0
    for index, tokens in bare.items():
        n_bytes = encoding.n_bytes(tokens, index, most)
        if n_bytes > most:
            reason = f"over {most:,} bytes of text, the limit per text is {limits.characters:,} characters: split it"
            raise InvalidInput(index, f" is token ids of {reason}", "input")
        total += n_bytes
        if total > limits.total_bytes:
            raise InvalidRequest(
                f"the token ids are over {limits.total_bytes:,} bytes of text, the limit per request "
                "(--max-body-size): send fewer at once",
                "input",
            )
    return tuple(
        encoding.decode(bare[index], index) if index in bare else prompt for index, prompt in enumerate(inputs)
    )
