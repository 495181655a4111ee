"""Jobs on Ray actors: the rows of a local run, whatever happens to the actors."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.embedder.embedder import Embedder
from gguf_embed.errors import ConfigError, EngineFailure, Unavailable
from gguf_embed.ingest.pool import actor_group, ray_actors
from gguf_embed.ingest.pool.local import LocalPool
from gguf_embed.ingest.pool.ray_actors import ENDED, ActorConfig, EmbedActor, RayPool
from gguf_embed.ingest.pool.ray_cluster import ActorPlan, Cluster, plan_actors
from tests.ingest.job.jobs import ENDLESS, Place, write_source
from tests.server_process import clean_environment, command

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.ingest

from tests.ingest.pool.odd_actors import F32Pool, PoisonedPool, SlowPool  # noqa: E402

ROOT = Path(__file__).parents[3]
DOCUMENTS = {f"doc{n}": f"the cat {n} and the dog say hello to world {n} " * (1 + n % 3) for n in range(120)}


@pytest.fixture(scope="module")
def cluster(cache_dir) -> Iterator[Cluster]:
    """Ray on this machine. The pools of these tests use it, and leave it running."""
    changed = {"GGUF_EMBED_CACHE": str(cache_dir), "HF_HUB_OFFLINE": "1"}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    found = Cluster("local")
    yield found
    found.close()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def open_pool(cluster, models):
    opened = []

    def open_(pool_class=F32Pool, model="encoder.gguf", **options):
        opened.append(pool_class(models / model, **options))
        return opened[-1]

    yield open_
    for pool in opened:
        pool.close()


@pytest.fixture(scope="module")
def local(models, cache_dir):
    pool = LocalPool(Embedder(models / "encoder.gguf", cache=cache_dir, precision="f32"))
    yield pool
    pool.close()


def rows_of(place: Place) -> dict[str, np.ndarray]:
    with sqlite3.connect(place.folder / "sink.db") as db:
        found = db.execute("select id, embedding from docs").fetchall()
    rows = {row_id: np.frombuffer(blob, np.float32) for row_id, blob in found}
    assert len(rows) == len(found)
    return rows


def place_of(folder: Path, pool) -> Place:
    folder.mkdir()
    return Place(folder, pool=pool)


def assert_same_rows(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    cosines = [one[key] @ other[key] / np.linalg.norm(one[key]) / np.linalg.norm(other[key]) for key in one]
    assert min(cosines) >= 0.9999


def actors_of(name: str) -> list[int]:
    """Processes of actors of this class, by the titles that Ray gives them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::" + name.encode()):
            found.append(int(folder.name))
    return found


def test_the_rows_are_those_of_a_local_run(tmp_path, open_pool, local):
    ours, theirs = place_of(tmp_path / "local", local), place_of(tmp_path / "ray", open_pool(n_actors=2))
    assert theirs.pool.facts == local.facts
    assert theirs.pool.n_at_once == 4
    for place in (ours, theirs):
        assert place.run(DOCUMENTS).is_complete
    assert len(rows_of(ours)) > len(DOCUMENTS)
    assert_same_rows(rows_of(ours), rows_of(theirs))
    again = theirs.run(DOCUMENTS).counters
    assert (again.n_stored, again.n_unchanged) == (0, len(DOCUMENTS))


def test_texts_that_are_too_long_are_rejected_alike(open_pool, local):
    texts = ["hello", "hello " * 100, "", "world"]
    found, expected = open_pool(n_actors=1).embed(texts), local.embed(texts)
    assert found.failures == expected.failures
    assert 1 in found.failures
    assert found.n_tokens == expected.n_tokens
    assert np.abs(found.vectors - expected.vectors).max() < 0.01


def test_offsets_are_the_models_own_with_and_without_its_file_on_this_machine(open_pool, local, monkeypatch):
    text = "hello  cat, and the dog"
    assert open_pool(n_actors=1).token_offsets(text) == local.token_offsets(text)
    monkeypatch.setattr(ray_actors, "open_own_tokenizer", lambda *_: None)
    assert open_pool(n_actors=1).token_offsets(text) == local.token_offsets(text)


def test_an_actor_that_is_killed_in_a_job_loses_and_doubles_nothing(tmp_path, open_pool, local, capfd):
    ours, theirs = place_of(tmp_path / "local", local), place_of(tmp_path / "ray", open_pool(SlowPool, n_actors=2))
    ours.run(DOCUMENTS)
    killed = []

    def kill_some() -> None:
        for _ in range(2):
            time.sleep(0.3)
            killed.append(actors_of("SlowActor")[0])
            os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill_some)
    killer.start()
    outcome = theirs.run(DOCUMENTS)
    killer.join()
    assert outcome.is_complete
    assert len(set(killed)) == 2
    assert outcome.counters.n_rejected == 0
    assert_same_rows(rows_of(ours), rows_of(theirs))
    assert capfd.readouterr() == ("", "")


def test_texts_that_end_their_process_are_rejects_and_everything_else_is_stored(tmp_path, open_pool, local):
    ours, theirs = place_of(tmp_path / "local", local), place_of(tmp_path / "ray", open_pool(PoisonedPool, n_actors=2))
    ours.run(DOCUMENTS)
    outcome = theirs.run({**DOCUMENTS, "bad": "this is poison"})
    assert outcome.is_complete
    assert [(reject["id"], reject["reason"]) for reject in theirs.rejected()] == [("bad", ENDED)]
    assert_same_rows(rows_of(ours), rows_of(theirs))


