"""Names of models, GGUF files and repositories: which are allowed, and which files they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from gguf_embed.errors import ConfigError, InvalidRequest

_SPLIT = re.compile(r"^(?P<prefix>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf$", re.IGNORECASE)
_QUANT = re.compile(r"[-.]([A-Z0-9_]+)$", re.IGNORECASE)
_HUB_PREFIX = re.compile(r"^(https?://)?(hf\.co|huggingface\.co)/", re.IGNORECASE)
_WORD = r"[a-z0-9_][a-z0-9_.-]*"
_NAME = re.compile(rf"(?P<base>({_WORD}/)?{_WORD})(:(?P<tag>{_WORD}))?", re.IGNORECASE)
_MAX_NAME = 200  # characters: it becomes a file name in the index of pulled models
_PREFERRED = ("Q4_K_M", "Q8_0")  # llama.cpp's order if no quantization is named
_FOREIGN_FOLDERS = ("onnx", "openvino", "coreml", "tflite", "mlx")
_MODULE = re.compile(r"\d+_\w+/[^/]+")  # a module of sentence-transformers, e.g. "2_Dense/model.safetensors"
_CONFIGURATION = re.compile(
    r"([\w.-]+/)?((\w*config\w*|modules|tokenizer|vocab|added_tokens|special_tokens_map|\w*prompts\w*)\.json"
    r"|[\w.-]+\.safetensors\.index\.json|\w*vocab\w*\.txt|merges\.txt|[\w.-]+\.model|chat_template\.\w+)|README\.md"
    r"|artifact\.metadata|(colbert|sparse)_linear\.pt|idf\.json"
)
_WORD_TABLE = re.compile(
    r"(?!pytorch_model|training_args|optimizer|scheduler|vocab|merges|requirements|license)"
    r"[\w.-]+\.(txt|vec|bin|txt\.gz|bin\.gz)",
    re.IGNORECASE,
)
_COMPANIONS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")


def split_parts(name: str) -> tuple[str, ...]:
    """The names of all parts of the model that `name` belongs to, in order; `(name,)` if it is not split."""
    match = _SPLIT.match(name)
    if match is None:
        return (name,)
    count = int(match["count"])
    return tuple(f"{match['prefix']}-{index:05d}-of-{count:05d}.gguf" for index in range(1, count + 1)) or (name,)


def model_stem(name: str) -> str:
    """A file name without folder, `.gguf` and split suffix."""
    base = name.rpartition("/")[2]
    match = _SPLIT.match(base)
    return match["prefix"] if match else re.sub(r"\.gguf$", "", base, flags=re.IGNORECASE)


def quant_of(name: str) -> str | None:
    """The quantization at the end of a file name, e.g. "Q8_0" or "F16"; None if there is none."""
    match = _QUANT.search(model_stem(name))
    tag = match[1].upper() if match else ""
    return tag if is_quant(tag) else None


def is_quant(text: str) -> bool:
    """Whether the text looks like a quantization: "Q4_K_M", "f16"."""
    return re.match(r"(UD-)?(I?Q|TQ|B?FP?|MXFP|NVFP)\d", text, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class ModelName:
    """A name as users and clients write it: "all-minilm", "all-minilm:22m", "org/repo", "org/repo:Q8_0"."""

    base: str  # without the tag; a repository on the hub if it has a "/"
    tag: str | None  # a quantization, or the part of a catalog alias after its ":"; None for "latest"

    @property
    def is_repo(self) -> bool:
        return "/" in self.base


def parse_model_name(text: str) -> ModelName:
    """Parse `[hf.co/]ORG/REPO[:QUANT]` or `ALIAS[:TAG]`. Call it before the name reaches the file system.

    Raises `InvalidRequest` for anything else: paths, "..", control characters, more than 200 characters.
    """
    short = _HUB_PREFIX.sub("", text.strip())
    match = _NAME.fullmatch(short) if len(short) <= _MAX_NAME and ".." not in short else None
    if match is None:
        raise InvalidRequest(
            f"{shown(text)} is not a model name: give an alias such as nomic-embed-text, ORG/REPO or ORG/REPO:QUANT",
            "model",
        )
    tag = match["tag"]
    return ModelName(match["base"], None if tag is None or tag.lower() == "latest" else tag)


def model_key(name: str) -> str:
    """A name in comparable form: lower case, without the hub's address and a trailing ":latest"."""
    return _HUB_PREFIX.sub("", name.strip()).lower().removesuffix(":latest")


