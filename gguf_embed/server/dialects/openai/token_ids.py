"""Decides whether token ids sent to `POST /v1/embeddings` are this model's own, or OpenAI's.

LangChain's OpenAIEmbeddings sends cl100k_base ids by default, through OpenAI's own client. Read with another vocabulary
they are different words, and nothing about the vectors shows the mistake. So ids from OpenAI's clients are OpenAI's,
unless special tokens prove that they are the model's own; those of everyone else are the model's, as in llama-server.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from gguf_embed.errors import ConfigError, InvalidInput, InvalidRequest
from gguf_embed.preprocessing.tokenizers import SpecialTokens, special_tokens_around
from gguf_embed.preprocessing.tokens import character_limit
from gguf_embed.server.context import ServerContext, Service
from gguf_embed.tokenization.openai_encodings import OpenAIEncoding, how_to_fetch, loaded_cl100k
from gguf_embed.types import EmbedRequest, Input

MAX_CHARACTER_BYTES = 4
"""The longest character in UTF-8."""

MAX_INLINE_TOKENS = 10_000
"""Requests up to this size are decoded on the event loop (about 1 ms); larger ones on a thread."""

N_CL100K = 100_277
"""Texts of cl100k_base have only ids below this. In o200k_base they go up to 199,998, so a text may end with Qwen3's
151643; no known closing token is higher, so o200k_base cannot be ruled out in the same way."""

INNER_BYTES = frozenset((*range(94, 124), *range(222, 256)))
"""The ids of the bytes 0x80 to 0xBF in cl100k_base and o200k_base. They are inside a character, so a text never begins
with one.

The second piece of a text that LangChain split may begin with one, but it would also have to end with the model's
closing token.
"""

_OPENAI_CLIENT = re.compile("(async)?(azure)?openai", re.IGNORECASE)
_LANGCHAIN = "LangChain's OpenAIEmbeddings sends OpenAI's token ids unless you set check_embedding_ctx_length=False"


def identify_model(special: SpecialTokens) -> bool:
    """Whether ids between these special tokens cannot be OpenAI's: no OpenAI text begins with them or contains them.

    For example, BERT's 101 is a byte inside a character in OpenAI's encodings. Gemma's 2 … 1 proves nothing, because
    these ids are # and " there.
    """
    begins_inside = bool(INNER_BYTES.intersection(special.opening[:1]))
    return begins_inside or any(token >= N_CL100K for token in special.opening + special.closing)


async def resolve_token_ids(context: ServerContext, request: EmbedRequest, user_agent: str) -> EmbedRequest:
    """The request with OpenAI's ids decoded to text. Unchanged if they are the model's own. For a request with ids.

    An array that mixes texts and ids is llama-server's form, so its ids are the model's. Raises `InvalidRequest` for
    ids that are refused or ambiguous.
    """
    rule = context.options.token_ids
    match rule.meaning:
        case "model":
            return request
        case "auto":
            return await _by_client(context, request, user_agent)
        case "reject":
            _refuse_any(request.inputs)
            return request
        case name:
            if rule.encoding is None and any(map(is_ids_only, request.inputs)):
                raise InvalidRequest(
                    f"this server is configured to read token ids as {name}, but cannot: {rule.problem}. Send text "
                    f"({_LANGCHAIN}); or fetch the file on the server's machine, {how_to_fetch(name)}, and restart the "
                    "server",
                    "input",
                )
            if rule.encoding is None:
                return request
            return await _decode(rule.encoding, request, _limits(context, request))


def is_ids_only(item: Input) -> bool:
    """Whether an input consists of token ids only."""
    return isinstance(item, tuple) and set(map(type, item)) == {int}


def is_openai_client(user_agent: str) -> bool:
    """Whether one of OpenAI's own clients sent this User-Agent: "OpenAI/Python 1.2", "AsyncAzureOpenAI/Python 1.2"."""
    return _OPENAI_CLIENT.match(user_agent) is not None


