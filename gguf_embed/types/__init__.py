"""The values that every layer shares: requests, results, and what is known of a model. No behavior."""

from gguf_embed.types.model import (
    NO_LOAD_OPTIONS,
    LoadOptions,
    ModelInfo,
    ModelStatus,
    Pooling,
)
from gguf_embed.types.requests import (
    EmbedRequest,
    PictureText,
    Prompt,
    PromptChoice,
    Span,
)
from gguf_embed.types.rerank import (
    RerankRequest,
    RerankResult,
    ScoreKind,
)
from gguf_embed.types.results import (
    AppliedPrompt,
    EmbedResult,
    FloatMatrix,
    InputFailure,
    PullProgress,
    ReadTokens,
    ServiceState,
    Timings,
    TokenizedText,
    Truncation,
    Usage,
    WindowedText,
)
from gguf_embed.types.vocabulary import (
    Vocabulary,
)

__all__ = [
    "NO_LOAD_OPTIONS",
    "AppliedPrompt",
    "EmbedRequest",
    "EmbedResult",
    "FloatMatrix",
    "InputFailure",
    "LoadOptions",
    "ModelInfo",
    "ModelStatus",
    "PictureText",
    "Pooling",
    "Prompt",
    "PromptChoice",
    "PullProgress",
    "ReadTokens",
    "RerankRequest",
    "RerankResult",
    "ScoreKind",
    "ServiceState",
    "Span",
    "Timings",
    "TokenizedText",
    "Truncation",
    "Usage",
    "Vocabulary",
    "WindowedText",
]
