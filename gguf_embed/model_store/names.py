"""Names of models, GGUF files and repositories: which are allowed, and which file or parts they mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gguf_embed.errors import ConfigError, InvalidRequest

_SPLIT = re.compile(r"^(?P<prefix>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf$", re.IGNORECASE)
_QUANT = re.compile(r"[-.]([A-Z0-9_]+)$", re.IGNORECASE)
_HUB_PREFIX = re.compile(r"^(https?://)?(hf\.co|huggingface\.co)/", re.IGNORECASE)
_WORD = r"[a-z0-9_][a-z0-9_.-]*"
_NAME = re.compile(rf"(?P<base>({_WORD}/)?{_WORD})(:(?P<tag>{_WORD}))?", re.IGNORECASE)
_MAX_NAME = 200  # characters: it becomes a file name in the index of pulled models
_PREFERRED = ("Q4_K_M", "Q8_0")  # llama.cpp's order where no quantization is named
_FOREIGN_FOLDERS = ("onnx", "openvino", "coreml", "tflite", "mlx")
_MODULE = re.compile(r"\d+_\w+/[^/]+")  # a module of sentence-transformers, e.g. "2_Dense/model.safetensors"
_CONFIGURATION = re.compile(
    r"([\w.-]+/)?((\w*config\w*|modules|tokenizer|vocab|added_tokens|special_tokens_map|\w*prompts\w*)\.json"
    r"|[\w.-]+\.safetensors\.index\.json|\w*vocab\w*\.txt|merges\.txt|[\w.-]+\.model|chat_template\.\w+)|README\.md"
)
_WORD_TABLE = re.compile(
    r"(?!pytorch_model|training_args|optimizer|scheduler|vocab|merges|requirements|license)"
    r"[\w.-]+\.(txt|vec|bin|txt\.gz|bin\.gz)",
    re.IGNORECASE,
)
_COMPANIONS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")


def split_parts(name: str) -> tuple[str, ...]:
    """The names of all parts of the model that `name` belongs to, in order; `(name,)` when it is not split."""
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
    """The quantization a file name ends in, e.g. "Q8_0" or "F16"; None when it names none that has a digit."""
    match = _QUANT.search(model_stem(name))
    tag = match[1].upper() if match else ""
    return tag if is_quant(tag) else None


def is_quant(text: str) -> bool:
    """Whether it looks like a quantization: "Q4_K_M", "f16"."""
    return re.match(r"(UD-)?(I?Q|TQ|B?FP?|MXFP|NVFP)\d", text, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class ModelName:
    """A name as a person or a client gives it: "all-minilm", "all-minilm:22m", "org/repo", "org/repo:Q8_0"."""

    base: str  # without tag; with a "/" it is a repository on the hub
    tag: str | None  # a quantization, or what a catalog alias has after its ":"; None for "latest"

    @property
    def is_repo(self) -> bool:
        return "/" in self.base


def parse_model_name(text: str) -> ModelName:
    """`[hf.co/]ORG/REPO[:QUANT]` or `ALIAS[:TAG]`; checked before anything looks at the file system.

    Raises `InvalidRequest` for all else: paths, "..", control characters, over 200 characters.
    """
    short = _HUB_PREFIX.sub("", text.strip())
    match = _NAME.fullmatch(short) if len(short) <= _MAX_NAME and ".." not in short else None
    if match is None:
        raise InvalidRequest(
            f"{shown(text)} is not a model's name: give an alias such as nomic-embed-text, ORG/REPO or ORG/REPO:QUANT",
            "model",
        )
    tag = match["tag"]
    return ModelName(match["base"], None if tag is None or tag.lower() == "latest" else tag)


def model_key(name: str) -> str:
    """The form for comparing names: lower case, without the hub's address and a trailing ":latest"."""
    return _HUB_PREFIX.sub("", name.strip()).lower().removesuffix(":latest")


def shown(text: str) -> str:
    """A name from outside, quoted on one line and not longer than a line."""
    return repr(text if len(text) <= _MAX_NAME else text[:60] + "…")


def parse_repo(text: str) -> tuple[str, str | None]:
    """`[hf.co/]ORG/REPO[:QUANT]` to repository and quantization ("latest", Ollama's word, names none).

    Raises `ConfigError` for anything else.
    """
    try:
        name = parse_model_name(text)
    except InvalidRequest:
        name = None
    if name is None or not name.is_repo:
        raise ConfigError(f"{shown(text)} is not a repository on the hub: -hf takes ORG/REPO or ORG/REPO:QUANT")
    return name.base, name.tag


def choose_model_file(names: Sequence[str], quant: str | None) -> str | None:
    """The file llama.cpp would take: of the named quantization, else Q4_K_M, else Q8_0, else the first model.

    `names` in the hub's order. Projectors and other companions never count; of a split model, the first part does.
    Returns None when nothing fits; a named quantization is never replaced by another.
    """
    models = [name for name in names if _is_model(name) and split_parts(name)[0] == name]
    for wanted in (quant,) if quant else _PREFERRED:
        pattern = re.compile(re.escape(wanted) + "[.-]", re.IGNORECASE)
        found = next((name for name in models if pattern.search(name)), None)
        if found is not None:
            return found
    return None if quant or not models else models[0]


@dataclass(frozen=True, slots=True)
class FileChoice:
    """Which GGUF of a repository is wanted. All None: llama.cpp's own choice."""

    quant: str | None = None  # never replaced by another
    file: str | None = None  # this file and no other; beats `quant`
    pattern: str | None = None  # as a shell would match it; where nothing matches, llama.cpp's own choice

    @property
    def wanted(self) -> str:
        """In words, for an error."""
        return self.file or (f"GGUF of type {self.quant}" if self.quant else "GGUF model")


def choose_file(names: Sequence[str], choice: FileChoice) -> str | None:
    """The file that is wanted, of a repository's `names` in the hub's order; None when it has none."""
    if choice.file is not None:
        return choice.file if choice.file in names else None
    if choice.quant is None and choice.pattern is not None:
        for name in names:
            if _is_model(name) and fnmatchcase(name.lower(), choice.pattern.lower()):
                return split_parts(name)[0]
    return choose_model_file(names, choice.quant)


def source_files(names: Sequence[str]) -> list[str]:
    """What a converter reads of an original model's repository; empty when it has no weights for us.

    Weights are the safetensors of one folder at a time: those at the top, else (as static models have them) in a
    module's folder. Without any, tables of word vectors.
    """
    weights = [name for name in names if name.endswith(".safetensors") and not _is_foreign(name)]
    if any("/" not in name for name in weights):
        weights = [name for name in weights if "/" not in name or _MODULE.match(name)]
    if not weights:
        tables = word_tables(names)
        return [*tables, *(name for name in names if name == "README.md")] if tables else []
    return [*weights, *(name for name in names if _CONFIGURATION.fullmatch(name) and not _is_foreign(name))]


def word_tables(names: Sequence[str]) -> list[str]:
    """Those that may be tables of word vectors, as text or word2vec's binary, packed or not."""
    return [name for name in names if _WORD_TABLE.fullmatch(name)]


def _is_foreign(name: str) -> bool:
    """Exports for other engines that hold copies of weights or configurations."""
    return name.split("/")[0].lower() in _FOREIGN_FOLDERS


def _is_model(name: str) -> bool:
    base = name.rpartition("/")[2]
    return base.lower().endswith(".gguf") and not is_companion(base)


def is_companion(base: str) -> bool:
    """Whether a GGUF of this name belongs to a model without being one: a projector, a draft model."""
    return any(part in base for part in _COMPANIONS)
