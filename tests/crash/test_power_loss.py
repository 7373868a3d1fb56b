"""Power loss: what the disk holds at any moment can be opened, and holds everything that had its 202 by then.

The files are copied while the server writes. What a disk may lose of them is what was not synced yet, so the copies
are cut off, or overwritten with noise, anywhere behind the last commit that a 202 spoke of.
"""

import asyncio
import random
import shutil
import struct

import pytest

from appliance.storage.database import DATABASE_FILE
from tests.crash.launched import check_integrity, kept_ids

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SNAPSHOTS = 6
CUTS = 5
SECTOR = 4096
_WAL_HEADER = 32
_FRAME_HEADER = 24


async def test_every_202_survives_a_power_loss_at_any_byte(scene, tmp_path):
    chance = random.Random(20260302)
    data = scene.appliance.data_dir
    for number in range(SNAPSHOTS):
        await asyncio.sleep(chance.uniform(0.2, 0.6))
        promised = set(scene.book.accepted.values())
        early = await asyncio.to_thread(_snapshot, data, tmp_path / f"early-{number}")
        await asyncio.sleep(chance.uniform(0.05, 0.2))
        late = await asyncio.to_thread(_snapshot, data, tmp_path / f"late-{number}")
        await asyncio.to_thread(_check_cuts, early, late, promised, chance)
    assert len(promised) > 50
    await scene.calm_down()
    scene.check()


def _snapshot(data, target):
    """Copy database and WAL of one checkpoint's time; a copy that a checkpoint ran through is no state of a disk."""
    while True:
        target.mkdir()
        before = _generation(data)
        for suffix in ("", "-wal"):
            shutil.copyfile(data / (DATABASE_FILE + suffix), target / (DATABASE_FILE + suffix))
        if before == _generation(data) == _generation(target, stat_of=data):
            return target
        shutil.rmtree(target)


def _generation(data, stat_of=None):
    with (data / f"{DATABASE_FILE}-wal").open("rb") as wal:
        header = wal.read(_WAL_HEADER)
    return header, ((stat_of or data) / DATABASE_FILE).stat().st_mtime_ns


def _check_cuts(early, late, promised, chance):
    safe = _end_of_last_commit(early)
    assert promised <= _ids_of(early, early.with_name(early.name + "-opened"))
    if _generation(early)[0] != _generation(late)[0]:
        # A checkpoint came between the two: each stands for itself then.
        assert promised <= _ids_of(late, late.with_name(late.name + "-opened"))
        return
    size = (late / f"{DATABASE_FILE}-wal").stat().st_size
    for number in range(CUTS):
        place = chance.randint(safe, size)
        damage = (_cut_off, _overwrite)[number % 2]
        assert promised <= _ids_of(late, late.with_name(f"{late.name}-{number}"), damage, place, chance)


def _ids_of(snapshot, target, damage=None, place=0, chance=None):
    shutil.copytree(snapshot, target)
    if damage is not None:
        damage(target / f"{DATABASE_FILE}-wal", place, chance)
    check_integrity(target / DATABASE_FILE)
    return kept_ids(target / DATABASE_FILE)


def _cut_off(wal, place, chance):
    with wal.open("r+b") as file:
        file.truncate(place)


def _overwrite(wal, place, chance):
    with wal.open("r+b") as file:
        file.seek(place)
        file.write(chance.randbytes(SECTOR))


def _end_of_last_commit(snapshot):
    """Read the WAL as https://sqlite.org/fileformat2.html#walformat says, up to the last frame that ends a commit."""
    wal = (snapshot / f"{DATABASE_FILE}-wal").read_bytes()
    page_size, salts = struct.unpack_from(">I", wal, 8)[0], wal[16:24]
    end, place = _WAL_HEADER, _WAL_HEADER
    while place + _FRAME_HEADER + page_size <= len(wal) and wal[place + 8 : place + 16] == salts:
        is_commit = struct.unpack_from(">I", wal, place + 4)[0] != 0
        place += _FRAME_HEADER + page_size
        if is_commit:
            end = place
    return end
