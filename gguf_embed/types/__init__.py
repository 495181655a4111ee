"""Values shared by all layers: requests, results, and facts about a model. No behavior."""

from gguf_embed.types.model import (
    NO_LOAD_OPTIONS,
    FileProblem,
    LoadOptions,
    ModelCheck,
    ModelInfo,
    ModelStatus,
)
from gguf_embed.types.outputs import (
    DENSE,
    JOINT,
    MULTIVECTOR,
    SCORES,
    SPARSE,
    TOKENS,
    Output,
    OutputSpec,
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
    TextTokens,
    Timings,
    TokenInfo,
    Truncation,
    Usage,
    WindowedText,
)
from gguf_embed.types.vocabulary import (
    Vocabulary,
)

__all__ = [
    "DENSE",
    "JOINT",
    "MULTIVECTOR",
    "NO_LOAD_OPTIONS",
    "SCORES",
    "SPARSE",
    "TOKENS",
    "AppliedPrompt",
    "EmbedRequest",
    "EmbedResult",
    "FileProblem",
    "FloatMatrix",
    "ImageInput",
    "Input",
    "InputFailure",
    "LoadOptions",
    "ModelCheck",
    "ModelInfo",
    "ModelStatus",
    "Output",
    "OutputSpec",
    "Pooling",
    "PromptChoice",
    "PullProgress",
    "RerankRequest",
    "RerankResult",
    "ScoreKind",
    "ServiceState",
    "Span",
    "TextTokens",
    "Timings",
    "TokenInfo",
    "Truncation",
    "Usage",
    "Vocabulary",
    "WindowedText",
]
