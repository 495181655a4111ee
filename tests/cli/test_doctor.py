"""`gguf-embed doctor`: output, exit codes, JSON, the corrected copy, and the trial run in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFValueType

from gguf_embed.cli.doctor import on_terminal
from gguf_embed.cli.doctor_trial import _embed, judge_rows, try_model
from gguf_embed.doctor.examine import examine
from gguf_embed.model_store.store import ModelStore
from gguf_embed.types import Pooling
from tests.cli.command import Place
from tests.doctor import doctor_models as models
from tests.doctor.doctor_models import Edit, Typed, contents, edit
from tests.engines.openvino.graph_models import write_gguf
from tests.static_models import write_static

G = "tokenizer.ggml."


def doctor(*flags: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gguf_embed", "doctor", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def broken(tmp_path) -> Path:
    """A Qwen3 embedding model without pooling and without EOS."""
    return edit(
        models.qwen(tmp_path / "m.gguf"),
        tmp_path / "wrong.gguf",
        Edit(drop=["qwen3.pooling_type", G + "add_eos_token"]),
    )


@pytest.mark.process
def test_the_line_for_a_clean_file_names_what_was_checked(tmp_path):
    done = doctor(models.decoder(tmp_path / "m.gguf"))
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr, len(lines)) == (0, "", 1)
    assert lines[0].startswith(f"{tmp_path / 'm.gguf'}: no problems found; checked: qwen3, pooling last, ")


def test_a_model_is_examined_by_its_name_and_its_copy_is_written_here(tmp_path, monkeypatch):
    cache, here = tmp_path / "cache", tmp_path / "here"
    here.mkdir()
    cache.mkdir()
    monkeypatch.chdir(here)
    wrong = edit(models.qwen(cache / "m.gguf"), cache / "wrong.gguf", Edit(drop=["qwen3.pooling_type"]))
    ModelStore(cache).add("mine", wrong, "ab" * 32)
    done = Place(tmp_path, "http://127.0.0.1:9").call("doctor", "mine", "--fix")
    assert f"{wrong}: 1 serious" in done.stdout
    assert [path.name for path in here.iterdir()] == ["wrong-fixed.gguf"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("bge-m3", "bge-m3 is not on this machine; `gguf-embed pull bge-m3` downloads it"),
        ("bge-m", "did you mean bge-m3?"),
        ("missing.gguf", "missing.gguf: no such file; check the path"),
    ],
)
def test_a_model_that_is_not_here_is_one_line_with_the_way_out(model, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    done = Place(tmp_path, "http://127.0.0.1:9").call("doctor", model)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert message in done.stderr


def test_on_a_terminal_findings_are_wrapped_below_themselves(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    line = "serious  pooling_missing: the file does not say how. Fix: set it"
    assert on_terminal(line, None) == line
    assert on_terminal(line, 40).splitlines() == [
        "serious  pooling_missing: the file does",
        "         not say how. Fix: set it",
    ]


@pytest.mark.process
def test_the_default_model_is_clean(default_model):
    done = doctor(default_model, "--deep", "--run")
    assert done.returncode == 0
    assert f"{default_model}: no problems found (1 note); checked: bert, pooling mean" in done.stdout
    assert "every weight, a run" in done.stdout


@pytest.mark.process
def test_serious_findings_are_one_line_each_and_make_the_exit_code_1(broken):
    done = doctor(broken)
    assert done.returncode == 1
    serious = [line for line in done.stdout.splitlines() if line.startswith("serious")]
    assert [line.split()[1] for line in serious] == ["pooling_missing:", "eos_not_added:"]
    assert all("Fix: --fix sets " in line for line in serious)
    assert ": 2 serious, 1 note; checked: " in done.stdout.splitlines()[-1]


@pytest.mark.process
def test_warnings_alone_leave_the_exit_code_0(tmp_path):
    path = edit(models.encoder(tmp_path / "m.gguf"), tmp_path / "w.gguf", Edit({"bert.pooling_type": 0}))
    done = doctor(path)
    assert done.returncode == 0
    assert "warning  pooling_none: " in done.stdout


@pytest.mark.process
def test_fix_writes_a_copy_prints_every_change_and_checks_it(broken):
    before = broken.read_bytes()
    done = doctor(broken, "--fix")
    copy = broken.with_name("wrong-fixed.gguf")
    assert done.returncode == 0, done.stdout + done.stderr
    assert broken.read_bytes() == before
    assert "changed  qwen3.pooling_type: (missing) -> 3" in done.stdout
    assert f"changed  {G}add_eos_token: (missing) -> true" in done.stdout
    assert f"wrote    {copy}" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"{copy}: no problems found")
    assert (contents(copy, "qwen3.pooling_type"), contents(copy, f"{G}add_eos_token")) == (3, True)
    again = doctor(broken, "--fix")
    assert (again.returncode, str(copy) in again.stderr) == (1, True)
    assert doctor(broken, "--fix", "--force").returncode == 0


@pytest.mark.process
def test_set_makes_changes_of_ones_own_over_the_doctors(broken, tmp_path):
    output = tmp_path / "mine.gguf"
    done = doctor(broken, "--fix", "-o", output, "--set", "qwen3.pooling_type=1", "--set", "general.name=str:mine: all")
    assert (contents(output, "qwen3.pooling_type"), contents(output, "general.name")) == (1, "mine: all")
    assert "changed  general.name: 'Qwen3 Embedding 0.6B' -> 'mine: all'" in done.stdout
    assert done.returncode == 0  # the new name does not imply pooling last


@pytest.mark.process
def test_nothing_to_fix_writes_nothing(tmp_path):
    path = models.decoder(tmp_path / "m.gguf")
    done = doctor(path, "--fix")
    assert (done.returncode, "no copy written" in done.stdout) == (0, True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.gguf"]


@pytest.mark.process
def test_what_cannot_be_fixed_stays_serious_in_the_copy(tmp_path):
    what = Edit({"bert.pooling_type": 4, "bert.context_length": 512})
    path = edit(models.encoder(tmp_path / "m.gguf"), tmp_path / "w.gguf", what)
    done = doctor(path, "--fix", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report["fixed"]["changes"] == [{"key": "bert.context_length", "old": 512, "new": 64}]
    assert [found["code"] for found in report["fixed"]["findings"] if found["severity"] == "serious"] == [
        "rank_head_missing"
    ]


@pytest.mark.process
def test_json_has_the_same_findings(broken):
    done = doctor(broken, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["n_serious"], report["fixed"]) == (1, 2, None)
    assert report["file"] == str(broken)
    assert set(report["findings"][0]) == {"severity", "code", "message", "fix", "fixable"}
    assert [found["fixable"] for found in report["findings"]] == [True, True, False]


@pytest.mark.process
def test_a_truncated_file_is_a_finding_with_and_without_fix(tmp_path):
    path = models.encoder(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:-500])
    for flags in ([], ["--fix"], ["--run"]):
        done = doctor(path, *flags)
        assert (done.returncode, done.stderr) == (1, "")
        assert "serious  unreadable: " in done.stdout
        assert ("--fix cannot mend what was found: no copy written" in done.stdout) == ("--fix" in flags)


@pytest.mark.process
@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--force"], 2, "add --fix"),
        (["-o", "x.gguf"], 2, "add --fix"),
        (["--fix", "--set", "pooling"], 2, "KEY=VALUE"),
        (["--fix", "--set", "bert.context_length=many"], 2, "UINT32"),
        (["--frob"], 2, "--frob"),
        (["--fix", "--set", "bert.context_length=64", "-o", "/no/such/folder/x.gguf"], 1, "/no/such/folder/x.gguf"),
    ],
)
def test_wrong_flags_get_a_message(tmp_path, flags, code, message):
    done = doctor(models.encoder(tmp_path / "m.gguf"), *flags)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.process
def test_a_file_that_is_not_there_is_one_line(tmp_path):
    done = doctor(tmp_path / "m.gguf")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("build", "what", "code"),
    [
        (models.encoder, Edit({"bert.context_length": 512}), "context_positions"),
        (models.encoder, Edit({"bert.embedding_length": 48}), "dimensions"),
        (models.encoder, Edit(drop=[G + "token_type_count"]), "token_type_count"),
        (models.encoder, Edit({G + "token_type": [1] * 7}), "vocabulary_size"),
        (models.encoder, Edit({"bert.pooling_type": Typed(1, GGUFValueType.INT32)}), "value_type"),
        (models.encoder, Edit(drop=[G + "unknown_token_id"]), "special_id_missing"),
        (models.encoder, Edit({"general.architecture": "bert9"}), "architecture_unknown"),
        (models.encoder, Edit({"bert.pooling_type": 4}), "rank_head_missing"),
        (models.decoder, Edit(drop=[G + "merges"]), "merges_missing"),
        (models.decoder, Edit({G + "pre": "qwen9"}), "pre_unknown"),
        (models.decoder, Edit({G + "model": "bytes9"}), "tokenizer_unknown"),
        (models.qwen_reranker, Edit(drop=["qwen3.classifier.output_labels"]), "rank_labels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_doctor_says_will_not_run_does_not_run(tmp_path, build, what, code):
    path = edit(build(tmp_path / "m.gguf"), tmp_path / "wrong.gguf", what)
    assert code in [finding.code for finding in examine(path).findings]
    assert [finding.code for finding in _embed(path)] == ["run_failed"]


@pytest.mark.parametrize(
    "what",
    [
        Edit({G + "tokens": ["same"] * 129}),
        Edit({"bert.pooling_type": 9}),
    ],
    ids=["tokens_repeated", "pooling_invalid"],
)
def test_a_file_that_kills_llama_cpp_does_not_kill_the_doctor(tmp_path, what, request):
    path = edit(models.encoder(tmp_path / "m.gguf"), tmp_path / "wrong.gguf", what)
    assert request.node.callspec.id in [finding.code for finding in examine(path).findings]
    assert [finding.code for finding in try_model(path)] in (["run_crashed"], ["run_failed"])


@pytest.mark.parametrize("build", [models.encoder, models.reranker, models.qwen, models.qwen_reranker, models.bge_m3])
def test_right_files_run(tmp_path, build):
    assert _embed(build(tmp_path / "m.gguf")) == []


def test_static_models_are_checked_and_run(tmp_path):
    words, rows = ["the", "cat", "prices", "wie"], np.eye(4, dtype=np.float32)
    right = write_static(tmp_path / "right.gguf", words, rows)
    assert examine(right).findings == ()
    assert _embed(right) == []
    wrong = write_static(tmp_path / "wrong.gguf", words[:3], rows)
    assert [finding.code for finding in examine(wrong).findings] == ["vocabulary_size"]
    assert [finding.code for finding in _embed(wrong)] == ["run_failed"]


@pytest.mark.parametrize(
    ("rows", "pooling", "codes"),
    [
        ([[1, 0], [0, 1]], Pooling.MEAN, []),
        ([[1, 0], [np.nan, 1]], Pooling.MEAN, ["run_not_finite"]),
        ([[1, 0], [np.inf, 1]], Pooling.RANK, ["run_not_finite"]),
        ([[1, 0], [0, 0]], Pooling.MEAN, ["run_zero"]),
        ([[1, 2], [2, 4]], Pooling.CLS, ["run_same"]),
        ([[0.1], [0.2]], Pooling.RANK, []),
        ([[0.1], [0.1]], Pooling.RANK, ["run_same"]),
    ],
)
def test_vectors_are_judged(rows, pooling, codes):
    assert [finding.code for finding in judge_rows(np.array(rows, np.float32), pooling)] == codes


@pytest.mark.parametrize("name", ["mpnet", "deberta_v2_reranker"])
def test_what_llama_cpp_does_not_compute_runs_in_the_engine_that_does(tmp_path, name):
    assert _embed(write_gguf(name, tmp_path / "m.gguf")) == []
