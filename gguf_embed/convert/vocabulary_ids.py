"""The ids of single tokens in a model directory's tokenizer."""

from __future__ import annotations

from collections.abc import Mapping

from gguf_embed.convert.source import ModelSourceDirectory, read_json
from gguf_embed.errors import ModelFileError


def read_token_ids(source: ModelSourceDirectory) -> Mapping[str, int]:
    """The id of every token by its text. Raises `ModelFileError` if there is no tokenizer.json."""
    path = source.path / "tokenizer.json"
    config = read_json(path)
    try:
        vocabulary = config["model"]["vocab"]
        if isinstance(vocabulary, list):  # Unigram: pairs of text and score
            ids = {str(text): number for number, (text, _) in enumerate(vocabulary)}
        else:
            ids = {str(text): int(number) for text, number in vocabulary.items()}
        return ids | {str(added["content"]): int(added["id"]) for added in config.get("added_tokens") or ()}
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise ModelFileError(f"{path} is malformed ({type(exc).__name__}: {exc}); download it again") from exc


def special_token(source: ModelSourceDirectory, name: str) -> str | None:
    """The text of a special token, such as "mask_token", from tokenizer_config.json; None if it names none."""
    path = source.path / "tokenizer_config.json"
    value = read_json(path).get(name) if path.is_file() else None
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
