"""Compares the server on pictures with transformers' CLIPModel: JPEG files to unit vectors, on the same cores."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.clip_directory import CLIP_B32, ClipSize, write_clip
from benchmarks.load import frame_request, run_load
from benchmarks.loops.child import Child, start_children
from benchmarks.loops.images import SAMPLE
from benchmarks.loops.worker import IMAGE_LOOPS, Order
from benchmarks.replies import min_cosine, read_replies
from benchmarks.report import spread, table
from benchmarks.servers import OURS, RunningServer, ServerSetup, running
from benchmarks.tasks import EMBED
from gguf_embed.convert.convert import convert_directory
from gguf_embed.errors import ConfigError
from gguf_embed.types import FloatMatrix

N_PICTURES = 64
MIN_PICTURES = 16
PER_REQUEST = 16
N_CLIENTS = 2
"""So that the server always has the next pictures."""


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """What to measure."""

    torch_python: str  # an interpreter with torch, transformers and Pillow
    n_threads: int
    n_rounds: int = 5
    factor: float = 1.0  # of the number of pictures
    seed: str = "1"
    serve_flags: tuple[str, ...] = ()
    size: ClipSize = CLIP_B32


@dataclass(frozen=True, slots=True)
class ImageRun:
    """One contestant over the pictures of one round."""

    round: int
    contestant: str
    variant: str  # pictures in a batch or request
    n_pictures: int
    seconds: float
    cpu_s: float  # of all its threads, which says more than `seconds` on a busy machine
    min_cosine: float  # to the server's vectors


def compare_images(settings: ImageSettings, folder: Path, say: Callable[[str], None]) -> list[ImageRun]:
    """Measure the server and the loops that can run here, with the same pictures in a round; `say` names the others.

    Raises `ConfigError` without Pillow, or if no loop can run.
    """
    if find_spec("PIL") is None:
        raise ConfigError("pictures are made with Pillow: pip install 'gguf-embed[openvino]'")
    from benchmarks.pictures import make_jpegs

    say("writing a CLIP with random weights")
    source = write_clip(settings.size, folder / "clip")
    model = folder / "clip.gguf"
    convert_directory(source, model, "f16", report=lambda line: None)
    (folder / SAMPLE).write_bytes(make_jpegs(f"{settings.seed}/sample", 1)[0])
    with ExitStack() as stack:
        order = Order(OURS, str(folder), str(model), settings.n_threads, "", str(folder / "cache"))
        children = start_children(stack, order, settings.torch_python, say, tuple(IMAGE_LOOPS))
        if not children:
            raise ConfigError("no loop to compare with: give an interpreter with transformers by --torch-python")
        setup = ServerSetup(model, our_flags=settings.serve_flags, cache=folder / "cache")
        server = stack.enter_context(running(setup.contestant(OURS), folder))
        for note in server.notes():
            say(f"{OURS}: {note}")
        return _Measurement(settings, folder, server, children, make_jpegs).run(say)


@dataclass(frozen=True, slots=True)
class _Measurement:
    """The contestants, and what they embed."""

    settings: ImageSettings
    folder: Path
    server: RunningServer
    children: Sequence[Child]
    make_jpegs: Callable[[str, int], list[bytes]]

    def run(self, say: Callable[[str], None]) -> list[ImageRun]:
        """The first round warms up, and finds each loop's fastest batch."""
        n_pictures = max(MIN_PICTURES, round(N_PICTURES * self.settings.factor))
        variants = self._fastest(self.make_jpegs(f"{self.settings.seed}/tuning", MIN_PICTURES))
        runs: list[ImageRun] = []
        for round_ in range(1, self.settings.n_rounds + 1):
            jpegs = self.make_jpegs(f"{self.settings.seed}/{round_}", n_pictures)
            runs += self._run_all(round_, jpegs, variants)
            for run in runs[-1 - len(self.children) :]:
                say(f"round {round_} images {run.contestant:18} {run.n_pictures / run.seconds:8.1f} images/s")
        return runs

    def _fastest(self, jpegs: Sequence[bytes]) -> dict[str, str]:
        self._serve(jpegs)
        self._write(jpegs)
        return {
            child.name: min(child.variants, key=lambda variant: self._time(child, variant)) for child in self.children
        }

    def _run_all(self, round_: int, jpegs: Sequence[bytes], variants: dict[str, str]) -> list[ImageRun]:
        """Run A B C, B C A, …: each contestant goes first once in a while."""
        self._write(jpegs)
        ways = {OURS: f"{N_CLIENTS} clients, {PER_REQUEST}", **variants}
        contestants = [self.server, *self.children]
        turn = round_ % len(contestants)
        found: dict[str, tuple[float, float, FloatMatrix]] = {}
        for contestant in (*contestants[turn:], *contestants[:turn]):
            before_s = contestant.cpu_s()
            if isinstance(contestant, RunningServer):
                name, (seconds, vectors) = OURS, self._serve(jpegs)
            else:
                name, seconds = contestant.name, self._time(contestant, variants[contestant.name])
                vectors = np.load(self._vectors_path)
            found[name] = seconds, contestant.cpu_s() - before_s, vectors
        ours = found[OURS][2]
        return [
            ImageRun(round_, name, way, len(jpegs), *found[name][:2], min_cosine(ours, found[name][2]))
            for name, way in ways.items()
        ]

    def _serve(self, jpegs: Sequence[bytes]) -> tuple[float, FloatMatrix]:
        """Seconds and unit vectors, over HTTP."""
        groups = [jpegs[start : start + PER_REQUEST] for start in range(0, len(jpegs), PER_REQUEST)]
        load = run_load(
            self.server.port, [frame_request(EMBED.path, encode_images(group)) for group in groups], N_CLIENTS
        )
        return load.wall_s, read_replies(load.replies, list(map(len, groups))).vectors

    def _write(self, jpegs: Sequence[bytes]) -> None:
        """The files that the loops read, and the list of them."""
        paths = [self.folder / f"{number}.jpg" for number in range(len(jpegs))]
        for path, jpeg in zip(paths, jpegs, strict=True):
            path.write_bytes(jpeg)
        self._list_path.write_text(json.dumps(list(map(str, paths))))

    def _time(self, child: Child, variant: str) -> float:
        return child.run(self._list_path, variant, self._vectors_path)

    @property
    def _list_path(self) -> Path:
        return self.folder / "pictures.json"

    @property
    def _vectors_path(self) -> Path:
        return self.folder / "vectors.npy"


