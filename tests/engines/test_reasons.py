"""A reason is reported once, by whichever process gives it first, and a child process leaves it to its parent."""

from __future__ import annotations

import json

import pytest

from gguf_embed.engines import reasons
from gguf_embed.engines.isolated.loading import Listener
from gguf_embed.engines.isolated.messages import Said
from gguf_embed.engines.reasons import leave_reasons_to_parent, report_once
from gguf_embed.model_pool.trial import Trial
from gguf_embed.model_pool.trial_child import MARK


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    monkeypatch.setattr(reasons, "_said", set())
    monkeypatch.setattr(reasons, "_tell_parent", None)


def test_a_reason_is_reported_once_and_a_line_without_one_always():
    said: list[str] = []
    for line in ("a is slow", "b is slow"):
        report_once(said.append, line, "it is slow")
        report_once(said.append, "loaded")
    assert said == ["a is slow", "loaded", "loaded"]


def test_the_children_that_try_a_file_and_that_run_one_share_the_reasons():
    trial, heard = Trial(), list[str]()
    for name in "ab":
        trial.read(MARK + json.dumps(["report", f"{name} is slow", "it is slow"]))
        Listener(heard.append, lambda _: None).hear(Said("report", f"{name} is slow", "it is slow"))
        Listener(heard.append, lambda _: None).hear(Said("report", f"{name} is loaded"))
    assert trial.said == {"a is slow"}
    assert heard == ["a is loaded", "b is loaded"]


def test_a_child_tells_its_parent_each_reason_and_reports_the_other_lines():
    said, told = list[str](), list[tuple[str, str]]()
    leave_reasons_to_parent(lambda reason, line: told.append((reason, line)))
    for line in ("a is slow", "b is slow"):
        report_once(said.append, line, "it is slow")
    report_once(said.append, "loaded")
    assert told == [("it is slow", "a is slow"), ("it is slow", "b is slow")]
    assert said == ["loaded"]
