"""SIGKILL at random moments: what is run again ends as if nothing had happened.

After every kill, what stands under its name is whole. `make faults` is the full form:
SLIDESCAN_KILLS=200 of each command.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import dicom_slides
import maps
import numpy as np
import patches
import processes
import pytest
import slides
import training_runs
from learning import tiny
from PIL import Image
from pydicom import dcmread
from slidescan_train.recipe.config import TrainConfig
from slidescan_train.runs import checkpoint

from slidescan.errors import ModelError, SlidescanError
from slidescan.maps.finished import open_finished
from slidescan.models import model
from slidescan.patches.labelled import load_data
from slidescan.scanning.manifest import read_manifest

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL"),
    pytest.mark.slow,
    pytest.mark.timeout(0),
]

KILLS = int(os.environ.get("SLIDESCAN_KILLS", "2"))

FULL = "SLIDESCAN_KILLS" in os.environ
if FULL:  # the short form shares its processes with other tests
    processes.PRELOADED += [
        *("highdicom", "slidescan.commands.report", "slidescan.exports.dicom"),
        *("slidescan.exports.ome_tiff", "slidescan.exports.qupath", "slidescan.exports.tables"),
        *("slidescan.exports.pictures", "slidescan.report.pages", "slidescan.scanning.cohort"),
    ]

EPOCHS = 2

Contents = dict[str, bytes]


class Campaign:
    """Runs one command again and again, kills it at random moments and looks at what it leaves.

    `read` returns what the command has finished, by name, without what is different in every run;
    it raises where something looks finished and is not. `folder` is the command's alone.
    """

    def __init__(
        self, what: str, command: tuple[object, ...], folder: Path, read: Callable[[], Contents]
    ) -> None:
        self._what, self._command, self._folder, self._read = what, command, folder, read
        self._log = folder.parent / "log"
        self._run()
        self.expected, self._names = read(), self._left()
        shutil.rmtree(folder)
        folder.mkdir()
        # The first run starts the processes that later ones are forked from.
        started = time.monotonic()
        self._run()
        self._seconds = time.monotonic() - started

    def _run(self) -> None:
        assert processes.slidescan(*self._command, log=self._log) == 0, self._log.read_text()

    def _left(self) -> list[str]:
        """Everything in the folder, of maps and runs their names alone."""
        return sorted(
            name
            for name in (str(path.relative_to(self._folder)) for path in self._folder.rglob("*"))
            if ".zarr/" not in name and "events.out" not in name
        )

    def run(self, *, afresh: bool) -> None:
        """Kill the command KILLS times; `afresh` begins from nothing after each that ended."""
        rng, ends = np.random.default_rng(0), Counter[str]()
        for _ in range(KILLS):
            moment = float(rng.uniform(0, self._seconds))
            killed = processes.kill(*self._command, log=self._log, after_s=moment)
            ends["killed" if killed else "ended before"] += 1
            found = self._read()
            assert {name: self.expected[name] for name in found} == found
            if not killed:
                self._whole()
                if afresh:
                    shutil.rmtree(self._folder)
                    self._folder.mkdir()
        self._run()
        self._whole()
        print(f"\n{self._what}: {dict(ends)}")
        assert ends["killed"] > 0

    def _whole(self) -> None:
        """Everything is there and equal, and nothing else: no lock, no lease, no temporary file."""
        assert self._read() == self.expected
        assert self._left() == self._names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    made.mkdir()
    return made


def whole_maps(folder: Path) -> Contents:
    """The maps in a folder that are finished; raises for one that only says so."""
    found = {}
    for path in sorted(folder.glob("*.zarr")):
        try:
            open_finished(path)
            found[path.name] = digest(maps.contents(path))
        except SlidescanError as error:
            if "the scan has not finished" not in str(error):
                raise
    return found


def digest(contents: Contents) -> bytes:
    return hashlib.sha256(repr(sorted(contents.items())).encode()).digest()


def test_scans(section: Path, tiny_model: Path, folder: Path) -> None:
    command = ("heatmap", section, "--model", tiny_model, *maps.TORCH, "--out", folder / "a.zarr")
    Campaign("scans", command, folder, lambda: whole_maps(folder)).run(afresh=True)


def test_scans_that_replace_a_map(section: Path, tiny_model: Path, folder: Path) -> None:
    """A finished map is there before and after each kill, or its place is empty for a moment."""
    command = ("heatmap", section, "--model", tiny_model, *maps.TORCH, "--overwrite")
    command += ("--out", folder / "a.zarr")

    def read() -> Contents:
        found = whole_maps(folder)
        assert found or not (folder / "a.zarr").exists()
        return found

    Campaign("scans with --overwrite", command, folder, read).run(afresh=False)


def test_cohorts(tiny_model: Path, tmp_path: Path, folder: Path) -> None:
    """The manifest can be read and its rows are true after each kill; no lease stays."""
    for number in range(3):
        path = tmp_path / "slides" / f"s{number}.tif"
        path.parent.mkdir(exist_ok=True)
        slides.write_slide(path, slides.section(300, 360, number), mpp=0.972)
    out = folder / "maps"
    command = ("heatmap", path.parent, "--model", tiny_model, *maps.TORCH, "--out", out)

    def read() -> Contents:
        found = whole_maps(out)
        rows = read_manifest(out / "manifest.csv")
        done = {name for name, row in rows.items() if row["state"] == "done"}
        assert done <= found.keys()
        assert {row["state"] for row in rows.values()} <= {"done", "waiting"}
        return found | {f"row of {name}": b"" for name in done}

    Campaign("cohorts", command, folder, read).run(afresh=True)


def test_predictions(tiny_model: Path, tmp_path: Path, folder: Path) -> None:
    images = tmp_path / "patches"
    images.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (400, 96, 96, 3))):
        Image.fromarray(pixels.astype(np.uint8)).save(images / f"{number:03}.png")
    command = ("predict", images, "--model", tiny_model, *maps.TORCH, "--out", folder / "a.csv")
    Campaign("predictions", command, folder, lambda: files(folder)).run(afresh=True)


def files(folder: Path) -> Contents:
    """What is not hidden: files, and folders in the format of zarr as one."""
    found = {}
    for path in sorted(folder.rglob("[!.]*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".zarr":
            inside = (file for file in path.rglob("*") if file.is_file())
            found[name] = digest({str(file): file.read_bytes() for file in inside})
        elif path.is_file() and ".zarr" not in name:
            found[name] = _without_moments(path)
    return found


def _without_moments(path: Path) -> bytes:
    """A file without its times and random identifiers; whole, or this raises."""
    if path.suffix == ".dcm":
        dataset = dcmread(path)
        return b"".join(dataset.get(key, b"") for key in ("PixelData", "FloatPixelData"))
    content = path.read_bytes()
    for moment in (
        rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?",
        rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-\w{12}",
    ):
        content = re.sub(moment, b"", content)
    return content


@pytest.fixture(scope="module")
def dicom_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = slides.section(700, 900)
    return dicom_slides.write_slide(tmp_path_factory.mktemp("dcm"), pixels, 0.972, levels=(4,))


@pytest.fixture(scope="module")
def finished_map(
    dicom_slide: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("map")
    command = ("heatmap", dicom_slide, "--model", tiny_model, *maps.TORCH)
    code = processes.slidescan(*command, "--out", folder / "map.zarr", log=folder / "log")
    assert code == 0, (folder / "log").read_text()
    return folder / "map.zarr"


EXPORTS = {
    "png": ("a.png", "--slide"),
    "geojson": ("a.geojson", "--threshold", 0.5),
    "dicom": ("dicom", "--threshold", 0.5, "--slide"),
    "ome-tiff": ("a.ome.tif",),
    "csv": ("a.csv",),
    "parquet": ("a.parquet",),
    "ngff04": ("a-04.zarr",),
}


# The short form has a file, a folder of two and a folder that is renamed as a whole.
@pytest.mark.parametrize("form", EXPORTS if FULL else ("png", "dicom", "ngff04"))
def test_exports(form: str, dicom_slide: Path, finished_map: Path, folder: Path) -> None:
    name, *options = EXPORTS[form]
    if options[-1:] == ["--slide"]:
        options.append(dicom_slide)
    target = ("--overwrite", "--out", folder / str(name))
    command = ("export", form, finished_map, *options, *target)
    Campaign(f"export {form}", command, folder, lambda: files(folder)).run(afresh=False)


def test_reports(dicom_slide: Path, finished_map: Path, folder: Path) -> None:
    common = ("--threshold", 0.5, "--overwrite", "--out", folder / "report")
    command = ("report", finished_map.parent, "--slides", dicom_slide.parent, *common)
    Campaign("reports", command, folder, lambda: files(folder)).run(afresh=False)


def test_trainings(tmp_path: Path, folder: Path) -> None:
    """Models load or are refused, the checkpoint loads, and the run ends in the same bytes."""
    data = patches.write(tmp_path / "pcam", patches.make(120))
    load_data(data, validation=tiny().validation)  # builds the cache
    settings = training_runs.write_settings(
        tmp_path / "settings.yaml",
        **{"epochs": EPOCHS, "augment": TrainConfig().augment.model_dump(), "mixup": 0.2},
        **{"batch": 32, "micro_batch": 8, "dropout": 0.2, "checkpoint_minutes": 1e-9},
    )
    out = folder / "run"
    command = ("train", "--data", data, "--config", settings, "--out", out, "--threads", 1)
    Campaign("trainings", (*command, "--resume"), folder, lambda: trained(out)).run(afresh=True)


def trained(out: Path) -> Contents:
    """The models and scores of a run whose checkpoint says that it has ended."""
    models = [out / name for name in ("best.safetensors", "last.safetensors")]
    for path in models:
        with suppress(ModelError):  # not there yet, or weights and card are of two epochs
            model.load(str(path))
    if not (out / "checkpoint.safetensors").exists():
        return {}
    _, numbers = checkpoint.load(out / "checkpoint.safetensors")
    if len(numbers["progress"]["history"]) < EPOCHS:
        return {}
    found = {path.name: path.read_bytes() for path in models}
    found |= {f"{path.stem}.json": path.with_suffix(".json").read_bytes() for path in models}
    scores = str(training_runs.scores(out)) + (out / "steps.csv").read_text()
    return found | {"scores": scores.encode()}