def encode_images(jpegs: Sequence[bytes]) -> bytes:
    """The body of one request."""
    inputs = [{"image": base64.b64encode(jpeg).decode()} for jpeg in jpegs]
    return json.dumps({"input": inputs, "encoding_format": "base64"}).encode()


def render_images(runs: Sequence[ImageRun], n_threads: int) -> str:
    """A table of medians over the rounds; ratios are of runs of the same round."""
    ours = [run for run in runs if run.contestant == OURS]
    lines = []
    for name in dict.fromkeys(run.contestant for run in runs):
        theirs = [run for run in runs if run.contestant == name]
        ratio = spread([their.seconds / our.seconds for our, their in zip(ours, theirs, strict=True)])
        lines.append(
            [
                name,
                theirs[0].variant,
                f"{median(run.n_pictures / run.seconds for run in theirs):,.1f}",
                f"{ratio.median:.2f}x",
                f"{ratio.low:.2f}..{ratio.high:.2f}",
                f"{median(run.cpu_s / run.n_pictures for run in theirs) * 1e3:,.0f}",
                f"{min(run.min_cosine for run in theirs):.6f}",
            ]
        )
    header = ["images", "batch", "images/s", f"{OURS} is", "min..max", "CPU ms/image", "worst cosine"]
    title = f"JPEG files to unit vectors, {n_threads} threads, {len(ours)} rounds; {OURS} over HTTP, as base64:"
    return f"{title}\n\n{table(header, lines)}"
