"""vLLM's routes for scores, labels and whatever a model gives. Errors have OpenAI's shape, as in vLLM."""

from __future__ import annotations

from importlib.resources import files

from gguf_embed.server.context import Dialect, Route
from gguf_embed.server.dialects.vllm import classify, pooling, score
from gguf_embed.server.fields.openai_errors import ERRORS

VLLM = Dialect(
    name="vLLM",
    routes=(
        Route("POST", "/score", score.score, "scores of pairs of texts"),
        Route("POST", "/v1/score", score.score, "the same"),
        Route("POST", "/classify", classify.classify, "a classifier's labels, vLLM's or Infinity's shape"),
        Route("POST", "/pooling", pooling.pooling, "vectors, rows per token or scores: what the model gives"),
    ),
    errors=ERRORS,
    error_schema="OpenAIError",
    openapi=(files(__package__) / "openapi.toml",),
    bodies=(score.REQUEST, classify.REQUEST, pooling.REQUEST),
)
