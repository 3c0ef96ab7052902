"""`heatmap` and `predict` warn of pixels that are unlike the patches of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import slides
from commands import ran
from numpy.typing import NDArray
from PIL import Image

from slidescan.maps.store import Heatmap
from slidescan.models import familiarity
from slidescan.models.model import load

SECTION = slides.section(960, 960)
ENGINE = ("--engine", "torch", "--threads", "1")
BGR = SECTION[..., ::-1]


def patches(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The patches of the section that lie side by side within the tissue, (N, 96, 96, 3)."""
    inside = pixels[192:768, 192:576]
    return inside.reshape(6, 96, 4, 96, 3).swapaxes(1, 2).reshape(-1, 96, 96, 3)


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a reference; the spread of real patches is about that large."""
    reference = familiarity.summarise(familiarity.measure(patches(SECTION)))
    assert reference is not None
    figures = {name: {"mean": reference.model_dump()[name]["mean"], "sd": 0.2} for name in FIGURES}
    path = tmp_path_factory.mktemp("known") / "known.safetensors"
    about = {"reference": {"patches": reference.patches, **figures}}
    return models.save(path, load(str(tiny_model)).network, **about)


FIGURES = tuple(watch.figure for watch in familiarity.WATCHED)


def folder(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.mkdir()
    for row, patch in enumerate(patches(pixels)):
        Image.fromarray(patch).save(path / f"{row:02}.png")
    return path


def scan(path: Path, pixels: NDArray[np.uint8], model: Path, out: str) -> tuple[str, Heatmap]:
    slides.write_slide(path, pixels, mpp=0.972)
    target = path.parent / out
    told = ran("heatmap", path, "--out", target, "--model", model, *ENGINE).stderr
    return told, Heatmap.open(target)


def test_predict_warns_of_exchanged_channels_alone(model: Path, tmp_path: Path) -> None:
    tail = ("--model", model, *ENGINE)
    known, unlike = folder(tmp_path / "rgb", SECTION), folder(tmp_path / "bgr", BGR)
    assert ran("predict", known, "--out", tmp_path / "rgb.csv", *tail).stderr == ""
    (line,) = ran("predict", unlike, "--out", tmp_path / "bgr.csv", *tail).stderr.splitlines()
    assert "the patches are unlike the training patches in colours (" in line
    assert "from 24 patches" in line


def test_heatmap_warns_and_records_the_score(model: Path, tmp_path: Path) -> None:
    told, known = scan(tmp_path / "rgb.tif", SECTION, model, "rgb.zarr")
    assert told == ""
    assert known.provenance["unlike"]["score"] < 1
    told, unlike = scan(tmp_path / "bgr.tif", BGR, model, "bgr.zarr")
    (line,) = told.splitlines()
    found: dict[str, Any] = unlike.provenance["unlike"]
    assert found["score"] > 1
    assert "bgr.tif: unlike the training patches in colours (" in line
    assert f"score {found['score']:.2f} from {found['patches']} patches" in line
    assert found["patches"] <= familiarity.ENOUGH


def test_the_reference_changes_no_value(model: Path, tiny_model: Path, tmp_path: Path) -> None:
    _, with_reference = scan(tmp_path / "s.tif", BGR, model, "with.zarr")
    _, without = scan(tmp_path / "s.tif", BGR, tiny_model, "without.zarr")
    box = without.grid.cells
    np.testing.assert_array_equal(with_reference.read(box), without.read(box))
    assert without.provenance["unlike"] is None


def test_a_slide_with_too_little_tissue_has_no_score(model: Path, tmp_path: Path) -> None:
    glass = np.full((400, 400, 3), 245, np.uint8)
    glass[150:200, 150:200] = (200, 120, 180)
    told, found = scan(tmp_path / "s.tif", glass, model, "map.zarr")
    assert told == ""
    assert found.provenance["unlike"] is None
