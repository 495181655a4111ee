"""The registry of models that this process can serve: those named at startup, pulled ones, and files in a folder."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from gguf_embed.config import ModelConfig
from gguf_embed.engines.choice import estimated_bytes
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.digest import header_digest
from gguf_embed.gguf_file.facts import check_can_embed, pooling_type
from gguf_embed.gguf_file.header import GgufHeader, read_header
from gguf_embed.gguf_file.token_heads import heads_bytes
from gguf_embed.gguf_file.towers import read_model
from gguf_embed.model_pool.file_problems import problems_of
from gguf_embed.model_pool.model_info import context_of, default_output, describe_header
from gguf_embed.model_pool.served_models import Identity, ModelSpec, Origin, ServedModels, changes, served_models
from gguf_embed.model_store.catalog import Catalog
from gguf_embed.model_store.default_model import DEFAULT_NAME
from gguf_embed.model_store.folder import freeze_after
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.model_store.names import model_key, without_folders
from gguf_embed.model_store.places import NO_HOME
from gguf_embed.model_store.store import FILE_GONE, ModelStore, StoredModel
from gguf_embed.preprocessing.prompt_prefixes import profile, prompts_of_header
from gguf_embed.types import Pooling

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """What was configured at startup."""

    named: tuple[tuple[LocatedModel, ModelConfig], ...]
    base: ModelConfig  # for pulled models and files in the folder
    prompts: Mapping[str, str] = field(default_factory=dict)  # from --prompt
    strict_names: bool = False
    checks_vocabulary: bool = False  # of the named files, for their problems
    pulled: bool = True  # pulled models are served on every route; False: only where the machine's models are asked for
    cache_dir: Path = NO_HOME  # with what was measured on this machine, by which memory is estimated
    is_alone: bool = False  # the named model answers to any unknown name, whatever was pulled


@dataclass(frozen=True, slots=True)
class _Found:
    """What one look at the disk has found."""

    entries: tuple[StoredModel, ...]
    all: ServedModels
    served: ServedModels  # on every route: `all`, perhaps without the pulled ones
    changes: list[str]  # in words


class ModelRegistry:
    """All models by name. Belongs to the event loop.

    With `pulled`, its methods mean all models of the machine, as Ollama's API does; without, those that are served on
    every route.

    The disk is looked at on a thread, one at a time, which also reads the header of each new file (about 10 ms). A
    caller waits for it no longer than `patience_s`, and otherwise gets what was known before.
    """

    def __init__(
        self, config: RegistryConfig, store: ModelStore, catalog: Catalog, patience_s: float | None = None
    ) -> None:
        """`patience_s` None: as long as it takes. Raises `ModelFileError` if a named model's file cannot be served."""
        self._patience_s = patience_s
        self._look: Future[_Found | None] | None = None  # at the disk, if one has begun
        self._config = config
        self._store = store
        self._catalog = catalog
        self._described: dict[tuple[Identity, str], ModelSpec] = {}
        self._broken: dict[Identity, str] = {}  # why it cannot be served
        self._entries: tuple[StoredModel, ...] | None = None
        self._no_models: Mapping[str, str] = {}  # what the store has refused
        self._other_names: set[str] = set()  # of models that are, or were, served beside others
        self.on_change: Callable[[Collection[str], Sequence[str]], None] = lambda keys, changes: None
        """Called with the keys of all models, and in words with what has changed."""
        self._named = tuple(self._named_spec(located, model_config) for located, model_config in config.named)
        self._all = self._served = served_models(self._named, {})  # known before the first look at the disk

    def specs(self, *, pulled: bool = False) -> Sequence[ModelSpec]:
        """Every model, those named at startup first."""
        return self._models(pulled).specs

    def find(self, name: str | None, *, pulled: bool = False) -> ModelSpec | None:
        """The model with this name or alias. Without a name: the first one named at startup, else the only one."""
        self._refresh()
        models = self._all if pulled else self._served
        if name is None:
            return models.specs[0] if self._named or len(models.specs) == 1 else None
        return models.by_name.get(name) or models.by_name.get(model_key(name))

    def answers_name(self, name: str) -> bool:
        """Whether the first model answers to any name: it is the only one, or the only one that was named; names are
        not strict, and this one is no other's.

        A model whose file is damaged or being written is not replaced by the one that is left.
        """
        is_only = len(self._models(False).specs) == 1
        is_known = self._entries is not None  # which other names there are
        is_free = model_key(name) not in self._other_names
        return is_known and (is_only or self._config.is_alone) and not self._config.strict_names and is_free

    def why_refused(self, name: str, *, pulled: bool = False) -> str | None:
        """Why the file with this name cannot be served; None if there is no such file."""
        return self._models(pulled).refused.get(model_key(name))

    def known_rerankers(self) -> list[str]:
        """Names of rerankers in the catalog that can be pulled, verified ones first."""
        rows = [row for row in self._catalog.rows if row.kind == "rerank" and row.repo is not None]
        return [row.name for row in sorted(rows, key=lambda row: not row.verified)]

    def is_reading(self) -> bool:
        """Whether there may be models that are not known yet, because the disk is being looked at."""
        return self._look is not None

    def settle(self, timeout_s: float) -> None:
        """Wait until the disk has been looked at. Blocks: not for the event loop."""
        self._refresh()
        if self._look is not None:
            wait([self._look], timeout_s)
            self._refresh()

    def _models(self, pulled: bool) -> ServedModels:
        self._refresh()
        return self._all if pulled else self._served

    def _refresh(self) -> None:
        if self._look is None:
            if self._store.clock() < self._store.fresh_until_s and self._entries is not None:
                return
            look: Future[_Found | None] = Future()
            self._look = look
            threading.Thread(target=self._run_look, args=(look,), name="models", daemon=True).start()
            wait([look], self._patience_s)
        if not self._look.done():
            return
        look, self._look = self._look, None
        found = look.result()
        if found is not None:
            self._other_names |= {*self._served.by_name, *found.served.refused}
            self._entries, self._all, self._served = found.entries, found.all, found.served
            self.on_change({spec.key for spec in found.all.specs}, found.changes)

    def _run_look(self, look: Future[_Found | None]) -> None:
        """On a thread. `_described` and `_broken` belong to it."""
        try:
            look.set_result(self._find_all())
        except BaseException as error:
            look.set_exception(error)

    def _find_all(self) -> _Found | None:
        """All models; None if nothing has changed."""
        entries, no_models = self._store.models(), self._store.refused()
        if entries is self._entries and no_models is self._no_models:
            return None
        self._no_models = no_models
        found = [spec for entry in entries if (spec := self._entry_spec(entry)) is not None]
        names = {spec.key for spec in self._named}
        specs = (*self._named, *(spec for spec in found if spec.key not in names))
        refused = list(self._refused_names(entries))
        everything = served_models(specs, {name: why for name, why, _ in refused})
        lines = changes(self._all.specs, specs, pulled=self._config.pulled)
        if self._config.pulled:
            return _Found(entries, everything, everything, lines)
        served = (spec for spec in specs if spec.origin != "pulled")
        here = {name: why for name, why, is_pulled in refused if not is_pulled}
        return _Found(entries, everything, served_models(served, here), lines)

    def _refused_names(self, entries: Sequence[StoredModel]) -> Iterator[tuple[str, str, bool]]:
        """Every name of the files that cannot be served, also by the catalog, each with why, and whether it was
        pulled."""
        for name, why in self._no_models.items():
            for other in self._all_names(name, (), None):
                yield other, why, why == FILE_GONE
        for entry in entries:
            why = self._broken.get(_identity(entry.path, entry.size_bytes, entry.modified_unix_s), "")
            for other in self._all_names(entry.name, entry.aliases, entry.repo) if why else ():
                yield other, why, entry.origin == "pulled"

    def _all_names(self, name: str, aliases: Sequence[str], repo: str | None) -> set[str]:
        row = self._catalog.for_file(None, name.rpartition("/")[2], repo)
        return set(map(model_key, (name, *aliases, *(row.names if row is not None else ()))))

    def _named_spec(self, located: LocatedModel, config: ModelConfig) -> ModelSpec:
        header = read_model(located.path)
        check_can_embed(header)
        names = (*config.aliases, located.name) if config.aliases else (located.name,)
        modified = located.path.stat().st_mtime
        digest = header_digest([read_header(located.path)])
        return self._spec(_FileFacts(header, names, _repo_of(located.name), digest, modified, "named"), config)

    def _entry_spec(self, entry: StoredModel) -> ModelSpec | None:
        """None for a file that cannot be served, which is logged once."""
        identity = _identity(entry.path, entry.size_bytes, entry.modified_unix_s)
        known = self._described.get((identity, entry.name))
        if known is not None or identity in self._broken:
            return known
        try:
            header = read_model(entry.path)
            check_can_embed(header)
            own_pooling = pooling_type(header)
        except ModelFileError as error:
            self._broken[identity] = without_folders(error.message, [entry.path])
            logger.warning("%s is not served: %s", entry.name, error.message)
            return None
        base = self._config.base if own_pooling is None else replace(self._config.base, pooling=None)
        names = (entry.name, *entry.aliases)
        found = _FileFacts(header, names, entry.repo, entry.digest, entry.modified_unix_s, entry.origin)
        spec = replace(self._spec(found, base), identity=identity)
        self._described[identity, entry.name] = spec
        freeze_after(len(self._described))
        return spec

    def _spec(self, found: _FileFacts, config: ModelConfig) -> ModelSpec:
        """Describe a file. Flags take precedence over the file itself, and the file over the catalog."""
        header, names = found.header, found.names
        row = self._catalog.for_file(header.get("general.name", str), header.path.stem, found.repo)
        own_pooling = pooling_type(header)
        pooling = config.pooling or (row.pooling if row is not None and own_pooling is None else None)
        config = replace(config, pooling=pooling, aliases=(), n_ctx=context_of(header, config.n_ctx))
        info = describe_header(header, config)
        is_own = names[0] == DEFAULT_NAME  # converted here
        reads_vocabulary = self._config.checks_vocabulary and found.origin == "named" and not is_own
        output = default_output(header, info.pooling or Pooling.NONE)
        further = (row.name, *row.aliases) if row is not None else ()
        info = replace(
            info,
            name=names[0],
            aliases=(*names[1:], *(name for name in further if name not in names)),
            prompts=profile(self._config.prompts, prompts_of_header(header), row.prompts if row is not None else {}),
            matryoshka=row.matryoshka if row is not None else (),
            license=info.license or (row.license if row is not None else ""),
            problems=problems_of(header, row, pooling, reads_vocabulary=reads_vocabulary),
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
            memory_bytes=estimated_bytes(header, config, output, self._config.cache_dir) + heads_bytes(header),
        )


@dataclass(frozen=True, slots=True)
class _FileFacts:
    """A file's header, and the facts about the file that are not in the header."""

    header: GgufHeader
    names: tuple[str, ...]
    repo: str | None
    digest: str
    modified_unix_s: float
    origin: Origin


def _identity(path: Path, size_bytes: int, modified_unix_s: float) -> Identity:
    return str(path), size_bytes, int(modified_unix_s * 1e6)


def _repo_of(name: str) -> str | None:
    return name.partition(":")[0] if "/" in name else None
