"""The registry of models that this process can serve: those named at startup, pulled ones, and files in a folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from gguf_embed.config import ModelConfig
from gguf_embed.engines.select import select_driver
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.digest import header_digest
from gguf_embed.gguf_file.facts import check_can_embed, pooling_type
from gguf_embed.gguf_file.header import GgufHeader, read_header
from gguf_embed.model_pool.model_info import describe_header
from gguf_embed.model_store.catalog import Catalog
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.model_store.names import model_key
from gguf_embed.model_store.store import ModelStore, StoredModel
from gguf_embed.preprocessing.prompt_prefixes import profile, prompts_of_header
from gguf_embed.types import ModelInfo

logger = logging.getLogger(__name__)

Identity = tuple[str, int, int]
"""Path, size and modification time: a changed file under the same name is a different model."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model that can be served."""

    key: str  # the name in its normalized form, see `model_key`
    path: Path
    identity: Identity
    config: ModelConfig  # how to load it
    info: ModelInfo  # from its header
    digest: str
    modified_unix_s: float
    origin: Literal["named", "pulled", "folder"]
    memory_bytes: int  # estimate while loaded


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """What was configured at startup."""

    named: tuple[tuple[LocatedModel, ModelConfig], ...]
    base: ModelConfig  # for pulled models and files in the folder
    prompts: Mapping[str, str] = field(default_factory=dict)  # from --prompt
    strict_names: bool = False


class ModelRegistry:
    """All models by name. Belongs to the event loop. Reads the header of each new file (about 10 ms)."""

    def __init__(self, config: RegistryConfig, store: ModelStore, catalog: Catalog) -> None:
        """Raises `ModelFileError` if a named model's file cannot be served."""
        self._config = config
        self._store = store
        self._catalog = catalog
        self._described: dict[tuple[Identity, str], ModelSpec] = {}
        self._broken: set[Identity] = set()
        self._entries: tuple[StoredModel, ...] | None = None
        self._by_name: dict[str, ModelSpec] = {}
        self._specs: tuple[ModelSpec, ...] = ()
        self.on_change: Callable[[Collection[str]], None] = lambda keys: None  # called with the keys of all models
        self._named = tuple(self._named_spec(located, model_config) for located, model_config in config.named)

    def specs(self) -> Sequence[ModelSpec]:
        """Every model, those named at startup first."""
        self._refresh()
        return self._specs

    def find(self, name: str | None) -> ModelSpec | None:
        """The model with this name or alias. Without a name: the first one named at startup, else the only one."""
        self._refresh()
        if name is None:
            return self._specs[0] if self._named or len(self._specs) == 1 else None
        return self._by_name.get(name) or self._by_name.get(model_key(name))

    def answers_any_name(self) -> bool:
        """Whether there is only one model, and names are not strict."""
        self._refresh()
        return len(self._specs) == 1 and not self._config.strict_names

    def known_rerankers(self) -> list[str]:
        """Names of rerankers in the catalog that can be pulled, verified ones first."""
        rows = [row for row in self._catalog.rows if row.kind == "rerank" and row.repo is not None]
        return [row.name for row in sorted(rows, key=lambda row: not row.verified)]

    def _refresh(self) -> None:
        if self._store.clock() < self._store.fresh_until_s and self._entries is not None:
            return
        entries = self._store.models()
        if entries is self._entries:
            return
        self._entries = entries
        found = [spec for entry in entries if (spec := self._entry_spec(entry)) is not None]
        names = {spec.key for spec in self._named}
        self._specs = (*self._named, *(spec for spec in found if spec.key not in names))
        self._by_name = _by_name(self._specs)
        self.on_change({spec.key for spec in self._specs})

    def _named_spec(self, located: LocatedModel, config: ModelConfig) -> ModelSpec:
        header = read_header(located.path)
        check_can_embed(header)
        names = (*config.aliases, located.name) if config.aliases else (located.name,)
        modified = located.path.stat().st_mtime
        return self._spec(
            _FileFacts(header, names, _repo_of(located.name), header_digest([header]), modified, "named"), config
        )

    def _entry_spec(self, entry: StoredModel) -> ModelSpec | None:
        """None for a file that cannot be served, which is logged once."""
        identity = _identity(entry.path, entry.size_bytes, entry.modified_unix_s)
        known = self._described.get((identity, entry.name))
        if known is not None or identity in self._broken:
            return known
        try:
            header = read_header(entry.path)
            check_can_embed(header)
            own_pooling = pooling_type(header)
        except ModelFileError as error:
            self._broken.add(identity)
            logger.warning("%s is not served: %s", entry.name, error.message)
            return None
        base = self._config.base if own_pooling is None else replace(self._config.base, pooling=None)
        names = (entry.name, *entry.aliases)
        found = _FileFacts(header, names, entry.repo, entry.digest, entry.modified_unix_s, entry.origin)
        spec = replace(self._spec(found, base), identity=identity)
        self._described[identity, entry.name] = spec
        return spec

    def _spec(self, found: _FileFacts, config: ModelConfig) -> ModelSpec:
        """Describe a file. Flags take precedence over the file itself, and the file over the catalog."""
        header, names = found.header, found.names
        row = self._catalog.for_file(header.get("general.name", str), header.path.stem, found.repo)
        own_pooling = pooling_type(header)
        pooling = config.pooling or (row.pooling if row is not None and own_pooling is None else None)
        config = replace(config, pooling=pooling, aliases=())
        info = describe_header(header, config)
        further = (row.name, *row.aliases) if row is not None else ()
        info = replace(
            info,
            name=names[0],
            aliases=(*names[1:], *(name for name in further if name not in names)),
            prompts=profile(self._config.prompts, prompts_of_header(header), row.prompts if row is not None else {}),
            matryoshka=row.matryoshka if row is not None else (),
            license=info.license or (row.license if row is not None else ""),
        )
        identity = _identity(header.path, header.size_bytes, found.modified_unix_s)
        return ModelSpec(
            key=model_key(names[0]),
            path=header.path,
            identity=identity,
            config=config,
            info=info,
            digest=found.digest,
            modified_unix_s=found.modified_unix_s,
            origin=found.origin,
            memory_bytes=select_driver(header, config).memory_bytes(header, config),
        )


@dataclass(frozen=True, slots=True)
class _FileFacts:
    """A file's header, and the facts about the file that are not in the header."""

    header: GgufHeader
    names: tuple[str, ...]
    repo: str | None
    digest: str
    modified_unix_s: float
    origin: Literal["named", "pulled", "folder"]


def _identity(path: Path, size_bytes: int, modified_unix_s: float) -> Identity:
    return str(path), size_bytes, int(modified_unix_s * 1e6)


def _by_name(specs: Sequence[ModelSpec]) -> dict[str, ModelSpec]:
    """Names take precedence over aliases, and earlier models over later ones."""
    found: dict[str, ModelSpec] = {}
    for spec in specs:
        found.setdefault(spec.key, spec)
    for spec in specs:
        for alias in spec.info.aliases:
            found.setdefault(model_key(alias), spec)
    return found


def _repo_of(name: str) -> str | None:
    return name.partition(":")[0] if "/" in name else None
