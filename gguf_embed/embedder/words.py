"""How errors word their ways out for a Python program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from gguf_embed.errors import EmbedError, EngineFailure, InputTooLong, InvalidInput, InvalidRequest, WayOut, describe

WORDS: Mapping[WayOut, str] = {
    WayOut.SHORTEN: "shorten or split it",
    WayOut.TRUNCATE: "pass truncate=True",
    WayOut.TRUNCATE_DOCUMENT: "shorten the document",
    WayOut.LEAVE_OUT: "leave it out",
    WayOut.FEWER_INPUTS: "pass fewer texts at once",
    WayOut.RETRY: "retry later",
    WayOut.RERANK: "use rerank()",
    WayOut.POOL: 'create the Embedder with pooling="mean", "cls" or "last"',
    WayOut.SPARSE_VECTORS: "use embed_sparse()",
    WayOut.HEAD_VECTORS: "use embed_multivector() or embed_sparse()",
    WayOut.COMPARE_VECTORS: "use a reranker, or compare vectors with similarity()",
    WayOut.PROMPT_YOURSELF: "put the prompt before the texts yourself",
    WayOut.NAME_PROMPT: 'create it with prompts={"query": "…"}',
    WayOut.LARGER_CONTEXT: "use a larger n_ctx",
    WayOut.REPAIR_FILE: "run gguf-embed doctor --fix on the file",
    WayOut.FREE_SPACE: "free some space",
    WayOut.LARGER_FILES: "raise the limit on the size of a file (ulimit -f)",
    WayOut.OTHER_CACHE: "use another folder as cache",
    WayOut.OTHER_FILE: "use another GGUF of the model",
    WayOut.EXAMINE_FILE: "run gguf-embed doctor on the file",
}


@contextmanager
def worded() -> Iterator[None]:
    """Errors raised in the block say what a caller in Python can do."""
    try:
        yield
    except EmbedError as error:
        message = describe(error, WORDS)
        error.message, error.ways_out, error.args = message, (), (message,)
        raise


def shifted(error: EmbedError, n_before: int) -> EmbedError:
    """An error about one text of a part of the texts, with its index among all of them."""
    return error.renumbered(lambda index: index + n_before) if n_before else error


def reason(error: EmbedError) -> str:
    """Why a text failed, as the end of a sentence that begins with its place: "has 600 tokens, the limit is 512"."""
    match error:
        case InputTooLong():
            return f"has {error.n_tokens} tokens, the limit per text is {error.limit}"
        case InvalidInput():
            return error.reason.lstrip(": ")
        case EngineFailure():
            return f"was refused by the engine: {error.reason}"
        case InvalidRequest(index=int(index)):
            return error.message.removeprefix(f"input {index}").lstrip(": ")
        case _:
            return error.message
