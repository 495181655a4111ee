"""Loads a model in an engine's process, and says how the process has ended if that ends it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from gguf_embed.engines.isolated import frames
from gguf_embed.engines.isolated.messages import Loaded, LoadJob, Said
from gguf_embed.engines.isolated.process import REAPED_S, EngineProcess, Lane
from gguf_embed.engines.reasons import report_once
from gguf_embed.errors import ModelFileError, WayOut

WAYS_OUT = (WayOut.EXAMINE_FILE, WayOut.OTHER_FILE)


@dataclass(slots=True)
class Listener:
    """Hears what the process says before it answers."""

    report: Callable[[str], None]  # gets lines for the operator
    on_stage: Callable[[str], None]
    stage: str = "starting"

    def hear(self, said: Said) -> None:
        if said.kind == "stage":
            self.stage = said.text
            self.on_stage(said.text)
        else:
            report_once(self.report, said.text, said.reason)


def load(process: EngineProcess, job: LoadJob, limit_s: float, listener: Listener) -> tuple[Loaded, Lane]:
    """What was loaded, and the lane that was used. `limit_s`: how long a stage may take.

    Raises the driver's error, or `ModelFileError` if the file ends or hangs the process. The process may run then.
    """
    with ExitStack() as stack:
        try:
            lane = process.open_lane()
            stack.callback(lane.close)
            lane.send(job, limit_s)
            while isinstance(answer := lane.receive(), Said):
                listener.hear(answer)
        except TimeoutError:
            process.stop(f"took over {limit_s:.0f} s while {listener.stage}")
            raise ModelFileError(f"{job.path}: its engine {process.stopped}", WAYS_OUT) from None
        except frames.Closed:
            raise ModelFileError(f"{job.path}: {_how_it_ended(process)} while {listener.stage}", WAYS_OUT) from None
        stack.pop_all()
    assert isinstance(answer, Loaded)
    return answer, lane


def _how_it_ended(process: EngineProcess) -> str:
    process.close(REAPED_S)  # usually it has ended already
    process.wait()
    last = process.last_words()
    return f"its engine's process was {process.how_it_ended()}" + (f", its last line {last!r}," if last else "")
