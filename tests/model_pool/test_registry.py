"""What can be served, by which names, and how each file is to be loaded."""

import threading
import time
from concurrent.futures import wait
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from gguf_embed.config import ModelConfig
from gguf_embed.errors import ModelFileError
from gguf_embed.model_pool import registry as registries
from gguf_embed.model_pool.registry import ModelRegistry, RegistryConfig
from gguf_embed.model_store.catalog import Catalog, CatalogRow
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.model_store.store import FILE_GONE, StoredModel
from gguf_embed.types import Pooling
from tests.gguf_models import write_tiny_encoder
from tests.running import running

BASE = ModelConfig()
ROW = CatalogRow(
    name="Known-Model",
    aliases=("known", "known:33m"),
    kind="embedding",
    architecture="bert",
    pooling=Pooling.CLS,
    dimensions=32,
    matryoshka=(16, 8),
    context=64,
    license="mit",
    repo="org/known-gguf",
    file=None,
    convert=None,
    language=None,
    not_yet=None,
    prompts={"query": "from the card: ", "document": ""},
    source="https://example.org/known",
)


@dataclass
class FakeStore:
    """Models as a test sets them; never fresh, so that they are always asked for."""

    found: tuple[StoredModel, ...] = ()
    fresh_until_s: float = 0.0
    no_models: dict[str, str] = field(default_factory=dict)

    def clock(self) -> float:
        return 1.0

    def models(self) -> tuple[StoredModel, ...]:
        return self.found

    def refused(self) -> dict[str, str]:
        return self.no_models


def entry(path: Path, name: str | None = None, **changes) -> StoredModel:
    facts = path.stat()
    made = StoredModel(name or path.stem, (), path, facts.st_size, facts.st_mtime, "e" * 64, "folder", None)
    return replace(made, **changes)


def registry_of(*named, store=None, rows=(), **config):
    base = config.pop("base", BASE)
    models = tuple((LocatedModel(path, name), replace(base, aliases=aliases)) for path, name, *aliases in named)
    return ModelRegistry(RegistryConfig(models, base, **config), store or FakeStore(), Catalog(rows))


def test_names_are_compared_as_ollama_compares_them(models):
    registry = registry_of((models / "encoder.gguf", "org/My-Model:Q8_0"))
    for name in ("org/My-Model:Q8_0", "ORG/my-model:q8_0", "hf.co/org/My-Model:Q8_0"):
        assert registry.find(name) is registry.specs()[0]
    assert registry.find("my-model") is None


def test_aliases_and_the_catalogs_names_mean_the_model(models):
    store = FakeStore((entry(models / "encoder.gguf", repo="org/known-gguf"),))
    registry = registry_of(store=store, rows=(ROW,))
    (spec,) = registry.specs()
    assert all(registry.find(name) is spec for name in ("encoder", "Known-Model", "known", "known:latest", "KNOWN:33M"))
    assert (spec.info.matryoshka, spec.info.license) == ((16, 8), "mit")


def test_a_models_own_name_beats_anothers_alias(models):
    first = entry(models / "encoder.gguf", repo="org/known-gguf")
    second = entry(models / "decoder.gguf", "known")
    registry = registry_of(store=FakeStore((first, second)), rows=(ROW,))
    assert registry.find("known").path == models / "decoder.gguf"


@pytest.mark.parametrize(
    ("file", "flag", "pooling"),
    [
        ("encoder.gguf", None, Pooling.MEAN),  # the file knows
        ("encoder.gguf", Pooling.CLS, Pooling.MEAN),  # a flag for other models never overrules it
        ("bare.gguf", None, Pooling.CLS),  # the catalog knows
        ("bare.gguf", Pooling.LAST, Pooling.LAST),
    ],
)
def test_pooling_comes_from_the_file_then_the_flag_then_the_catalog(models, file, flag, pooling):
    store = FakeStore((entry(models / file, repo="org/known-gguf"),))
    registry = registry_of(store=store, rows=(ROW,), base=ModelConfig(pooling=flag))
    assert registry.specs()[0].info.pooling is pooling


def test_a_named_model_takes_the_flag(models):
    registry = registry_of((models / "encoder.gguf", "m"), base=ModelConfig(pooling=Pooling.CLS))
    assert registry.specs()[0].info.pooling is Pooling.CLS


