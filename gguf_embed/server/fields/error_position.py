"""The input that an error is about, for the dialects whose errors include it."""

from __future__ import annotations

from gguf_embed.errors import ChunksTooLong, EmbedError, EngineFailure, InputTooLong, InvalidRequest


def position_of(error: EmbedError) -> dict[str, object]:
    """`index`; for a text that is too long also `n_prompt_tokens` and `n_ctx`, which are llama-server's names."""
    match error:
        case ChunksTooLong():
            return {"n_prompt_tokens": error.n_tokens, "n_ctx": error.limit}
        case InputTooLong():
            return {"index": error.index, "n_prompt_tokens": error.n_tokens, "n_ctx": error.limit}
        case InvalidRequest(index=int(index)) | EngineFailure(index=int(index)):
            return {"index": index}
        case _:
            return {}
