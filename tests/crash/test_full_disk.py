"""A full disk: nothing is promised that cannot be kept, the program lives, and goes on by itself when there is room."""

import asyncio
import resource
import subprocess

import httpx
import pytest

from tests.crash.conftest import until
from tests.crash.launched import check_integrity, copy_data, kept_ids

pytestmark = [pytest.mark.crash, pytest.mark.slow]

DISK_MIB = 48


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few megabytes; mounting one needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=700", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"A file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


class Filler:
    """Takes all the room there is, and gives it back."""

    def __init__(self, folder):
        self._path = folder / "filler"

    def fill(self):
        with self._path.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError:
                    continue

    def give_back(self):
        self._path.unlink()


class Throttle:
    """Lets no file of the program grow or be written behind a few bytes: a full disk for those who are not root."""

    def __init__(self, pid):
        self._pid = pid
        self._before = resource.prlimit(pid, resource.RLIMIT_FSIZE)

    def fill(self):
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (512, self._before[1]))

    def give_back(self):
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, self._before)


async def test_a_file_system_that_runs_full_refuses_and_recovers(open_scene, small_disk, tmp_path):
    scene = await open_scene(small_disk / "data")
    await _fill_and_free(scene, Filler(small_disk), tmp_path)


async def test_files_that_may_not_grow_refuse_and_recover(open_scene, tmp_path):
    scene = await open_scene(tmp_path / "data")
    await _fill_and_free(scene, Throttle(scene.appliance.pid), tmp_path)


async def _fill_and_free(scene, disk, tmp_path):
    appliance, book = scene.appliance, scene.book
    pid = appliance.pid
    async with httpx.AsyncClient(base_url=appliance.base_url, timeout=10) as client:
        assert (await client.get("/health/ready")).status_code == 200
        await until(lambda: len(book.accepted) > 20, 20)
        for _ in range(2):
            await _check_one_round(scene, client, disk)
    await scene.calm_down()
    scene.check()
    assert set(book.refused) <= {503, 507}
    assert appliance.is_alive() and appliance.pid == pid
    await asyncio.to_thread(appliance.kill)
    database = copy_data(appliance.data_dir, tmp_path / "copy")
    check_integrity(database)
    assert set(book.accepted.values()) <= kept_ids(database)


async def _check_one_round(scene, client, disk):
    appliance, book = scene.appliance, scene.book
    disk.fill()
    await _until_nothing_fits(book)
    accepted = len(book.accepted)
    ready = await client.get("/health/ready")
    assert ready.status_code == 503, ready.text
    assert (await client.get("/health")).status_code == 200
    refusal = await _send(scene, client, "while it is full")
    assert refusal.status_code in (503, 507)
    assert refusal.headers["content-type"].startswith("application/problem+json")
    assert int(refusal.headers["retry-after"]) >= 1
    assert len(book.accepted) == accepted
    assert appliance.is_alive()
    disk.give_back()
    await until(lambda: len(book.accepted) > accepted + 20, 20)
    ready = await client.get("/health/ready")
    assert ready.status_code == 200, ready.text


async def _until_nothing_fits(book):
    """Wait for a hundred refusals in a row. What failed to fit leaves a bit of room, which smaller sends use up."""

    def refusals():
        return sum(book.refused.values())

    async with asyncio.timeout(30):
        while True:
            accepted, refused = len(book.accepted), refusals()
            await until(lambda: refusals() >= refused + 100, 30)  # noqa: B023 - awaited before the next turn
            if len(book.accepted) == accepted:
                return


async def _send(scene, client, title):
    body = {"user_id": scene.devices[0].user_id, "title": title, "body": "B" * 4_000}
    return await client.post("/push/send", json=body, headers=scene.app.headers)
