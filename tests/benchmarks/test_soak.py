"""The soak: its verdict on made-up figures, and two minutes of the real one."""

from __future__ import annotations

import pytest

from benchmarks.soak import main, make_texts
from benchmarks.soak_report import Tally, problems_of, table
from benchmarks.soaked_server import Life


def life(*resident_mib: float, exit_code: int | None = 0) -> Life:
    return Life([{"resident_mib": mib, "threads": 9.0, "descriptors": 20.0} for mib in resident_mib], exit_code)


def tally(**fields: object) -> Tally:
    made = Tally(**fields)
    made.statuses[200] = 1
    return made


@pytest.mark.parametrize(
    ("seen", "lives", "problem"),
    [
        (tally(), [life(*[400.0] * 20)], None),
        (tally(), [life(*[100.0] * 5, *[400.0] * 15)], None),  # the warm-up
        (tally(), [life(*[400.0] * 12, *[419.0] * 8)], None),
        (tally(), [life(*[400.0] * 12, *[425.0] * 8)], "process 1: resident_mib grew from 400.0 to 425.0"),
        (tally(), [life(*[400.0] * 20, exit_code=-9)], "process 1 ended with -9"),
        (tally(), [life(400.0)], "only 1 samples"),
        (tally(lost=["ConnectionResetError()"]), [life(*[400.0] * 20)], "not answered: ConnectionResetError()"),
        (tally(worst_cosine=0.99), [life(*[400.0] * 20)], "cosine 0.990000"),
        (Tally(), [life(*[400.0] * 20)], "nothing was answered"),
    ],
)
def test_the_verdict_names_what_is_wrong(seen, lives, problem):
    found = problems_of(seen, lives)
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]


def test_the_table_has_the_figures():
    lines = table(tally(n_texts=5, query_s=[0.1, 0.2]), [life(*[400.0] * 20)])
    assert "| requests | 1 × 200 |" in lines
    assert "| process 1: resident_mib | 400.0 → 400.0 |" in lines


def test_texts_are_distinct_and_of_mixed_lengths():
    texts = make_texts(0)
    assert len(set(texts)) == len(texts)
    lengths = sorted(len(text.split()) for text in texts)
    assert lengths[len(lengths) // 2] < 10
    assert lengths[-1] > 100


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_minutes_without_a_problem(tmp_path, default_model):
    arguments = ["--minutes", "2", "--model", str(default_model), "--report", str(tmp_path / "soak.json")]
    assert main([*arguments, "--max-growth", "0.25"]) == 0  # a minute for each process is mostly its beginning
