"""Names of GGUF files and repositories: which file a quantisation means, which parts a split model has."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gguf_embed.errors import ConfigError

_SPLIT = re.compile(r"^(?P<prefix>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf$", re.IGNORECASE)
_QUANT = re.compile(r"[-.]([A-Z0-9_]+)$", re.IGNORECASE)
_HUB_PREFIX = re.compile(r"^(https?://)?(hf\.co|huggingface\.co)/", re.IGNORECASE)
_REPO = re.compile(r"^(?P<repo>[\w.-]+/[\w.-]+?)(:(?P<quant>[\w.-]+))?$")
_PREFERRED = ("Q4_K_M", "Q8_0")  # llama.cpp's order where no quantisation is named
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
    """The quantisation a file name ends in, e.g. "Q8_0" or "F16"; None when it names none that has a digit."""
    match = _QUANT.search(model_stem(name))
    tag = match[1].upper() if match else ""
    return tag if re.match(r"^(I?Q|TQ|B?F|MXFP|NVFP)\d", tag) else None


def parse_repo(text: str) -> tuple[str, str | None]:
    """`[hf.co/]ORG/REPO[:QUANT]` to repository and quantisation ("latest", Ollama's word, names none).

    Raises `ConfigError` for anything else.
    """
    match = _REPO.match(_HUB_PREFIX.sub("", text.strip()))
    if match is None:
        raise ConfigError(f"{text!r} is not a repository on the hub: -hf takes ORG/REPO or ORG/REPO:QUANT")
    quant = match["quant"]
    return match["repo"], None if quant is None or quant.lower() == "latest" else quant


def choose_model_file(names: Sequence[str], quant: str | None) -> str | None:
    """The file llama.cpp would take: of the named quantisation, else Q4_K_M, else Q8_0, else the first model.

    `names` in the hub's order. Projectors and other companions never count; of a split model, the first part does.
    Returns None when nothing fits; a named quantisation is never replaced by another.
    """
    models = [name for name in names if _is_model(name) and split_parts(name)[0] == name]
    for wanted in (quant,) if quant else _PREFERRED:
        pattern = re.compile(re.escape(wanted) + "[.-]", re.IGNORECASE)
        found = next((name for name in models if pattern.search(name)), None)
        if found is not None:
            return found
    return None if quant or not models else models[0]


def _is_model(name: str) -> bool:
    base = name.rpartition("/")[2]
    return base.endswith(".gguf") and not any(part in base for part in _COMPANIONS)
