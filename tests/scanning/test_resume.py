"""Scans that are killed and resumed end in the same bytes as a scan that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import maps
import processes
import pytest
from processes import Strike

from slidescan.maps.store import Heatmap

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")

BLOCKS = 9  # with a selected cell, of 12


@dataclass(frozen=True)
class Scan:
    """One command line, in a folder of its own."""

    slide: Path
    model: Path
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "map.zarr"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def arguments(self) -> tuple[str, ...]:
        paths = (str(self.slide), "--out", str(self.out), "--model", str(self.model))
        return ("heatmap", *paths, "--engine", "torch", "--threads", "1")

    def run(self, strike: Strike | None = None) -> int:
        return processes.slidescan(*self.arguments, log=self.log, strike=strike)

    def contents(self) -> dict[str, bytes]:
        assert Heatmap.open(self.out).complete
        return maps.contents(self.out)

    def blocks_done(self) -> int:
        heatmap = Heatmap.open(self.out)
        side = processes.BLOCK_CELLS
        blocks = [b for b in heatmap.grid.cells.split(side) if heatmap.mask[b.slices].any()]
        assert len(blocks) == BLOCKS
        return sum(heatmap.done(block) for block in blocks)


@pytest.fixture
def scan(section: Path, tiny_model: Path, tmp_path: Path) -> Scan:
    return Scan(section, tiny_model, tmp_path)


@pytest.fixture(scope="module")
def uninterrupted(
    section: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    scan = Scan(section, tiny_model, tmp_path_factory.mktemp("uninterrupted"))
    assert scan.run() == 0, scan.log.read_text()
    assert scan.blocks_done() == BLOCKS
    return scan.contents()


WRITE, PUT = "slidescan.maps.store:Heatmap.write", "slidescan.maps.store:Heatmap._put"
LAY = "slidescan.maps.creation:lay"


@pytest.mark.parametrize(
    ("strike", "done"),
    [
        pytest.param(Strike("slidescan.slides.tissue:tissue_mask"), None, id="finding-tissue"),
        pytest.param(Strike(LAY), None, id="before-the-map"),
        pytest.param(Strike(LAY, after=True), None, id="map-not-in-place"),
        pytest.param(Strike("slidescan.engines.build:load_engine"), 0, id="no-block"),
        pytest.param(Strike(WRITE, 1, after=True), 1, id="first-block"),
        pytest.param(Strike(WRITE, 5), 4, id="middle"),
        pytest.param(Strike(WRITE, BLOCKS, after=True), BLOCKS, id="all-blocks"),
        pytest.param(Strike(PUT, BLOCKS + 2), BLOCKS, id="coarser-levels"),
        pytest.param(Strike("slidescan.maps.store:Heatmap._mark"), BLOCKS, id="before-the-mark"),
    ],
)
def test_killed_and_resumed_is_uninterrupted(
    strike: Strike, done: int | None, scan: Scan, uninterrupted: dict[str, bytes]
) -> None:
    assert scan.run(strike) == -signal.SIGKILL
    if done is None:
        assert not scan.out.exists()
    else:
        assert not Heatmap.open(scan.out).complete
        assert scan.blocks_done() == done
    assert scan.run() == 0, scan.log.read_text()
    if done:
        assert f"resuming, {done} of {BLOCKS} blocks are finished" in scan.log.read_text()
    assert scan.contents() == uninterrupted
    assert sorted(p.name for p in scan.folder.iterdir()) == ["log", "map.zarr"]


def test_killed_twice(scan: Scan, uninterrupted: dict[str, bytes]) -> None:
    assert scan.run(Strike(WRITE, 3)) == -signal.SIGKILL
    # Between the shard's data and its bookkeeping.
    assert scan.run(Strike("slidescan.maps.shards:sync", 2)) == -signal.SIGKILL
    assert 2 <= scan.blocks_done() <= 4
    assert scan.run() == 0, scan.log.read_text()
    assert scan.contents() == uninterrupted


def test_a_second_scan_finds_the_map_complete(scan: Scan) -> None:
    assert scan.run() == 0
    before = {file: file.stat().st_mtime_ns for file in scan.out.rglob("*")}
    assert scan.run() == 0
    assert scan.log.read_text() == f"{scan.out}: complete already, nothing to do\n"
    assert {file: file.stat().st_mtime_ns for file in scan.out.rglob("*")} == before


@pytest.mark.parametrize("target", ["slidescan.slides.tissue:tissue_mask", WRITE])
def test_ctrl_c_is_one_line(target: str, scan: Scan, uninterrupted: dict[str, bytes]) -> None:
    assert scan.run(Strike(target, 1 + 2 * (target == WRITE), signal=signal.SIGINT)) == 1
    (line,) = scan.log.read_text().splitlines()
    assert line.startswith("Error: interrupted")
    if target == WRITE:
        assert not Heatmap.open(scan.out).complete
        assert scan.blocks_done() >= 3  # also the one that was being written
    assert scan.run() == 0
    assert scan.contents() == uninterrupted


def test_killed_at_any_time(scan: Scan, uninterrupted: dict[str, bytes]) -> None:
    """By the clock, in a process that nothing is done to but the size of blocks."""
    code = (
        "import sys; from slidescan import cli; from slidescan.maps import layout, ngff; "
        f"layout.BLOCK_CELLS = ngff.LEVEL_CELLS = {processes.BLOCK_CELLS}; "
        f"layout.CHUNK_CELLS = {processes.BLOCK_CELLS // 2}; cli.main(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *scan.arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not scan.out.exists():
        time.sleep(0.01)
    time.sleep(0.2)
    process.kill()
    _, errors = process.communicate()
    assert errors == ""
    assert process.returncode in (0, -signal.SIGKILL)
    assert scan.run() == 0, scan.log.read_text()
    assert scan.contents() == uninterrupted
