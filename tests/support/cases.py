"""Commands that tests of faults run: what they read, and what they have finished."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import dicom_slides
import maps
import numpy as np
import patches
import processes
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

Contents = Mapping[str, bytes]
Arguments = tuple[object, ...]

EPOCHS = 2


@dataclass(frozen=True)
class Case:
    """A command that fills a folder of its own."""

    arguments: Callable[[Path], Arguments]
    """The command line, by its folder."""
    read: Callable[[Path], Contents]
    """What stands finished in the folder, by name, without what differs in every run.

    Raises where something looks finished and is not.
    """
    afresh: bool = True
    """Whether it goes on with what is there; else it replaces what it finds."""


class Inputs:
    """What the commands read, made when it is first asked for."""

    def __init__(self, folder: Path, section: Path, tiny_model: Path) -> None:
        self.folder, self.section, self.model = folder, section, tiny_model

    @cached_property
    def slides(self) -> Path:
        """A folder of three slides."""
        folder = self.folder / "slides"
        folder.mkdir()
        for number in range(3):
            pixels = slides.section(300, 360, number)
            slides.write_slide(folder / f"s{number}.tif", pixels, mpp=0.972)
        return folder

    @cached_property
    def dicom(self) -> Path:
        folder = self.folder / "dicom"
        return dicom_slides.write_slide(folder, slides.section(700, 900), 0.972, levels=(4,))

    @cached_property
    def map(self) -> Path:
        """The finished map of the DICOM slide."""
        folder, log = self.folder / "map", self.folder / "log"
        folder.mkdir()
        command = ("heatmap", self.dicom, "--model", self.model, *maps.TORCH)
        code = processes.slidescan(*command, "--out", folder / "map.zarr", log=log)
        assert code == 0, log.read_text()
        return folder / "map.zarr"

    @cached_property
    def images(self) -> Path:
        """A folder of 400 patches."""
        folder = self.folder / "patches"
        folder.mkdir()
        rng = np.random.default_rng(0)
        for number, pixels in enumerate(rng.integers(0, 256, (400, 96, 96, 3), np.uint8)):
            Image.fromarray(pixels).save(folder / f"{number:03}.png")
        return folder

    @cached_property
    def labelled(self) -> Path:
        """Labelled patches, and their cache."""
        folder = patches.write(self.folder / "pcam", patches.make(120))
        load_data(folder, validation=tiny().validation)
        return folder

    @cached_property
    def settings(self) -> Path:
        """A training with all that a checkpoint has to remember, and one after every step."""
        return training_runs.write_settings(
            self.folder / "settings.yaml",
            **{"epochs": EPOCHS, "augment": TrainConfig().augment.model_dump(), "mixup": 0.2},
            **{"batch": 32, "micro_batch": 8, "dropout": 0.2, "checkpoint_minutes": 1e-9},
        )


EXPORTS: dict[str, Arguments] = {
    "png": ("a.png", "--slide"),
    "geojson": ("a.geojson", "--threshold", 0.5),
    "dicom": ("dicom", "--threshold", 0.5, "--slide"),
    "ome-tiff": ("a.ome.tif",),
    "csv": ("a.csv",),
    "parquet": ("a.parquet",),
    "ngff04": ("a-04.zarr",),
}
NAMES = ("scan", "overwrite", "cohort", "predict", "report", "train", *EXPORTS)


def case(name: str, inputs: Inputs) -> Case:
    """One of NAMES."""
    if name in EXPORTS:
        return _export(name, inputs)
    scan = ("--model", inputs.model, *maps.TORCH)
    return {
        "scan": Case(
            lambda folder: ("heatmap", inputs.section, *scan, "--out", folder / "a.zarr"),
            whole_maps,
        ),
        "overwrite": Case(
            lambda folder: (
                *("heatmap", inputs.section, *scan, "--overwrite"),
                *("--out", folder / "a.zarr"),
            ),
            _replaced,
            afresh=False,
        ),
        "cohort": Case(
            lambda folder: ("heatmap", inputs.slides, *scan, "--out", folder / "maps"), _cohort
        ),
        "predict": Case(
            lambda folder: ("predict", inputs.images, *scan, "--out", folder / "a.csv"), files
        ),
        "report": Case(
            lambda folder: (
                *("report", inputs.map.parent, "--slides", inputs.dicom.parent),
                *("--threshold", 0.5, "--overwrite", "--out", folder / "report"),
            ),
            _reported,
            afresh=False,
        ),
        "train": Case(
            lambda folder: (
                *("train", "--data", inputs.labelled, "--config", inputs.settings, "--resume"),
                *("--threads", 1, "--out", folder / "run"),
            ),
            _trained,
        ),
    }[name]


def _export(name: str, inputs: Inputs) -> Case:
    target, *options = EXPORTS[name]
    if options[-1:] == ["--slide"]:
        options.append(inputs.dicom)
    head = ("export", name, inputs.map, *options, "--overwrite", "--out")
    return Case(lambda folder: (*head, folder / str(target)), files, afresh=False)


def whole_maps(folder: Path) -> dict[str, bytes]:
    """The maps in a folder that are finished; raises for one that only says so."""
    found = {}
    for path in sorted(folder.glob("*.zarr")):
        try:
            open_finished(path)
            found[path.name] = _digest(maps.contents(path))
        except SlidescanError as error:
            if "the scan has not finished" not in str(error):
                raise
    return found


def _digest(contents: Contents) -> bytes:
    return hashlib.sha256(repr(sorted(contents.items())).encode()).digest()


def _replaced(folder: Path) -> Contents:
    """The map, which is whole wherever it is."""
    found = whole_maps(folder)
    assert found or not (folder / "a.zarr").exists()
    return found


def _cohort(folder: Path) -> Contents:
    """The maps, and the rows of the manifest that say that one is done."""
    found = whole_maps(folder / "maps")
    rows = read_manifest(folder / "maps" / "manifest.csv")
    done = {name for name, row in rows.items() if row["state"] == "done"}
    assert done <= found.keys()
    assert {row["state"] for row in rows.values()} <= {"done", "waiting", "failed"}
    return found | {f"row of {name}": b"" for name in done}


def _reported(folder: Path) -> Contents:
    """The pages; not an index that says which maps failed."""
    return {
        name: page
        for name, page in files(folder).items()
        if b"maps failed and are not listed" not in page
    }


def files(folder: Path) -> dict[str, bytes]:
    """What is not hidden: files, and folders in the format of zarr as one."""
    found = {}
    for path in sorted(folder.rglob("[!.]*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".zarr":
            inside = (file for file in path.rglob("*") if file.is_file())
            found[name] = _digest(
                {str(file.relative_to(path)): file.read_bytes() for file in inside}
            )
        elif path.is_file() and ".zarr" not in name:
            found[name] = _without_moments(path).replace(str(folder).encode(), b"")
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


def _trained(folder: Path) -> Contents:
    """The models and scores of a run whose checkpoint says that it has ended."""
    out = folder / "run"
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
    for path in models:  # its card, which has the command line
        card = path.with_suffix(".json").read_bytes()
        found[f"{path.stem}.json"] = card.replace(str(folder).encode(), b"")
    scores = str(training_runs.scores(out)) + (out / "steps.csv").read_text()
    return found | {"scores": scores.encode()}
