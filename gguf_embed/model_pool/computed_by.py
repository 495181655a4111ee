"""What computes a model: engine, precision, kernels and workers. Kept when it is loaded, so that `show` can say it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gguf_embed.engines.base import ExecutionPlan
from gguf_embed.engines.records import MeasurementRecords, record_key
from gguf_embed.engines.select import engine_title
from gguf_embed.types import ModelInfo


@dataclass(frozen=True, slots=True)
class ComputedBy:
    """As chosen for one load, with its flags."""

    engine: str  # by its name
    precision: str  # the type of the weights that run, e.g. "BF16"
    kernels: str  # what multiplies the matrices
    workers: int  # batches computed at once

    @classmethod
    def of(cls, info: ModelInfo, plan: ExecutionPlan) -> ComputedBy:
        return cls(info.engine, info.weights_type, plan.kernels, plan.n_workers)

    def __str__(self) -> str:
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        return f"{engine_title(self.engine)}, {self.precision} ({self.kernels} kernels), {workers}"


def note_load(path: Path, cache_dir: Path, computed_by: ComputedBy) -> None:
    """Keep it as the last load of the file. A file that is gone, or a cache that cannot be written, is passed over."""
    records = MeasurementRecords(cache_dir)
    with suppress(OSError):
        key, record = _key(path), asdict(computed_by)
        if records.read(key) != record:
            records.write(key, record)


def last_load(path: Path, cache_dir: Path) -> ComputedBy | None:
    """The last load of the file on this machine; None if there was none since the file or a version has changed."""
    match MeasurementRecords(cache_dir).read(_key(path)):
        case {"engine": str(engine), "precision": str(precision), "kernels": str(kernels), "workers": int(workers)}:
            return ComputedBy(engine, precision, kernels, workers)
        case _:
            return None


def _key(path: Path) -> str:
    return record_key(path, "last load")
