"""Downloads: all watchers of a model share one, get its progress, and it stops with the last of them."""

import asyncio
import threading

import pytest

from gguf_embed.errors import InvalidRequest, ModelFileError, ModelNotFound, PermissionDenied, PullFailed
from gguf_embed.model_store.hub_errors import HubDenied, NotOnHub
from gguf_embed.service.pulls import Pulls
from gguf_embed.types import PullProgress


class FakeDownload:
    """Gives two steps; waits for its gate between them."""

    def __init__(self, error=None):
        self.gate = threading.Event()
        self.error = error
        self.started = []
        self.ended = threading.Event()

    def __call__(self, name, progress):
        self.started.append(name)
        try:
            progress(PullProgress("pulling manifest"))
            assert self.gate.wait(10)
            if self.error:
                raise self.error
            progress(PullProgress("success"))
        finally:
            self.ended.set()


async def collect(pulls, name, steps, began):
    async for step in pulls.watch(name):
        steps.append(step.status)
        began.set()
    return steps


async def first_step(pulls, name):
    steps, began = [], asyncio.Event()
    task = asyncio.create_task(collect(pulls, name, steps, began))
    await asyncio.wait_for(began.wait(), 10)
    return task, list(steps)


def test_two_who_ask_for_one_model_share_its_download():
    async def main():
        download = FakeDownload()
        pulls = Pulls(download)
        first, _ = await first_step(pulls, "m")
        second, steps = await first_step(pulls, "m")
        assert steps == ["pulling manifest"]  # the late one is told where it stands
        download.gate.set()
        assert await first == await second == ["pulling manifest", "success"]
        assert download.started == ["m"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (NotOnHub("org/repo is not on the hub"), ModelNotFound, "not on the hub"),
        (HubDenied("org/repo is gated"), PermissionDenied, "is gated"),
        (ModelFileError("the disk is full"), PullFailed, "disk is full"),
        (InvalidRequest("no such name"), InvalidRequest, "no such name"),
        (RuntimeError("secret path"), PullFailed, "server's log"),
    ],
)
def test_all_watchers_get_the_error_of_a_failed_download(raised, kind, message):
    async def main():
        download = FakeDownload(raised)
        pulls = Pulls(download)
        first, _ = await first_step(pulls, "m")
        second, _ = await first_step(pulls, "m")
        download.gate.set()
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [kind, kind]
        assert message in outcomes[0].message
        assert "secret" not in outcomes[0].message

    asyncio.run(main())


def test_a_download_without_watchers_stops_and_can_be_started_again():
    async def main():
        download = FakeDownload()
        pulls = Pulls(download)
        watching, _ = await first_step(pulls, "m")
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        again = FakeDownload()
        pulls._pull_model = again
        second, _ = await first_step(pulls, "m")  # does not join the one that is stopping
        download.gate.set()
        again.gate.set()
        assert await second == ["pulling manifest", "success"]
        assert await asyncio.to_thread(download.ended.wait, 10)

    asyncio.run(main())


def test_one_who_leaves_does_not_stop_it_for_the_other():
    async def main():
        download = FakeDownload()
        pulls = Pulls(download)
        unloading, _ = await first_step(pulls, "m")
        staying, _ = await first_step(pulls, "m")
        unloading.cancel()
        await asyncio.gather(unloading, return_exceptions=True)
        download.gate.set()
        assert await staying == ["pulling manifest", "success"]

    asyncio.run(main())
