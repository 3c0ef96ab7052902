"""Damaged and hostile slides: no crash, no hang, no traceback, no map that only looks whole.

`make faults` is the full form: SLIDESCAN_MUTATIONS=2000.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slides
import tifffile
from mutations import MUTATIONS, mutate
from watched import Outcome, Watched

from slidescan.errors import SlidescanError
from slidescan.maps.finished import open_finished

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and rusage")

MANY = int(os.environ.get("SLIDESCAN_MUTATIONS", "60"))
REAL = (
    "camelyon-jpeg.dcm",
    "camelyon-jpeg2000.dcm",
    "cmu-1-small-region.svs",
    "tcga-cr-7395-no-mpp.svs",
)
RARE = 8
"""Generated slides come so many times as often as real ones, which take longer to scan."""


def write(path: Path, compression: str, *, big: bool = False, description: str = "") -> bytes:
    pixels = slides.section(200, 260)
    with tifffile.TiffWriter(path, bigtiff=big) as tiff:
        for level in (pixels, slides.shrink(pixels, 4)):
            tiff.write(
                level,
                tile=(64, 64),
                photometric="ycbcr" if compression == "jpeg" else "rgb",
                compression=compression,
                resolution=(1e4 / 0.972, 1e4 / 0.972),
                resolutionunit="CENTIMETER",
                subfiletype=int(level is not pixels),
                description=description or None,
                metadata=None,
            )
    return path.read_bytes()


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("sources")
    aperio = "Aperio Image Library v1\r\n260x200 [0,0 260x200] (64x64)|AppMag = 10|MPP = 0.972"
    return {
        "deflate.tif": write(folder / "a.tif", "deflate"),
        "jpeg.tif": write(folder / "b.tif", "jpeg"),
        "big.tif": write(folder / "c.tif", "jpeg", big=True),
        "aperio.svs": write(folder / "d.svs", "jpeg", description=aperio),
        "jpeg2000.svs": write(folder / "e.svs", "aperio_jp2000_rgb", description=aperio),
    }


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with Watched() as process:
        yield process


class Campaign:
    """Scans mutated slides and counts how they end."""

    def __init__(self, watched: Watched, model: Path, folder: Path) -> None:
        self.watched, self.model, self.folder = watched, model, folder
        self.ends = Counter[str]()
        self.faults: list[str] = []
        self.silent = Counter[str]()
        """by slide, those whose map changed without a warning"""
        self.memory_mb = 0
        self._sound: dict[str, tuple[np.ndarray, list[str]]] = {}

    def run(self, sources: Mapping[str, bytes], order: Sequence[str], seeds: range) -> None:
        """Scan a mutation of each source in turn."""
        for name, content in sources.items():
            outcome, values = self._scan(name, content)
            assert values is not None, f"{name}: {outcome.stderr}"
            self._sound[name] = values, outcome.stderr.splitlines()
        for seed in seeds:
            source = order[seed // len(MUTATIONS) % len(order)]
            mutation, content = mutate(sources[source], seed)
            skip = seed % 3 == 0
            outcome, values = self._scan(source, content, *(("--damaged", "skip") if skip else ()))
            self.memory_mb = max(self.memory_mb, outcome.memory_mb)
            fault = outcome.fault()
            if outcome.code == 0 and values is None:
                fault = "a map that is not whole"
            if fault:
                self.faults.append(f"{source}, {mutation}, seed {seed}: {fault}")
            self.ends[self._end(source, outcome, values)] += 1
            if seed % 100 == 99:
                print(f"\n{seed}: {self}", flush=True)

    def _scan(self, source: str, content: bytes, *options: str) -> tuple[Outcome, Any]:
        """Scan a file; how it ended, and the map's values."""
        out, slide = self.folder / "map.zarr", self.folder / f"mutated{Path(source).suffix}"
        slide.write_bytes(content)
        shutil.rmtree(out, ignore_errors=True)
        common = ("--model", self.model, "--engine", "torch", "--threads", 1, "--mpp", 0.972)
        outcome = self.watched.run("heatmap", slide, *common, "--out", out, *options)
        if outcome.code:
            return outcome, None
        try:
            heatmap = open_finished(out)
        except SlidescanError:
            return outcome, None
        return outcome, heatmap.read(heatmap.grid.cells)

    def _end(self, source: str, outcome: Outcome, values: np.ndarray | None) -> str:
        """What became of a slide, in a word."""
        if values is None:
            return "crash contained" if "crashed" in outcome.stderr else "refused"
        sound, warnings = self._sound[source]
        if values.shape == sound.shape:
            same = np.isclose(values, sound, atol=1e-6, equal_nan=True)
            if same.all():
                return "scanned, equal"
        if set(outcome.stderr.splitlines()) - set(warnings):
            return "scanned, changed, warned of"
        self.silent[source] += 1
        return "scanned, changed silently"

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.ends.items()))
        return f"{ends}; {len(self.faults)} faults; at most {self.memory_mb} MB"


def test_a_few_mutated_slides(
    generated: dict[str, bytes], watched: Watched, tiny_model: Path, tmp_path: Path
) -> None:
    """Each mutation once; `test_many_mutated_slides` has other seeds."""
    campaign = Campaign(watched, tiny_model, tmp_path)
    one = {"jpeg.tif": generated["jpeg.tif"]}
    campaign.run(one, list(one), range(len(MUTATIONS)))
    assert campaign.faults == []
    assert campaign.ends["refused"] > 0


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_mutated_slides(
    generated: dict[str, bytes], watched: Watched, tiny_model: Path, tmp_path: Path
) -> None:
    real = Path(os.environ.get("SLIDESCAN_TEST_DATA", "none"), "slides")
    at_hand = {name: (real / name).read_bytes() for name in REAL if (real / name).is_file()}
    campaign = Campaign(watched, tiny_model, tmp_path)
    order = [*list(generated) * RARE, *at_hand]
    campaign.run(generated | at_hand, order, range(1000, 1000 + MANY))
    print(f"\n{MANY} mutated slides: {campaign}; silent: {dict(campaign.silent)}")
    assert campaign.faults == []
    assert sum(count for end, count in campaign.ends.items() if end.startswith("scanned")) > 0


def test_a_seed_gives_one_mutation(generated: dict[str, bytes]) -> None:
    content, seeds = generated["jpeg.tif"], range(3 * len(MUTATIONS))
    made = [mutate(content, seed) for seed in seeds]
    assert made == [mutate(content, seed) for seed in seeds]
    assert sum(file != content for _, file in made) > len(made) * 0.8
