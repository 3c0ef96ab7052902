"""Scans by a Dask cluster: the maps are those of one process, whatever happens to the workers."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import dask
import maps
import numpy as np
import pytest
import slides
from click.testing import Result
from commands import ran, refused, run
from distributed import LocalCluster
from maps import TORCH
from waiting import wait_until

from slidescan.geometry import Grid
from slidescan.maps.store import Heatmap
from slidescan.scanning.cluster import connection, scanner, tasks, worker
from slidescan.scanning.cluster.slots import Slots
from slidescan.scanning.cluster.tasks import groups
from slidescan.scanning.filling import Scan
from slidescan.scanning.tiling import Tiling

posix = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")

STARTING_S = 300.0
"""Processes import much, and other tests may keep the processors busy."""

COUNT = 3
"""Slides of the archive: a large one among small ones."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for number, side in enumerate((300, 1500, 300)):
        pixels = slides.section(side, side + 20, number)
        slides.write_slide(folder / f"s{number}.tif", pixels, mpp=0.972)
    return folder


@pytest.fixture
def threads_cluster() -> Iterator[str]:
    """The address of a scheduler whose two workers are threads of this process."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1",
        dashboard_address=None,
    ) as cluster:  # fmt: skip
        yield cluster.scheduler_address


@contextmanager
def dask_process(*arguments: str, file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A scheduler or a worker as a user starts them; they meet by a file."""
    command = [sys.executable, "-m", "dask", *arguments, "--scheduler-file", str(file)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet) as process:
        try:
            assert wait_until(file.exists, STARTING_S)
            yield process
        finally:
            process.kill()


