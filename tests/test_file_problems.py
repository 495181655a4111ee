"""What the doctor finds serious is said where a model is used: at the start, in /props, in show; or it is refused."""

from __future__ import annotations

import json
import time

import pytest

from gguf_embed.doctor.examine import check_header, check_metadata, examine, without_pooling
from gguf_embed.doctor.findings import Severity, fix_command
from gguf_embed.gguf_file.header import read_header
from gguf_embed.types import Pooling
from tests.doctor import doctor_models as models
from tests.doctor.doctor_models import Edit, edit
from tests.server_process import run_to_end

G = "tokenizer.ggml."
NO_BOS = Edit({G + "add_bos_token": False, G + "add_eos_token": False, "general.name": "my model"})


@pytest.fixture
def xlm_roberta(tmp_path):
    """An XLM-RoBERTa whose texts get no <s> and </s> (llama.cpp#14280)."""
    return edit(models.bge_m3(tmp_path / "plain.gguf"), tmp_path / "x.gguf", NO_BOS)


@pytest.fixture
def half_a_head(tmp_path):
    """A BERT reranker without its pooler (antonellof/ferrox#82)."""
    source = models.reranker(tmp_path / "plain.gguf")
    return edit(source, tmp_path / "x.gguf", Edit(tensors={"cls.weight": None, "cls.bias": None}))


def serious_codes(findings) -> list[str]:
    return [finding.code for finding in findings if finding.severity is Severity.SERIOUS]


def problem_lines(server) -> list[str]:
    return [line for line in server.banner if line.startswith("serious ")]


def test_special_tokens_that_are_missing_are_said_everywhere(launch, xlm_roberta, cache_dir):
    server = launch("-m", xlm_roberta)
    lines = problem_lines(server)
    assert [line.split(": ")[1] for line in lines] == ["bos_not_added", "eos_not_added"]
    assert lines[0].startswith(
        "serious  x: bos_not_added: tokenizer.ggml.add_bos_token is false, but the texts of a bert"
    )
    assert lines[0].endswith("Fix: `gguf-embed doctor --fix x.gguf` sets tokenizer.ggml.add_bos_token to true")
    problems = server.get("/props").json()["problems"]
    assert [problem["code"] for problem in problems] == ["bos_not_added", "eos_not_added"]
    assert "gguf-embed doctor --fix x.gguf" in problems[0]["fix"]
    shown = run_to_end(cache_dir, "show", xlm_roberta)
    assert [line.split(": ")[-1] for line in shown.stdout.splitlines() if line.startswith("serious")] == [
        line.split(": ")[-1] for line in lines
    ]
    as_json = json.loads(run_to_end(cache_dir, "show", "--json", xlm_roberta).stdout)
    assert as_json["problems"] == problems


def test_half_a_head_is_said_everywhere(launch, half_a_head, cache_dir):
    (line,) = problem_lines(launch("-m", half_a_head))
    assert "rank_head_incomplete: it has cls.output.weight but not cls.weight" in line
    doctor = run_to_end(cache_dir, "doctor", half_a_head)
    assert doctor.returncode == 1
    assert "serious  rank_head_incomplete" in doctor.stdout


@pytest.mark.process
@pytest.mark.parametrize("environment", [False, True])
def test_strict_refuses_to_serve(xlm_roberta, cache_dir, environment):
    flags = [] if environment else ["--strict"]
    variables = {"GGUF_EMBED_STRICT": "1"} if environment else {}
    ended = run_to_end(cache_dir, "serve", "-m", xlm_roberta, *flags, **variables)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "x is not served, because --strict refuses a file with a serious problem (bos_not_added: " in line
    assert "Fix: `gguf-embed doctor --fix x.gguf`" in line


