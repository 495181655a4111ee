"""The benchmark with pictures: the files, the request, the table, and a short whole run beside a loop of the test's."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmarks import images
from benchmarks.clip_directory import CLIP_B32, ClipSize, TowerSize, write_clip
from benchmarks.images import ImageRun, ImageSettings, compare_images, encode_images, render_images
from gguf_embed.convert.architectures import plan_model
from gguf_embed.convert.source import open_source
from gguf_embed.errors import ConfigError

pytest.importorskip("PIL")
pytest.importorskip("openvino")

TINY = ClipSize(TowerSize(32, 1, 2), TowerSize(48, 1, 2), 24, 32, 8)


@dataclass
class Ones:
    """A loop whose vectors are all ones."""

    name: str = "ones"
    variants: tuple[str, ...] = ("4", "16")

    def cpu_s(self) -> float:
        return 0.0

    def run(self, inputs: Path, variant: str, vectors: Path) -> float:
        files = json.loads(inputs.read_text())
        assert all(Path(file).read_bytes().startswith(b"\xff\xd8") for file in files)
        np.save(vectors, np.ones((len(files), TINY.n_embd), np.float32))
        return float(variant)


def test_equal_seeds_give_equal_pictures_and_others_differ():
    from benchmarks.pictures import make_jpegs

    pictures = make_jpegs("1/2", 3)
    assert pictures == make_jpegs("1/2", 3)
    assert len({*pictures, *make_jpegs("1/3", 3)}) == 6
    assert all(20_000 < len(picture) < 200_000 for picture in pictures)


def test_a_request_has_its_pictures_in_order():
    body = json.loads(encode_images([b"a", b"b"]))
    assert [base64.b64decode(item["image"]) for item in body["input"]] == [b"a", b"b"]


def test_the_model_has_the_tensors_of_a_clip(tmp_path):
    plan = plan_model(open_source(write_clip(TINY, tmp_path / "clip")), "f16")
    shapes = {tensor.name: tensor.shape for tensor in plan.tensors}
    assert shapes["visual_projection.weight"] == (24, 48)
    assert shapes["v.position_embd.weight"] == (17, 48)
    assert (CLIP_B32.image.n_embd, CLIP_B32.image.n_layer, CLIP_B32.patch_size) == (768, 12, 32)


def test_the_table_pairs_the_runs_of_one_round():
    runs = [
        ImageRun(round_, name, "16", 64, seconds * round_, 2 * seconds, 0.9999)
        for round_ in (1, 2)
        for name, seconds in (("gguf-embed", 1.0), ("transformers F32", 3.0))
    ]
    line = render_images(runs, 2).splitlines()[-1]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        "transformers F32", "16", "16.0", "3.00x", "3.00..3.00", "94", "0.999900",
    ]  # fmt: skip


@pytest.mark.process
def test_a_short_run_takes_each_loops_fastest_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "start_children", lambda *_: [Ones()])
    settings = ImageSettings("python", 1, n_rounds=2, factor=0.01, serve_flags=("--precision", "f32"), size=TINY)
    said: list[str] = []
    runs = compare_images(settings, tmp_path / "scratch", said.append)
    assert [(run.round, run.contestant, run.n_pictures) for run in runs] == [
        (1, "gguf-embed", 16), (1, "ones", 16), (2, "gguf-embed", 16), (2, "ones", 16),
    ]  # fmt: skip
    assert [run.variant for run in runs[:2]] == ["2 clients, 16", "4"]
    assert runs[0].min_cosine == pytest.approx(1)
    assert sum("images/s" in line for line in said) == 4


@pytest.mark.process
def test_without_a_loop_there_is_nothing_to_compare_with(tmp_path):
    said: list[str] = []
    with pytest.raises(ConfigError, match="--torch-python"):
        compare_images(ImageSettings("/no/such/python", 1, size=TINY), tmp_path / "scratch", said.append)
    assert any(line.startswith("skipping transformers F32: ") for line in said)
