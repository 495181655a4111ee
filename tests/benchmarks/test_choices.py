import pytest

from benchmarks.choices import NAMES, choose
from benchmarks.scenarios import SCENARIOS
from benchmarks.tasks import EMBED, RERANK
from gguf_embed.errors import ConfigError

EMBEDDING = [scenario.name for scenario in SCENARIOS if scenario.query_tokens is None]


@pytest.mark.parametrize(
    ("named", "is_reranker", "chosen"),
    [
        (None, None, [*NAMES]),
        (None, False, [*EMBEDDING, "in-process", "static", "images", "ingest", "busy", "cache"]),
        (None, True, ["rerank", "static", "images"]),
        (["static", "single"], None, ["single", "static"]),
        (["single"], False, ["single"]),
        (["rerank"], True, ["rerank"]),
    ],
)
def test_a_run_has_the_named_scenarios_or_all_that_the_file_can_run(named, is_reranker, chosen):
    assert list(choose(named, is_reranker).names) == chosen


@pytest.mark.parametrize(
    ("named", "is_reranker", "message"),
    [
        (["rerank"], False, "rerank, which needs a rank head"),
        (["single", "in-process"], True, "single, in-process, which needs an embedding model"),
    ],
)
def test_a_named_scenario_that_the_file_cannot_run_is_refused(named, is_reranker, message):
    with pytest.raises(ConfigError, match=message):
        choose(named, is_reranker)


def test_scenarios_are_grouped_by_task():
    choices = choose(["single", "rerank", "static"], None)
    assert [scenario.name for scenario in choices.of(EMBED)] == ["single"]
    assert [scenario.name for scenario in choices.of(RERANK)] == ["rerank"]
