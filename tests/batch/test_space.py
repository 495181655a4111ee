"""No owner takes all the space and files of the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gguf_embed.batch.batches import Batches
from gguf_embed.batch.errors import StorageFull
from gguf_embed.batch.space import owner_share
from tests.batch.world import LIMITS, World, create, ended, entries, lines, upload


def test_the_share_of_an_owner():
    assert owner_share(1000, is_shared=False, others=0) == 1000
    assert owner_share(1000, is_shared=True, others=0) == 875
    assert owner_share(1000, is_shared=True, others=1) == owner_share(1000, is_shared=False, others=1) == 500


def test_one_of_several_owners_has_half_of_the_bytes_at_most(tmp_path):
    world = World(tmp_path, limits=replace(LIMITS, max_total_bytes=100_000))

    async def scenario(batches: Batches) -> None:
        mine = await upload(batches, b"x" * 60_000, "a")
        await upload(batches, b"x", "b")
        for _ in range(2):
            with pytest.raises(
                StorageFull, match=r"of the 100,000 for all keys it may have 50,000 at present"
            ) as caught:
                await upload(batches, b"x", "a")
            assert "--batch-max-bytes" in caught.value.message
        await upload(batches, b"x" * 20_000, "b")
        await batches.delete_file("a", mine)
        await upload(batches, b"x" * 40_000, "a")

    async def after_a_restart(batches: Batches) -> None:
        with pytest.raises(StorageFull, match="50,000"):
            await upload(batches, b"x" * 6_000, "a")
        await upload(batches, b"x" * 1_000, "a")

    world.life(scenario)
    world.life(after_a_restart)


def test_one_of_several_owners_has_half_of_the_files_at_most(tmp_path):
    async def scenario(batches: Batches) -> None:
        await upload(batches, b"x", "b")
        mine = [await upload(batches, b"x", "a") for _ in range(2)]
        with pytest.raises(StorageFull, match="this key may have 2 files at present, of the 4 for all keys"):
            await batches.begin_upload("a")
        await batches.delete_file("a", mine[0])
        await upload(batches, b"x", "a")
        await upload(batches, b"x", "b")

    World(tmp_path, limits=replace(LIMITS, max_files=4)).life(scenario)


def test_with_several_keys_the_first_owner_leaves_some_to_the_others(tmp_path):
    async def scenario(batches: Batches) -> None:
        with pytest.raises(StorageFull, match="87,500"):
            await upload(batches, b"x" * 90_000, "a")
        await upload(batches, b"x" * 80_000, "a")
        await upload(batches, b"x" * 5_000, "b")

    World(tmp_path, limits=replace(LIMITS, max_total_bytes=100_000, is_shared=True)).life(scenario)


def test_the_output_of_a_batch_counts_for_its_owner(tmp_path):
    world = World(tmp_path, limits=replace(LIMITS, max_total_bytes=100_000))

    async def scenario(batches: Batches) -> None:
        await upload(batches, b"x", "b")
        over = await ended(batches, (await create(batches, await upload(batches, lines(50), "a"), "a")).id, "a")
        n_lines = len(await entries(batches, over.output_file_id, "a"))
        assert n_lines == 50
        record, (output,) = 4096, [f for f in await batches.files("a") if f.id == over.output_file_id]
        left = 50_000 - 3 * record - len(lines(50)) - output.n_bytes
        with pytest.raises(StorageFull, match="50,000"):
            await upload(batches, b"x" * (left - record + 1), "a")
        await upload(batches, b"x" * (left - record), "a")

    world.life(scenario)
    world.life(scenario_after_restart)


async def scenario_after_restart(batches: Batches) -> None:
    with pytest.raises(StorageFull, match="50,000"):
        await upload(batches, b"", "a")