def test_flags_prompts_beat_the_catalogs(models):
    store = FakeStore((entry(models / "encoder.gguf", repo="org/known-gguf"),))
    registry = registry_of(store=store, rows=(ROW,), prompts={"query": "mine: "})
    assert dict(registry.specs()[0].info.prompts) == {"query": "mine: ", "document": ""}


def test_files_come_and_go_while_it_runs(models):
    store = FakeStore()
    registry = registry_of((models / "encoder.gguf", "first"), store=store)
    assert registry.answers_name("any")
    store.found = (entry(models / "decoder.gguf"),)
    assert [spec.info.name for spec in registry.specs()] == ["first", "decoder"]
    assert not registry.answers_name("any")
    store.found = ()
    assert registry.find("decoder") is None


def test_a_changed_file_is_another_identity(tmp_path):
    path = write_tiny_encoder(tmp_path / "m.gguf")
    store = FakeStore((entry(path),))
    registry = registry_of(store=store)
    before = registry.specs()[0].identity
    store.found = (entry(path, modified_unix_s=1.0),)
    assert registry.specs()[0].identity != before


def test_a_broken_file_is_not_served_and_logged_once(tmp_path, models, caplog):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    store = FakeStore((entry(broken), entry(models / "encoder.gguf")))
    registry = registry_of(store=store)
    assert [spec.info.name for spec in registry.specs()] == ["encoder"]
    store.found = (entry(broken), entry(models / "encoder.gguf"))
    registry.specs()
    assert caplog.text.count("broken is not served") == 1


def test_a_named_file_that_is_broken_ends_the_start(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelFileError, match=r"broken\.gguf"):
        registry_of((tmp_path / "broken.gguf", "m"))


@pytest.mark.parametrize(
    ("named", "found", "first"),
    [(["a"], ["b"], "a"), (["a", "b"], [], "a"), ([], ["b"], "b"), ([], ["b", "c"], None), ([], [], None)],
)
def test_a_request_without_a_name_means_the_first_that_was_named_or_the_only_one(models, named, found, first):
    store = FakeStore(tuple(entry(models / "encoder.gguf", name) for name in found))
    registry = registry_of(*((models / "encoder.gguf", name) for name in named), store=store)
    spec = registry.find(None)
    assert (spec.info.name if spec else None) == first


def test_a_header_tells_what_loading_would(models, cache_dir):
    path = models / "encoder.gguf"
    before = registry_of((path, "encoder")).specs()[0].info
    with running(path, BASE, cache_dir) as service:
        after = service.embed("text").model
    for name in ("architecture", "file_type", "pooling", "n_embd", "n_vocab", "n_ctx_train", "n_ctx", "vocab_type",
                 "max_input_tokens", "n_params"):  # fmt: skip
        assert getattr(before, name) == getattr(after, name), name


def test_the_last_model_does_not_answer_in_the_name_of_another(models):
    encoder, decoder = entry(models / "encoder.gguf"), entry(models / "decoder.gguf")
    store = FakeStore((encoder, decoder))
    registry = registry_of(store=store)
    assert not registry.answers_name("decoder")
    store.found = (encoder,)  # the other one's file is being written
    assert registry.find("decoder") is None
    assert not registry.answers_name("Decoder:latest")
    assert registry.answers_name("any")