def test_a_model_that_ends_every_process_ends_the_job(open_pool, monkeypatch):
    monkeypatch.setattr(actor_group, "MAX_LOSSES", 4)
    pool = open_pool(PoisonedPool, n_actors=1)
    with pytest.raises(EngineFailure, match="4 calls ended the Ray actor that they ran on"):
        pool.embed(["poison 1", "poison 2"])


def test_a_model_that_is_not_there_is_named_with_the_machine(open_pool):
    with pytest.raises(ConfigError, match=r"on \S+: .*missing\.gguf"):
        open_pool(model="missing.gguf", n_actors=1)


def test_a_closed_pool_says_so(open_pool):
    pool = open_pool(n_actors=1)
    pool.close()
    with pytest.raises(Unavailable, match="closed"):
        pool.embed(["hello"])


def test_an_actor_gives_errors_in_words(models, cache_dir, monkeypatch):
    monkeypatch.setenv("GGUF_EMBED_CACHE", str(cache_dir))
    actor = EmbedActor(ActorConfig(str(models / "encoder.gguf"), 1, None, 99, False))
    assert "99" in (actor.facts().message if hasattr(actor.facts(), "message") else actor.embed(["a"]).message)


@pytest.mark.parametrize(
    ("machines", "n_actors", "plan"),
    [
        ([2], None, ActorPlan(1, 1)),
        ([1], None, ActorPlan(1, 0.5)),
        ([8, 8, 8], None, ActorPlan(3, 7)),
        ([0, 8, 8], None, ActorPlan(2, 7)),
        ([32, 8], None, ActorPlan(5, 7)),
        ([1, 1, 1], None, ActorPlan(2, 1)),
        ([2], 1, ActorPlan(1, 1)),
        ([2], 2, ActorPlan(2, 0.5)),
        ([16, 16], 8, ActorPlan(8, 3)),
        ([4, 4], 1, ActorPlan(1, 4)),
        ([1], 2, ActorPlan(2, 0.25)),
    ],
)
def test_cpus_are_divided_and_one_stays_free(machines, n_actors, plan):
    assert plan_actors(machines, n_actors) == plan
    assert plan.n_actors * plan.n_cpus <= max(sum(machines) - 1, 0.5)


@pytest.mark.parametrize(("machines", "n_actors"), [([], None), ([0, 0], 1), ([2], 0), ([2], 101)])
def test_a_plan_that_cannot_be_is_refused(machines, n_actors):
    with pytest.raises(ConfigError, match=r"CPUs|at least one"):
        plan_actors(machines, n_actors)


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'gguf-embed\[ray\]'"):
        RayPool("any")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ray://10.0.0.1:10001", "run the job on a machine of the cluster"),
        ("somewhere", "not HOST:PORT"),
        ("127.0.0.1:9", "no Ray cluster can be used at '127.0.0.1:9'"),
    ],
)
def test_a_wrong_address_is_refused_at_once(address, words, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=words):
        Cluster(address)


def processes_with(mark: str) -> list[str]:
    """The processes that inherited this from our environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().decode().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("how", ["to its end", "stopped", "stopped after its end"])
def test_the_command_is_quiet_and_leaves_no_process(tmp_path, cache_dir, models, how):
    place = Place(tmp_path)
    n_texts = ENDLESS if how == "stopped" else 5
    write_source(place.source, {f"doc{n}": f"hello cat number {n}" for n in range(n_texts)})
    mark = f"ray-test-{os.getpid()}-{how.replace(' ', '-')}"
    environment = clean_environment(cache_dir, {"XDG_STATE_HOME": str(tmp_path), "RAY_TEST_MARK": mark})
    line = command(
        "ingest", place.source, "--to", place.sink, "-m", models / "encoder.gguf", "--runner", "ray", "--json"
    )
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    if how != "to its end":
        assert process.stdout is not None
        awaited = "embedded" if how == "stopped" else "complete"
        next(text for text in process.stdout if json.loads(text).get(awaited))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: Ray's processes get it, too
    printed, failed = process.communicate(timeout=60)
    assert (process.returncode, failed) == (130 if how == "stopped" else 0, "")
    assert all(text.startswith("{") for text in printed.splitlines())
    assert processes_with(mark) == []
    n_rows = len(rows_of(place))
    assert 0 < n_rows < n_texts if how == "stopped" else n_rows == n_texts


def test_the_snippet_for_ray_data_in_the_documentation_works(tmp_path, cache_dir, models):
    page = (ROOT / "docs" / "scaling.md").read_text("utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "passages").mkdir()
    texts = [f"hello cat number {n}" for n in range(40)] + ["too long " * 100, None]
    pq.write_table(pa.table({"id": list(range(42)), "text": texts}), tmp_path / "passages" / "a.parquet")
    code = code.replace('"all-minilm"', repr(str(models / "encoder.gguf"))).replace("size=4", "size=1")
    for name in ("passages", "vectors"):
        code = code.replace(f'"/data/{name}"', repr(str(tmp_path / name)))
    assert str(models) in code
    (tmp_path / "snippet.py").write_text(code)
    done = subprocess.run(
        [sys.executable, tmp_path / "snippet.py"],
        env=clean_environment(
            cache_dir, {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)}
        ),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "vectors").sort_by("id")
    assert table.column("id").to_pylist() == list(range(42))
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 32)
    errors = table.column("error").to_pylist()
    assert errors[:40] == [None] * 40
    assert "the limit per text is 64" in errors[40]
    assert errors[41] == "is null"
    assert [vector is None for vector in table.column("embedding").to_pylist()] == [False] * 40 + [True] * 2
