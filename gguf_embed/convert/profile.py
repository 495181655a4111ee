"""How to use a model, from sentence-transformers' files: prompts and maximum length, written under our own keys.

Written keys, which llama.cpp ignores:
    gguf-embed.prompt.<name>         string   a named prefix; empty ones are left out
    gguf-embed.prompt_default        string   the name of the prefix that sentence-transformers uses by default
    gguf-embed.max_sequence_length   uint32   tokens to which texts are truncated, if less than the context
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import gguf

from gguf_embed.convert.source import ModelSourceDirectory, read_json, read_modules
from gguf_embed.errors import ModelFileError

PROMPT_KEY = "gguf-embed.prompt."
DEFAULT_PROMPT_KEY = "gguf-embed.prompt_default"
MAX_LENGTH_KEY = "gguf-embed.max_sequence_length"

_CONFIG = "config_sentence_transformers.json"
_LENGTH_SETTINGS = (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length"))
_NO_LIMIT = 2**31  # transformers writes 10**30 if a tokenizer has no limit


@dataclass(frozen=True, slots=True)
class UseProfile:
    """How the model is meant to be used."""

    prompts: Mapping[str, str] = field(default_factory=dict)  # by name, none empty
    default_prompt: str | None = None  # a key of `prompts`
    max_length: int | None = None  # tokens

    def without(self, names: Collection[str]) -> UseProfile:
        """The same without the prompts of these names."""
        prompts = {name: text for name, text in self.prompts.items() if name not in names}
        return UseProfile(prompts, self.default_prompt if self.default_prompt in prompts else None, self.max_length)


def read_profile(source: ModelSourceDirectory) -> UseProfile:
    """Read it from the model's directory. Raises `ModelFileError` for prompts that are not strings."""
    path = source.path / _CONFIG
    config = read_json(path) if path.is_file() else {}
    stored = config.get("prompts") or {}
    if not isinstance(stored, dict) or not all(isinstance(text, str) for text in stored.values()):
        raise ModelFileError(f"{path}: prompts is {stored!r}, expected an object of strings")
    prompts = {name: text for name, text in stored.items() if text}
    default = config.get("default_prompt_name")
    return UseProfile(prompts, default if default in prompts else None, _max_length(source))


def write_profile(writer: gguf.GGUFWriter, profile: UseProfile, n_ctx: int | None) -> None:
    """Write the keys. `n_ctx` is the context the file declares; a maximum length is written only if it is smaller."""
    for name, text in profile.prompts.items():
        writer.add_string(PROMPT_KEY + name, text)
    if profile.default_prompt is not None:
        writer.add_string(DEFAULT_PROMPT_KEY, profile.default_prompt)
    if profile.max_length is not None and (n_ctx is None or profile.max_length < n_ctx):
        writer.add_uint32(MAX_LENGTH_KEY, profile.max_length)


def _max_length(source: ModelSourceDirectory) -> int | None:
    """Like sentence-transformers: its own setting (until version 5), else the tokenizer's."""
    folders = [module.folder for module in read_modules(source) if module.kind == "Transformer"]
    if not folders:
        return None
    for name, key in _LENGTH_SETTINGS:
        path = folders[0] / name
        value = read_json(path).get(key) if path.is_file() else None
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _NO_LIMIT:
            return value
    return None
