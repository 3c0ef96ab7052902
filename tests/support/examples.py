"""The folder in which the examples of help texts run: small files under the names they use."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import dicom_slides
import maps
import networks
import numpy as np
import patches
import slides
import yaml
from commands import ran
from models import OPERATING, save
from PIL import Image

COUNT = 24
"""Patches in patches/, and rows of the tables about them."""

MODEL = "model.safetensors"
ENGINE = ("--engine", "torch", "--threads", "1")
PLAN = networks.plan("4/2 3 4/2", "R", filters=2, dense=4)
TUMOUR = [(100, 60), (200, 60), (200, 160), (100, 160)]
"""(x, y) of an annotated square, in level-0 px."""


class Folder:
    """Makes each name when an example first needs it, and copies it from then on."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def make(self, name: str) -> Path:
        path = self.root / name
        if not path.exists():
            for needed in NEEDS.get(name, ()):
                self.make(needed)
            MAKERS[name](self.root)
        return path

    def copy(self, arguments: Sequence[str], into: Path) -> None:
        """Put every name that the arguments of a command mention into a folder."""
        for name in MAKERS:
            if any(_meets(name, argument) for argument in arguments):
                path = self.make(name)
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if path.is_dir() else shutil.copy
                copy(path, into / name)
                if name == MODEL:
                    shutil.copy(path.with_suffix(".json"), into)


def _meets(name: str, argument: str) -> bool:
    """Whether one is the other, or a folder above it."""
    return all(a == b for a, b in zip(Path(name).parts, Path(argument).parts, strict=False))


def _slide(root: Path) -> None:
    slides.write_slide(root / "slide.tif", slides.section(300, 360), mpp=0.972, levels=(4,))


def _dicom(root: Path) -> None:
    made = dicom_slides.write_slide(root / "series", slides.section(300, 360), mpp=0.972)
    shutil.move(made, root / "slide.dcm")


def _dicom_map(root: Path) -> None:
    values = np.full((38, 45), 0.1, np.float32)
    values[10:20, 10:20] = 0.95
    maps.write_map(root / "dcm.zarr", root / "slide.dcm", values)


def _slides(root: Path) -> None:
    (root / "slides").mkdir()
    for seed, name in enumerate(("normal_1", "tumour_1"), 1):
        path = root / "slides" / f"{name}.tif"
        slides.write_slide(path, slides.section(300, 360, seed), mpp=0.972, levels=(4,))


def _map(root: Path) -> None:
    ran("heatmap", root / "slide.tif", "--out", root / "map.zarr", "--threads", 1)


def _maps(root: Path) -> None:
    scanned = sorted((root / "slides").iterdir())
    ran("heatmap", *scanned, "--out", root / "maps", "--model", root / MODEL, *ENGINE)


def _model(root: Path) -> None:
    network = networks.network(networks.plan("4/2", "R N N R")).float()
    save(root / MODEL, network, operating=OPERATING)


def _patches(root: Path) -> None:
    (root / "patches").mkdir()
    made = patches.make(COUNT)
    for row, pixels in enumerate(made.pixels()):
        Image.fromarray(pixels).save(root / "patches" / f"patch{row:02}.png")


def _table(name: str, noise: float) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        drawn = np.random.default_rng(len(name)).uniform(-noise, noise, COUNT)
        with (root / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("id", "label"))
            for row in range(COUNT):
                value = np.clip(row % 2 + drawn[row], 0, 1) if noise else row % 2
                writer.writerow((f"patch{row:02}", value))

    return make


def _pcam(name: str, seed: int) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        patches.write(root / name, patches.make(120, seed))

    return make


def _geojson(root: Path) -> None:
    ring = [list(corner) for corner in (*TUMOUR, TUMOUR[0])]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
    }
    content = {"type": "FeatureCollection", "features": [feature]}
    (root / "annotations.geojson").write_text(json.dumps(content))


def _xml(root: Path) -> None:
    (root / "annotations.xml").write_text(asap())


def _annotations(root: Path) -> None:
    (root / "annotations").mkdir()
    (root / "annotations" / "tumour_1.xml").write_text(asap())


def asap() -> str:
    """ASAP's XML of one tumour."""
    corners = "".join(
        f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(TUMOUR)
    )
    return (
        '<?xml version="1.0"?><ASAP_Annotations><Annotations>'
        '<Annotation Name="tumour" Type="Polygon" PartOfGroup="_0">'
        f"<Coordinates>{corners}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )


def _run(root: Path) -> None:
    config = root / "run.yaml"
    settings = {"epochs": 1, "batch": 16, "micro_batch": 16, "precision": "32-true"}
    config.write_text(yaml.safe_dump({"plan": PLAN.model_dump(mode="json"), **settings}))
    out = root / "runs" / "first"
    out.parent.mkdir()
    ran("train", "--data", root / "pcam", "--config", config, "--threads", 1, "--out", out)


def _plan(root: Path) -> None:
    (root / "plan.yaml").write_text(yaml.safe_dump({"plan": PLAN.model_dump(mode="json")}))


MAKERS: dict[str, Callable[[Path], None]] = {
    "slide.tif": _slide,
    "slide.dcm": _dicom,
    "dcm.zarr": _dicom_map,
    "slides": _slides,
    "map.zarr": _map,
    "maps": _maps,
    "patches": _patches,
    "labels.csv": _table("labels.csv", 0),
    "scores.csv": _table("scores.csv", 0.6),
    "scores_b.csv": _table("scores_b.csv", 0.8),
    "pcam": _pcam("pcam", seed=0),
    "pcam_b": _pcam("pcam_b", seed=1),
    "pcam_valid": _pcam("pcam_valid", seed=2),
    "annotations.geojson": _geojson,
    "annotations.xml": _xml,
    "annotations": _annotations,
    "runs/first": _run,
    MODEL: _model,
    "plan.yaml": _plan,
}
NEEDS = {
    "dcm.zarr": ("slide.dcm",),
    "map.zarr": ("slide.tif",),
    "maps": ("slides", MODEL),
    "runs/first": ("pcam",),
}
