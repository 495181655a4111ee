"""The catalog of well-known models: where their files are, what they are, and the prompts their cards prescribe.

The facts are in `catalog.toml`; this file reads them and finds the row for a name or a file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

from gguf_embed.errors import ModelFileError
from gguf_embed.model_store.names import model_key, model_stem
from gguf_embed.types import Pooling

Kind = Literal["embedding", "multivector", "sparse", "rerank", "static", "image"]

_QUANT_SUFFIX = re.compile(r"[-._](ud-)?(i?q\d\w*|tq\d\w*|b?f(p)?(16|32)|mxfp\d\w*|nvfp\d\w*)$")
_TYPE_IN_PATTERN = re.compile(r"q4_k_m|q8_0|bf16|fp?16", re.IGNORECASE)
_BYTES_PER_WEIGHT = {"F32": 4.0, "F16": 2.0, "BF16": 2.0, "Q8_0": 34 / 32, "Q4_K_M": 0.606}
"""Q4_K_M mixes types; this is its average in models of several billion parameters."""

_FILE_SUFFIX = re.compile(r"(-gguf|-qat|-ggml-model|-embeddings?-gguf)$")


@dataclass(frozen=True, slots=True)
class CatalogRow:
    """One model. It has a GGUF (`repo`), needs our converter (`convert`), is made here for a language (`language`), or
    cannot run yet (`not_yet` says why)."""

    name: str
    aliases: tuple[str, ...]  # other names, including Ollama's
    kind: Kind
    architecture: str  # the GGUF's general.architecture
    pooling: Pooling | None  # None for models without one, such as static models
    dimensions: int  # of a vector; of the hidden states for rerank and sparse models
    matryoshka: tuple[int, ...]  # dimensions it was trained to be truncated to, the full size first; empty: none
    context: int  # positions of the weights; 0: no limit
    license: str  # as the hub spells it, e.g. "apache-2.0"; "" if the card names none
    repo: str | None  # holds its GGUF on the hub
    file: str | None  # shell pattern for the name of the GGUF in `repo`
    convert: str | None  # the original repository, for our converter
    not_yet: str | None
    prompts: Mapping[str, str]  # "query", "document", … → what the card puts before a text
    source: str  # URL of the card that these facts are from
    verified: bool = False  # the repositories and `file` were checked against a public page
    note: str = ""  # anything else a user should know
    parameters: float | None = None  # in millions; None: not known
    languages: tuple[str, ...] = ()  # codes of ISO 639-1, or "multilingual", or "code"
    language: str | None = None  # of BM25, which needs no download
    text_model: str | None = None  # the original whose file the image tower in `convert` goes into; None: no such tower

    @property
    def size_bytes(self) -> int | None:
        """About how large the file is that `pull` fetches or makes: its weights, without the vocabulary."""
        if self.parameters is None or self.not_yet is not None:
            return None
        return round(self.parameters * 1e6 * _BYTES_PER_WEIGHT[self.weight_type])

    @property
    def weight_type(self) -> str:
        """The type of most weights in that file. Converters keep that of static models, and otherwise write 16 bits."""
        if self.repo is None or self.file is None:
            return "F32" if self.kind == "static" else "F16"
        found = _TYPE_IN_PATTERN.search(self.file)
        return found[0].upper().replace("FP", "F") if found else "F16"

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


class Catalog:
    """All rows, with lookup by name, repository and file."""

    def __init__(self, rows: Iterable[CatalogRow]) -> None:
        self.rows = tuple(rows)
        self._by_name = {model_key(name): row for row in self.rows for name in row.names}
        self._by_repo = {
            repo.lower(): row for row in reversed(self.rows) for repo in (row.repo, row.convert) if repo is not None
        }
        self._by_stem = {file_key(name): row for row in reversed(self.rows) for name in row.names if ":" not in name}

    def names(self) -> list[str]:
        """All names and aliases."""
        return [name for row in self.rows for name in row.names]

    def find(self, name: str) -> CatalogRow | None:
        """The row with this name or alias; case and ":latest" do not matter."""
        return self._by_name.get(model_key(name))

    def find_repo(self, repo: str) -> CatalogRow | None:
        """The row whose GGUF or original is in this repository; the first if there are several."""
        return self._by_repo.get(repo.lower())

    def for_file(self, general_name: str | None, stem: str, repo: str | None) -> CatalogRow | None:
        """The row that a GGUF belongs to: by the repository it came from, its file name, or its general.name.

        Names must match completely, except for the quantization, so that a fine-tuned model never gets the row of the
        model it was made from.
        """
        if repo is not None and (row := self.find_repo(repo)) is not None:
            return row
        for text in (stem, general_name or ""):
            if (row := self._by_stem.get(file_key(text))) is not None:
                return row
        return None


def load_catalog() -> Catalog:
    """Read the catalog that comes with the package, in about 5 ms."""
    return parse_catalog((files("gguf_embed.model_store") / "catalog.toml").read_text("utf-8"))


def parse_catalog(text: str) -> Catalog:
    """Parse TOML. Raises `ModelFileError` with the reason if it is malformed."""
    try:
        rows = [_parse_row(raw) for raw in tomllib.loads(text).get("model", [])]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as exc:
        raise ModelFileError(f"the catalog of models is malformed: {exc!r}; install gguf-embed again") from exc
    for name in _repeated(model_key(name) for row in rows for name in row.names):
        raise ModelFileError(f"the catalog of models is malformed: the name {name!r} occurs twice")
    return Catalog(rows)


def file_key(text: str) -> str:
    """A file's stem or a model's general.name in a comparable form: lower case, hyphens, no quantization."""
    key = re.sub(r"\s+", "-", model_stem(text.strip() + ".gguf").lower())
    while (shorter := _FILE_SUFFIX.sub("", _QUANT_SUFFIX.sub("", key))) != key:
        key = shorter
    return key


def _parse_row(raw: dict[str, Any]) -> CatalogRow:
    """Every key is a field; missing ones become None or empty."""
    optional: dict[str, Any] = {"repo": None, "file": None, "convert": None, "not_yet": None, "pooling": None}
    values = optional | {"aliases": [], "matryoshka": [], "languages": [], "prompts": {}, "verified": False} | raw
    values["aliases"] = tuple(values["aliases"])
    values["matryoshka"] = tuple(values["matryoshka"])
    values["languages"] = tuple(values["languages"])
    values["pooling"] = Pooling(values["pooling"]) if values["pooling"] is not None else None
    values["prompts"] = MappingProxyType(dict(values["prompts"]))
    return CatalogRow(**values)


def _repeated(names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)