def test_strict_refuses_a_file_of_the_folder_and_serves_the_others(launch, xlm_roberta, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    xlm_roberta.rename(folder / "bad.gguf")
    models.encoder(folder / "good.gguf")
    server = launch("--models-dir", folder, "--strict")
    assert len(server.embed("hello", model="good")) == 1
    refused = server.post("/v1/embeddings", {"input": "hello", "model": "bad"})
    assert refused.status == 500
    assert "--strict" in refused.json()["error"]["message"]
    assert [one["code"] for one in server.get("/props?model=bad").json()["problems"]]  # before any load


def test_healthy_files_say_nothing(launch, default_server, models):
    assert not problem_lines(default_server)
    assert default_server.get("/props").json()["problems"] == []
    for name in ("encoder", "reranker"):
        server = launch("-m", models / f"{name}.gguf", "--strict")
        assert not problem_lines(server)
        assert server.get("/props").json()["problems"] == []


def test_a_pooling_that_is_given_settles_what_the_file_lacks(launch, models):
    bare = models / "bare.gguf"
    assert serious_codes(check_header(read_header(bare), None)) == ["pooling_missing"]
    server = launch("-m", bare, "--pooling", "mean", "--strict")
    assert server.get("/props").json()["problems"] == []
    other = launch("-m", bare)
    assert not problem_lines(other)  # it has a line of its own
    assert sum("declares no pooling" in line for line in other.banner) == 1
    assert [one["code"] for one in other.get("/props").json()["problems"]] == ["pooling_missing"]


ALL = [
    models.encoder,
    models.reranker,
    models.decoder,
    models.qwen,
    models.qwen_reranker,
    models.bge_m3,
    models.roberta,
]
FAULTS = [
    (models.bge_m3, NO_BOS),
    (models.roberta, Edit({G + "add_bos_token": False})),
    (models.reranker, Edit(tensors={"cls.weight": None, "cls.bias": None})),
    (models.encoder, Edit({"bert.pooling_type": 4})),
    (models.encoder, Edit(drop=["bert.pooling_type"])),
    (models.qwen_reranker, Edit(drop=["tokenizer.chat_template.rerank"])),
    (models.decoder, Edit({"qwen3.pooling_type": 2})),
]


@pytest.mark.parametrize("write", ALL, ids=lambda write: write.__name__)
def test_the_header_of_a_healthy_file_shows_nothing(write, tmp_path):
    assert serious_codes(check_header(read_header(write(tmp_path / "x.gguf")), None)) == []


@pytest.mark.parametrize(("write", "fault"), FAULTS)
def test_the_header_shows_what_all_checks_show(write, fault, tmp_path):
    path = edit(write(tmp_path / "plain.gguf"), tmp_path / "x.gguf", fault)
    found = serious_codes(check_header(read_header(path), None))
    assert found
    assert set(found) <= set(serious_codes(examine(path).findings))


def test_the_metadata_are_checked_without_the_weights(tmp_path):
    nan = models.np.full((32, 32), float("nan"), models.np.float32)
    path = edit(models.encoder(tmp_path / "plain.gguf"), tmp_path / "x.gguf",
                Edit(tensors={"blk.0.attn_q.weight": nan}))  # fmt: skip
    assert "weights_not_finite" in serious_codes(examine(path).findings)
    assert serious_codes(check_metadata(path)) == []


def test_the_header_is_checked_in_a_moment(default_model):
    header = read_header(default_model)
    check_header(header, None)  # imports
    times_s = []
    for _ in range(5):
        started_s = time.perf_counter()
        check_header(header, None)
        times_s.append(time.perf_counter() - started_s)
    assert min(times_s) < 0.010


def test_a_given_pooling_keeps_what_matters(tmp_path):
    path = edit(models.reranker(tmp_path / "p.gguf"), tmp_path / "x.gguf",
                Edit({"bert.pooling_type": 4}, tensors={"cls.weight": None, "cls.bias": None}))  # fmt: skip
    findings = check_header(read_header(path), None)
    assert serious_codes(without_pooling(findings, Pooling.RANK)) == ["rank_head_incomplete"]
    assert serious_codes(without_pooling(findings, None)) == ["rank_head_incomplete"]
    assert serious_codes(without_pooling(findings, Pooling.MEAN)) == []  # vectors need no head


@pytest.mark.parametrize(
    ("fix", "words"),
    [
        ("--fix sets a to 1", "`gguf-embed doctor --fix m.gguf` sets a to 1"),
        ("--fix writes it as UINT32", "`gguf-embed doctor --fix m.gguf` writes it as UINT32"),
        (
            "serve it with --pooling, or --fix --set a=1",
            "serve it with --pooling, or gguf-embed doctor m.gguf --fix --set a=1",
        ),
        ("download it again", "download it again"),
    ],
)
def test_a_fix_names_the_command(fix, words):
    assert fix_command(fix, "m.gguf") == words