def without_folders(message: str, paths: Iterable[Path]) -> str:
    """An error's message with the names of files and of their folder only, for clients, which must not see paths."""
    for path in paths:
        message = message.replace(str(path), path.name)
        if path.parent.is_absolute() and path.parent.name:
            message = message.replace(str(path.parent), path.parent.name)
    return message


def shown(text: str) -> str:
    """A name from a user, quoted and shortened to fit on one line."""
    return repr(text if len(text) <= _MAX_NAME else text[:60] + "…")


def parse_repo(text: str) -> tuple[str, str | None]:
    """Split `[hf.co/]ORG/REPO[:QUANT]` into repository and quantization (None for Ollama's "latest").

    Raises `ConfigError` for anything else.
    """
    try:
        name = parse_model_name(text)
    except InvalidRequest:
        name = None
    if name is None or not name.is_repo:
        raise ConfigError(f"{shown(text)} is not a repository name: -hf takes ORG/REPO or ORG/REPO:QUANT")
    return name.base, name.tag


def choose_model_file(names: Sequence[str], quant: str | None) -> str | None:
    """The file llama.cpp would choose: of the named quantization, else Q4_K_M, else Q8_0, else the first model.

    `names` are in the hub's order. Projectors and other companions never count; a split model counts as its first
    part. Returns None if nothing fits: a named quantization is never replaced by another.
    """
    models = [name for name in names if _is_model(name) and split_parts(name)[0] == name]
    for wanted in (quant,) if quant else _PREFERRED:
        pattern = re.compile(re.escape(wanted) + "[.-]", re.IGNORECASE)
        for name in models:
            if pattern.search(name):
                return name
    if quant or not models:
        return None
    return models[0]


@dataclass(frozen=True, slots=True)
class FileChoice:
    """Which GGUF of a repository is wanted. If all are None, llama.cpp's rules choose."""

    quant: str | None = None  # never replaced by another
    file: str | None = None  # exactly this file; overrides `quant`
    pattern: str | None = None  # a shell pattern; if nothing matches, llama.cpp's rules choose

    @property
    def wanted(self) -> str:
        """A description for error messages."""
        return self.file or (f"GGUF of type {self.quant}" if self.quant else "GGUF model")


def choose_file(names: Sequence[str], choice: FileChoice) -> str | None:
    """The wanted file among a repository's `names`, in the hub's order; None if there is none."""
    if choice.file is not None:
        return choice.file if choice.file in names else None
    if choice.quant is None and choice.pattern is not None:
        for name in names:
            if _is_model(name) and fnmatchcase(name.lower(), choice.pattern.lower()):
                return split_parts(name)[0]
    return choose_model_file(names, choice.quant)


def source_files(names: Sequence[str]) -> list[str]:
    """The files of an original model's repository that a converter reads; empty if there are no usable weights.

    Weights are the safetensors files at the top, with those of sentence-transformers' modules, or those in subfolders
    if there are none at the top. Without any, tables of word vectors.
    """
    weights = _weight_files(names)
    if not weights:
        return _word_table_files(names)
    configuration = [name for name in names if _CONFIGURATION.fullmatch(name) and not _is_foreign(name)]
    return [*weights, *configuration]


def _weight_files(names: Sequence[str]) -> list[str]:
    weights = [name for name in names if name.endswith(".safetensors") and not _is_foreign(name)]
    at_top = [name for name in weights if "/" not in name]
    if not at_top:
        return weights
    return [name for name in weights if "/" not in name or _MODULE.match(name)]


def _word_table_files(names: Sequence[str]) -> list[str]:
    tables = word_tables(names)
    if tables and "README.md" in names:
        return [*tables, "README.md"]
    return tables


def word_tables(names: Sequence[str]) -> list[str]:
    """The names that may be tables of word vectors: text or word2vec's binary format, gzipped or not."""
    return [name for name in names if _WORD_TABLE.fullmatch(name)]


def _is_foreign(name: str) -> bool:
    """Whether it is in a folder for another engine, which may hold copies of weights or configurations."""
    return name.split("/")[0].lower() in _FOREIGN_FOLDERS


def _is_model(name: str) -> bool:
    base = name.rpartition("/")[2]
    return base.lower().endswith(".gguf") and not is_companion(base)


def is_companion(base: str) -> bool:
    """Whether a GGUF of this name is only a companion of a model, such as a projector or a draft model."""
    return any(part in base for part in _COMPANIONS)