def test_a_file_that_cannot_be_served_keeps_its_name(models, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    registry = registry_of(store=FakeStore((entry(models / "encoder.gguf"), entry(broken))))
    assert [spec.key for spec in registry.specs()] == ["encoder"]
    assert not registry.answers_name("broken")
    assert "broken.gguf" in (registry.why_refused("Broken:latest") or "")
    assert registry.answers_name("any")
    assert registry.why_refused("any") is None


def test_a_file_that_is_no_model_keeps_its_name_and_those_of_the_catalog(models):
    store = FakeStore((entry(models / "encoder.gguf"),), no_models={"sub/Known-Model": "is a web page"})
    registry = registry_of(store=store, rows=(ROW,))
    for name in ("sub/known-model", "Known-Model", "known:33m"):
        assert not registry.answers_name(name)
        assert registry.why_refused(name) == "is a web page"
    store.no_models = {}  # it was deleted
    registry.specs()
    assert registry.why_refused("known") is None
    assert not registry.answers_name("known")


def test_a_name_of_a_served_model_is_not_refused(models):
    store = FakeStore((entry(models / "encoder.gguf"),), no_models={"sub/encoder": "is a web page", "encoder": "same"})
    registry = registry_of(store=store)
    assert registry.why_refused("encoder") is None
    assert registry.why_refused("sub/encoder") == "is a web page"


def test_a_slow_disk_holds_up_nobody(models, monkeypatch):
    class SlowStore(FakeStore):
        may_end = threading.Event()

        def models(self) -> tuple[StoredModel, ...]:
            assert self.may_end.wait(10)
            return self.found

    store = SlowStore((entry(models / "encoder.gguf"),))
    named = ((LocatedModel(models / "decoder.gguf", "named"), BASE),)
    registry = ModelRegistry(RegistryConfig(named, BASE), store, Catalog(()), 0.01)
    waits_s: list[float] = []
    monkeypatch.setattr(registries, "wait", lambda looks, limit_s: (waits_s.append(limit_s), wait(looks, limit_s)))
    for _ in range(5):
        started_s = time.monotonic()
        assert registry.find("named") is not None
        assert time.monotonic() - started_s < 0.1
        assert registry.find("encoder") is None
        assert not registry.answers_name("encoder")  # the only model that is known is not the only one
        assert registry.is_reading()
    assert waits_s == [0.01]
    store.may_end.set()
    registry.settle(10)
    assert registry.find("encoder") is not None


def test_what_is_pulled_changes_nothing_beside_the_model_that_was_named(models):
    store = FakeStore()
    registry = registry_of((models / "encoder.gguf", "named"), store=store, pulled=False, is_alone=True, rows=(ROW,))
    assert registry.answers_name("known")
    store.found = (entry(models / "decoder.gguf", "Known-Model", origin="pulled"),)
    assert [spec.info.name for spec in registry.specs()] == ["named"]
    assert registry.find("known") is None
    assert registry.answers_name("known")
    store.found, store.no_models = (), {"Known-Model": FILE_GONE}
    assert registry.answers_name("known")
    assert registry.why_refused("known") is None
    assert registry.why_refused("known", pulled=True) == FILE_GONE


def test_who_asks_for_the_models_of_the_machine_gets_the_pulled_ones(models):
    store = FakeStore((entry(models / "decoder.gguf", "Known-Model", origin="pulled"),))
    registry = registry_of((models / "encoder.gguf", "named"), store=store, pulled=False, is_alone=True, rows=(ROW,))
    assert [spec.info.name for spec in registry.specs(pulled=True)] == ["named", "Known-Model"]
    assert registry.find("known-model", pulled=True) is registry.specs(pulled=True)[1]


def test_the_default_model_keeps_answering_to_any_name_beside_pulled_ones(models):
    store = FakeStore((entry(models / "decoder.gguf", "pulled", origin="pulled"),))
    registry = registry_of((models / "encoder.gguf", "default"), store=store, is_alone=True)
    assert [spec.info.name for spec in registry.specs()] == ["default", "pulled"]
    assert registry.answers_name("any")
    store.found = ()
    registry.specs()
    assert not registry.answers_name("pulled")


@pytest.mark.parametrize(
    ("pulled", "line"),
    [
        (True, "now served: pulled"),
        (False, "pulled: pulled; served in Ollama's API only, and on every route with --pulled"),
    ],
)
def test_changes_are_told_in_words(models, pulled, line):
    store = FakeStore()
    registry = registry_of((models / "encoder.gguf", "named"), store=store, pulled=pulled)
    registry.specs()
    told: list[str] = []
    registry.on_change = lambda keys, changes: told.extend(changes)
    store.found = (entry(models / "decoder.gguf", "pulled", origin="pulled"),)
    registry.specs()
    store.found = (replace(store.found[0], modified_unix_s=1.0),)
    registry.specs()
    store.found = ()
    registry.specs()
    assert told == [line, "changed: pulled, loaded again on its next use", "no longer served: pulled"]


def test_many_changes_are_one_line(models):
    store = FakeStore()
    registry = registry_of(store=store)
    registry.specs()
    told: list[str] = []
    registry.on_change = lambda keys, changes: told.extend(changes)
    store.found = tuple(entry(models / "encoder.gguf", f"m{number}") for number in range(8))
    registry.specs()
    assert told == ["now served: m0, m1, m2, m3, m4 and 3 more"]