def scheduler_process(file: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    how = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    return dask_process("scheduler", *how, file=file)


def worker_process(file: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    how = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
    return dask_process("worker", *how, file=file)


class Running:
    """A command in a thread."""

    def __init__(self, *arguments: object) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._future = self._pool.submit(run, *arguments)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def result(self) -> Result:
        return self._future.result(STARTING_S)


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "manifest.csv").open(newline="") as file:
        return {row["map"]: row for row in csv.DictReader(file)}


def equal(out: Path, alone: Path) -> None:
    """All maps are done and have the same bytes; the manifests say the same; nothing is left."""
    assert sorted(path.name for path in out.iterdir()) == sorted(p.name for p in alone.iterdir())
    for name, row in rows(alone).items():
        assert maps.contents(out / name) == maps.contents(alone / name)
        kept = {key: value for key, value in row.items() if key not in ("seconds", "finished")}
        assert rows(out)[name] | kept == rows(out)[name]


def test_a_slide_by_a_cluster_equals_one_process(
    archive: Path, tiny_model: Path, tmp_path: Path, threads_cluster: str, small_blocks: None
) -> None:
    command = ("heatmap", archive / "s0.tif", "--model", tiny_model, *TORCH)
    ran(*command, "--out", tmp_path / "alone.zarr")
    ran(*command, "--scheduler", threads_cluster, "--out", tmp_path / "out.zarr")
    assert maps.contents(tmp_path / "out.zarr") == maps.contents(tmp_path / "alone.zarr")


@pytest.mark.slow
def test_a_batch_by_a_cluster_equals_one_process(
    archive: Path, tiny_model: Path, tmp_path: Path, threads_cluster: str, small_blocks: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(tasks, "TASK_PX", 2**17)
    command = ("heatmap", archive, "--model", tiny_model, *TORCH)
    ran(*command, "--out", tmp_path / "alone")
    by_cluster = (*command, "--scheduler", threads_cluster, "--out", tmp_path / "out")
    result = ran(*by_cluster)
    assert result.stdout.count(" cells, ") == COUNT
    equal(tmp_path / "out", tmp_path / "alone")
    assert ran(*by_cluster).stdout == "3 maps are complete already, nothing to do\n"
    assert not worker._PROCESS.opened


def test_what_is_wrong_with_a_scheduler_is_one_line(
    archive: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_S", 0.1)
    command = ("heatmap", archive, "--model", tiny_model, "--out", tmp_path / "maps", "--scheduler")
    refused(run(*command, "tcp://127.0.0.1:9"), "tcp://127.0.0.1:9", "no scheduler answers")
    refused(run(*command, tmp_path / "none.json"), "none.json", "not a scheduler file")
    (tmp_path / "bad.json").write_text('{"address": 1}')
    refused(run(*command, tmp_path / "bad.json"), "address is 1")
    for more in (("--dry-run",), ("--jobs", "2")):
        assert run(*command, "tcp://127.0.0.1:9", *more).exit_code == 2
    monkeypatch.setitem(sys.modules, "distributed", None)
    refused(run(*command, "local"), "--scheduler needs Dask", "pip install")


AGREED = {"versions": {"zarr": "3", "torch": "2+cpu"}, "engine": "torch", "device": "cpu"}


class Workers:
    """Stands for a cluster: what its workers say of themselves."""

    def __init__(self, *said: object) -> None:
        self.said = said

    def on_all(self, *_: object) -> dict[str, object]:
        return {f"tcp://w{i}": each for i, each in enumerate(self.said)}


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ("no such model file /m.safetensors", "tcp://w1: no such model file /m.safetensors"),
        (AGREED | {"device": "cuda"}, "tcp://w1 would scan with device cuda instead of cpu"),
        (AGREED | {"versions": {"zarr": "2", "torch": "2+cpu"}}, "tcp://w1 has zarr 2, not 3;"),
    ],
)
def test_workers_that_cannot_take_part_are_named(
    second: object, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanner, "versions", lambda: {"zarr": "3", "torch": "2+cu126"})
    agree = (scanner.Options(), "slidescan", tmp_path)
    assert scanner.agree(Workers(AGREED, AGREED), *agree) == AGREED
    with pytest.raises(scanner.ClusterError, match=words):
        scanner.agree(Workers(AGREED, second), *agree)


def test_the_maps_must_be_where_workers_see_them(tmp_path: Path) -> None:
    said = worker.introduce(scanner.Options(), "slidescan", str(tmp_path / "elsewhere"), None)
    assert "elsewhere" in str(said)
    assert "file system" in str(said)


def test_slots_go_round_and_never_exceed_their_number() -> None:
    slots, order, most = Slots(0), [], 0

    def slide(name: str, tasks: int) -> None:
        nonlocal most
        for _ in range(tasks):
            slots.take(lambda: None)
            order.append(name)
            most = max(most, slots.used)
            slots.give()

    threads = [threading.Thread(target=slide, args=job) for job in (("large", 300), ("small", 3))]
    threads[0].start()
    assert wait_until(lambda: len(slots._waiting) == 1)
    threads[1].start()
    assert wait_until(lambda: len(slots._waiting) == 2)
    slots.resize(1)
    for thread in threads:
        thread.join()
    assert (len(order), most, slots.used) == (303, 1, 0)
    assert order.index("small") == 1
    assert max(i for i, name in enumerate(order) if name == "small") < 20


def test_who_stops_waiting_for_a_slot_takes_none() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    slots = Slots(0)
    with pytest.raises(KeyboardInterrupt):
        slots.take(stop)
    slots.resize(1)
    slots.take(stop)
    assert (slots.used, len(slots._waiting)) == (1, 0)


def test_groups_hold_every_block_once_and_no_more_than_a_task() -> None:
    tiling = Tiling(8, by_patch=False)
    grid = Grid((40_000, 30_000), 8)
    mask = np.random.default_rng(0).random(grid.shape) < 1e-4
    work = list(tiling.work(grid.cells.split(256), mask))

    class Masked:
        pass

    Masked.mask = mask  # type: ignore[attr-defined]
    scan = Scan(None, Masked(), tiling)  # type: ignore[arg-type]
    found = list(groups(scan, work))
    assert [block for group in found for block in group.blocks] == [item.block for item in work]
    assert sum(group.pixels for group in found) == tiling.pixels(work, mask)
    assert 1 < len(found) < len(work)
    assert max(group.pixels for group in found) <= tasks.TASK_PX


def test_a_map_that_another_scan_has_replaced_is_not_written(
    archive: Path, tiny_model: Path, tmp_path: Path, small_blocks: None
) -> None:
    out = tmp_path / "map.zarr"
    command = ("heatmap", archive / "s0.tif", "--model", tiny_model, *TORCH, "--out", out)
    ran(*command)
    late = Heatmap.open(out)
    record = json.loads((out / "zarr.json").read_text())
    record["attributes"]["slidescan"]["complete"] = False
    (out / "zarr.json").write_text(json.dumps(record))
    joined = Heatmap.join(out, late.provenance["started"])
    block = next(joined.blocks())
    joined.write(block, late.read(block))
    before = maps.contents(out)
    record["attributes"]["slidescan"]["provenance"]["started"] = "later"
    (out / "zarr.json").write_text(json.dumps(record))
    with pytest.raises(worker.MapError, match="another scan has taken its place"):
        joined.write(block, late.read(block))
    assert maps.contents(out) == before


@pytest.fixture
def small_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Worker processes that write small blocks, and a file of those that were written."""
    folder = tmp_path / "written"
    folder.mkdir()
    (folder / "blocks.txt").touch()
    monkeypatch.setenv("SLIDESCAN_TEST_BLOCKS", str(folder))
    preload = Path(__file__).parents[1] / "support" / "cluster_worker.py"
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", f"['{preload}']")
    with dask.config.set({"distributed.worker.preload": [str(preload)]}):
        yield folder


def written(folder: Path) -> list[tuple[str, str]]:
    """(process, block) in the order in which blocks were written."""
    lines = (folder / "blocks.txt").read_text().splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


@pytest.fixture
def alone(archive: Path, tiny_model: Path, tmp_path: Path, small_blocks: None) -> Path:
    ran("heatmap", archive, "--model", tiny_model, *TORCH, "--out", tmp_path / "alone")
    return tmp_path / "alone"


@posix
@pytest.mark.slow
def test_killed_workers_lose_their_block_alone(
    archive: Path, alone: Path, tiny_model: Path, tmp_path: Path, small_tasks: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SLIDESCAN_TEST_KILLS", "3")
    out = tmp_path / "out"
    command = ("heatmap", archive, "--model", tiny_model, *TORCH, "--out", out)
    result = ran(*command, "--scheduler", "local", "--jobs", "2")
    assert result.stdout.count(" cells, ") == COUNT
    equal(out, alone)
    assert len(list(small_tasks.glob("kill-*"))) == 3
    found = written(small_tasks)
    assert len({process for process, _ in found}) == 5
    blocks = [block for _, block in found]
    assert len(blocks) == len(set(blocks))  # what was on the disk was not scanned again


@posix
@pytest.mark.slow
def test_workers_that_join_are_used_and_the_scheduler_may_end(
    archive: Path, alone: Path, tiny_model: Path, tmp_path: Path, small_tasks: Path
) -> None:
    out, address = tmp_path / "out", tmp_path / "scheduler.json"
    command = ("heatmap", archive, "--model", tiny_model, *TORCH, "--out", out)
    by_cluster = (*command, "--scheduler", address)
    hold = small_tasks / "hold"
    hold.touch()
    with (
        scheduler_process(address) as first,
        worker_process(address),
        Running(*by_cluster) as running,
    ):
        assert wait_until(lambda: written(small_tasks), STARTING_S)
        with worker_process(address) as second:
            assert wait_until(lambda: len(list(small_tasks.glob("*.worker"))) == 2, STARTING_S)
            hold.unlink()
            assert wait_until(lambda: len(dict(written(small_tasks))) == 2, STARTING_S)
            hold.touch()
            second.terminate()  # dask retires a worker at SIGTERM
        first.kill()
        result = running.result()
    hold.unlink()
    assert result.exit_code == 1
    said = result.stderr.splitlines()[-1]  # before it there may be one that no worker is there yet
    assert said.startswith("Error: ")
    assert "the scheduler has gone away" in said
    assert "the same command resumes" in said
    count = len(written(small_tasks))
    address.unlink()
    with scheduler_process(address), worker_process(address):
        ran(*by_cluster)
    equal(out, alone)
    blocks = [block for _, block in written(small_tasks)]
    assert count < len(blocks)
    assert len(blocks) == len(set(blocks))


@posix
@pytest.mark.slow
def test_a_worker_that_retires_leaves_its_tasks_to_the_others(
    archive: Path, alone: Path, tiny_model: Path, tmp_path: Path, small_tasks: Path
) -> None:
    out, address = tmp_path / "out", tmp_path / "scheduler.json"
    command = ("heatmap", archive, "--model", tiny_model, *TORCH, "--out", out)
    hold = small_tasks / "hold"
    hold.touch()
    with (
        scheduler_process(address),
        worker_process(address),
        worker_process(address) as second,
        Running(*command, "--scheduler", address) as running,
    ):
        assert wait_until(lambda: len(dict(written(small_tasks))) == 2, STARTING_S)
        second.terminate()
        hold.unlink()
        second.wait(STARTING_S)
        result = running.result()
    assert result.exit_code == 0, result.stderr
    equal(out, alone)
    by_second = sum(process == str(second.pid) for process, _ in written(small_tasks))
    assert 1 <= by_second < len(written(small_tasks)) / 2