async def _by_client(context: ServerContext, request: EmbedRequest, user_agent: str) -> EmbedRequest:
    only_ids = [index for index, item in enumerate(request.inputs) if is_ids_only(item)]
    if not only_ids or not is_openai_client(user_agent):
        return request
    special = await _special_tokens(context.service, request)
    unproven = next((index for index in only_ids if not _is_own(special, request.inputs[index])), None)
    if unproven is None:
        return request
    try:
        encoding = await asyncio.to_thread(loaded_cl100k, context.options.token_ids.folders)
    except ConfigError as problem:
        message = _undecodable_message(special, unproven, problem.message)
        raise InvalidRequest(message, "input", unproven) from None
    return await _decode(encoding, request, _limits(context, request))


def _limits(context: ServerContext, request: EmbedRequest) -> TextLimits:
    info = context.service.resolve(request.model).info
    return TextLimits(character_limit(info.max_input_tokens), context.options.max_body_bytes)


async def _special_tokens(service: Service, request: EmbedRequest) -> SpecialTokens:
    with_special = await service.tokenize("a", model=request.model, add_special=True, parse_special=True)
    plain = await service.tokenize("a", model=request.model, add_special=False, parse_special=True)
    return (special_tokens_around(with_special, plain) if plain else None) or SpecialTokens((), ())


def _is_own(special: SpecialTokens, item: Input) -> bool:
    """Whether special tokens prove that an input of ids is the model's own."""
    return identify_model(special) and special.surround([part for part in item if isinstance(part, int)])


def _undecodable_message(special: SpecialTokens, index: int, problem: str) -> str:
    around = " … ".join(" ".join(map(str, tokens)) for tokens in (special.opening, special.closing))
    lack = f" without this model's special tokens ({around.strip()})" if identify_model(special) else ""
    return (
        f"input {index} contains token ids{lack} from OpenAI's client, and the server cannot decode them: {problem}. "
        f"Send text ({_LANGCHAIN}); or fetch the file on the server's machine, {how_to_fetch('cl100k_base')}. Send "
        "this model's own ids to POST /embedding, or start the server with --openai-token-ids model"
    )


def _refuse_any(inputs: Sequence[Input]) -> None:
    for index, item in enumerate(inputs):
        if not isinstance(item, str):
            raise InvalidRequest(
                f"input {index} contains token ids, and this server takes text only (--openai-token-ids reject): send "
                f"text. {_LANGCHAIN}",
                "input",
                index,
            )


@dataclass(frozen=True, slots=True)
class TextLimits:
    """Limits on the text that ids are decoded to."""

    characters: int  # per input
    total_bytes: int  # per request


async def _decode(encoding: OpenAIEncoding, request: EmbedRequest, limits: TextLimits) -> EmbedRequest:
    def run() -> EmbedRequest:
        return replace(request, inputs=decode_all(encoding, request.inputs, limits))

    if sum(len(item) for item in request.inputs if not isinstance(item, str)) <= MAX_INLINE_TOKENS:
        return run()
    return await asyncio.to_thread(run)


def decode_all(encoding: OpenAIEncoding, inputs: Sequence[Input], limits: TextLimits) -> tuple[Input, ...]:
    """Decode every input that consists of ids only; the others stay unchanged. All sizes are checked first.

    Raises `InvalidRequest` for unknown ids, or for more text than `limits` allow.
    """
    ids_of = {index: cast("tuple[int, ...]", item) for index, item in enumerate(inputs) if is_ids_only(item)}
    max_bytes, total = MAX_CHARACTER_BYTES * limits.characters, 0
    for index, tokens in ids_of.items():
        n_bytes = encoding.n_bytes(tokens, index, max_bytes)
        if n_bytes > max_bytes:
            raise InvalidInput(
                index,
                f" has token ids for over {max_bytes:,} bytes of text, the limit per text is {limits.characters:,} "
                "characters: split it",
                "input",
            )
        total += n_bytes
        if total > limits.total_bytes:
            raise InvalidRequest(
                f"the token ids are for over {limits.total_bytes:,} bytes of text, which is the limit per request "
                "(--max-body-size): send fewer inputs in one request",
                "input",
            )
    return tuple(
        encoding.decode(ids_of[index], index) if index in ids_of else item for index, item in enumerate(inputs)
    )
