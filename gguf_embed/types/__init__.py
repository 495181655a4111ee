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
    ImageInput,
    Input,
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
    ServiceState,
    Timings,
    TokenInfo,
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
    "ImageInput",
    "Input",
    "InputFailure",
    "LoadOptions",
    "ModelInfo",
    "ModelStatus",
    "Pooling",
    "PromptChoice",
    "PullProgress",
    "RerankRequest",
    "RerankResult",
    "ScoreKind",
    "ServiceState",
    "Span",
    "Timings",
    "TokenInfo",
    "TokenizedText",
    "Truncation",
    "Usage",
    "Vocabulary",
    "WindowedText",
]
