"""Damaged and hostile slides: no crash, no hang, no traceback, no map that only looks whole.

`make faults` is the full form: SLIDESCAN_MUTATIONS=2000.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import slides
import tifffile
from mutations import MUTATIONS, mutate
from watched import Watched

from slidescan.errors import SlidescanError
from slidescan.maps.finished import open_finished

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and rusage")

MANY = int(os.environ.get("SLIDESCAN_MUTATIONS", "60"))
REAL = ("camelyon-jpeg.dcm", "cmu-1-small-region.svs", "tcga-cr-7395-no-mpp.svs")


def write(path: Path, compression: str, *, big: bool = False, description: str = "") -> bytes:
    pixels = slides.section(300, 360)
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
    aperio = "Aperio Image Library v1\r\n360x300 [0,0 360x300] (64x64)|AppMag = 10|MPP = 0.972"
    return {
        "deflate.tif": write(folder / "a.tif", "deflate"),
        "jpeg.tif": write(folder / "b.tif", "jpeg"),
        "big.tif": write(folder / "c.tif", "jpeg", big=True),
        "aperio.svs": write(folder / "d.svs", "jpeg", description=aperio),
        "jpeg2000.svs": write(folder / "e.svs", "jpeg2000", description=aperio),
    }


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with Watched() as process:
        yield process


def campaign(
    watched: Watched, sources: Mapping[str, bytes], seeds: range, model: Path, folder: Path
) -> tuple[Counter[str], list[str]]:
    """Scan a mutation of each source in turn; how they ended, and the faults."""
    ends, faults = Counter[str](), []
    names, out = list(sources), folder / "map.zarr"
    for seed in seeds:
        source = names[seed // len(MUTATIONS) % len(names)]
        mutation, content = mutate(sources[source], seed)
        slide = folder / f"mutated{Path(source).suffix}"
        slide.write_bytes(content)
        damaged = ("--damaged", "skip") if seed % 3 == 0 else ()
        common = ("--model", model, "--engine", "torch", "--threads", 1, "--mpp", 0.972)
        outcome = watched.run("heatmap", slide, *common, "--out", out, *damaged)
        fault = outcome.fault()
        if outcome.code == 0 and not fault:
            try:
                open_finished(out)
            except SlidescanError as error:
                fault = f"a map that is not whole: {error}"
        ends["scanned" if outcome.code == 0 else "refused"] += 1
        if fault:
            faults.append(f"{source}, {mutation}, seed {seed}: {fault}")
        shutil.rmtree(out, ignore_errors=True)
    return ends, faults


def test_a_few_mutated_slides(
    generated: dict[str, bytes], watched: Watched, tiny_model: Path, tmp_path: Path
) -> None:
    """Each mutation once; `test_many_mutated_slides` has other seeds."""
    ends, faults = campaign(watched, generated, range(len(MUTATIONS)), tiny_model, tmp_path)
    assert faults == []
    assert ends["refused"] > 0


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_mutated_slides(
    generated: dict[str, bytes], watched: Watched, tiny_model: Path, tmp_path: Path
) -> None:
    real = Path(os.environ.get("SLIDESCAN_TEST_DATA", "none"), "slides")
    sources = generated | {
        name: (real / name).read_bytes() for name in REAL if (real / name).is_file()
    }
    ends, faults = campaign(watched, sources, range(1000, 1000 + MANY), tiny_model, tmp_path)
    print(f"\n{MANY} mutated slides: {dict(ends)}, {len(faults)} faults")
    assert faults == []
    assert ends["scanned"] > 0


def test_a_seed_gives_one_mutation(generated: dict[str, bytes]) -> None:
    content, seeds = generated["jpeg.tif"], range(3 * len(MUTATIONS))
    made = [mutate(content, seed) for seed in seeds]
    assert made == [mutate(content, seed) for seed in seeds]
    assert sum(file != content for _, file in made) > len(made) * 0.8
