"""The Grafana dashboard asks for metrics that a real server has, and for all that matter."""

from __future__ import annotations

import json
import re
from pathlib import Path

BOARD = json.loads((Path(__file__).parent.parent / "docs" / "deploy" / "grafana-dashboard.json").read_text("utf-8"))
METRIC = re.compile(r"\b(?:gguf_embed|process)_\w+")
LEFT_OUT = {
    "gguf_embed_batch_texts",
    "gguf_embed_batch_tokens",
    "gguf_embed_cache_entries",
    "gguf_embed_dropped_tokens",
    "gguf_embed_interactive_batch_tokens",
    "gguf_embed_model_load_seconds",
    "gguf_embed_model_requests",
    "gguf_embed_stored_batch_bytes",
    "gguf_embed_windowed_texts",
}
"""What the dashboard does without, on purpose."""


def asked_for() -> set[str]:
    queries = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
    queries += [variable["query"] for variable in BOARD["templating"]["list"]]
    return {name for query in queries for name in METRIC.findall(query)}


def test_every_metric_asked_for_exists_and_every_other_one_is_left_out_on_purpose(tiny_server):
    tiny_server.embed(["a text", "another"])
    assert tiny_server.post("/v1/embeddings", {"input": 1.5}).status == 400  # so that errors have been counted
    served = tiny_server.get("/metrics").body.decode()
    declared = dict(re.findall(r"^# TYPE (\w+) (\w+)$", served, re.MULTILINE))
    names = {f"{name}_bucket" if kind == "histogram" else name for name, kind in declared.items()}
    assert sorted(asked_for() - names) == []
    own = {name for name in names if name.startswith("gguf_embed_") and not name.endswith("_created")}
    unused = {name.removesuffix("_bucket").removesuffix("_total") for name in own - asked_for()}
    assert unused == LEFT_OUT


def test_panels_are_distinct_and_do_not_overlap():
    titles = [panel["title"] for panel in BOARD["panels"]]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in BOARD["panels"]]
    assert len(set(titles)) == len(titles) == len(set(places))
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(titles)
