"""The input that an error is about, for the dialects whose errors include it."""

from __future__ import annotations

from gguf_embed.errors import ChunksTooLong, EmbedError, EngineFailure, InputTooLong, InvalidRequest


def position_of(error: EmbedError) -> dict[str, object]:
    """`index`, and `indexes` if there are several inputs at fault; for a text that is too long also `n_prompt_tokens`
    and `n_ctx`, which are llama-server's names."""
    match error:
        case ChunksTooLong():
            return {"n_prompt_tokens": error.n_tokens, "n_ctx": error.limit}
        case InputTooLong():
            several: dict[str, object] = {"indexes": list(error.indexes)} if error.others else {}
            return {"index": error.index, "n_prompt_tokens": error.n_tokens, "n_ctx": error.limit, **several}
        case InvalidRequest(index=int(index), indexes=[_, *_] as indexes):
            return {"index": index, "indexes": list(indexes)}
        case InvalidRequest(index=int(index)) | EngineFailure(index=int(index)):
            return {"index": index}
        case _:
            return {}
