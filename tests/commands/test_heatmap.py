"""`slidescan heatmap` through the whole program: maps that are right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slides
import torch
from commands import ran, refused, run
from maps import FEW, ONE, TORCH, read
from numpy.typing import NDArray

from slidescan.geometry import Box
from slidescan.models.model import load
from slidescan.networks.network import probability
from slidescan.scanning import pipeline
from slidescan.slides.slide import Slide

# --- exactness, through the whole program


def white_around(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.pad(pixels, ((96, 96), (96, 96), (0, 0)), constant_values=255)


def patch_by_patch(pixels: NDArray[np.uint8], model: Path, cells: NDArray[np.intp]) -> Any:
    """What torch says of each patch: the 96 px centred on each cell's 8, cut by hand."""
    around, network = white_around(pixels), load(str(model)).network
    scores = []
    for some in np.array_split(cells, -(-len(cells) // 256)):
        corners = some * 8 + 4 - 48 + 96
        patches = np.stack([around[y : y + 96, x : x + 96] for y, x in corners])
        with torch.inference_mode():
            logits = network(torch.from_numpy(patches).permute(0, 3, 1, 2).float())
        scores.append(probability(logits)[:, 0, 0].numpy())
    return np.concatenate(scores)


def native(folder: Path) -> tuple[Path, NDArray[np.uint8]]:
    """A slide that is its own scan plane; neither side a multiple of the stride."""
    path = folder / "native.tif"
    (pixels,) = slides.write_slide(path, slides.section(211, 277), mpp=0.972)
    return path, pixels


def fractional(folder: Path) -> tuple[Path, NDArray[np.uint8]]:
    """A slide of 0.499 um/px, as CMU-1-Small-Region; read as one whole here, in tiles there."""
    path = folder / "fractional.tif"
    slides.write_slide(path, slides.section(411, 541), mpp=0.499)
    with Slide.open(path) as slide:
        plane = slide.plane(0.972)
        assert plane.shape_px == (211, 278)
        return path, plane.read(Box(0, 0, *plane.shape_px))


@pytest.mark.parametrize("make", [native, fractional])
@pytest.mark.usefixtures("small_blocks")
def test_every_cell_is_its_patch_with_both_engines(
    make: Callable[[Path], tuple[Path, NDArray[np.uint8]]],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "TILE_PX", 72)
    slide, pixels = make(tmp_path)
    maps = []
    for engine in ("torch", "openvino"):
        out = tmp_path / f"{engine}.zarr"
        ran("heatmap", slide, "--out", out, "--model", tiny_model, "--engine", engine, *ONE)
        maps.append(read(out))
    selected = np.isfinite(maps[0])
    np.testing.assert_array_equal(np.isfinite(maps[1]), selected)
    assert maps[0].shape == (27, 35)
    assert 400 < selected.sum() < selected.size
    patches = patch_by_patch(pixels, tiny_model, np.argwhere(selected))
    assert np.ptp(patches) > 0.05
    for values in maps:
        assert np.abs(values[selected] - patches).max() <= 1e-5
    assert np.abs(maps[0] - maps[1])[selected].max() <= 1e-4


def test_the_map_lies_on_the_slide(tiny_model: Path, tmp_path: Path) -> None:
    """One object, off every axis of symmetry: the cells that it changes are where it is."""
    y0, x0, y1, x1 = 180, 610, 250, 660  # level-0 px
    mpp, slide = 0.45, tmp_path / "slide.tif"
    pixels, maps = slides.noise(600, 840), []
    for name in ("without", "with"):
        slides.write_slide(slide, pixels, mpp=mpp)
        out = tmp_path / f"{name}.zarr"
        ran("heatmap", slide, "--out", out, "--model", tiny_model, "--no-tissue-mask", *TORCH)
        maps.append(read(out))
        pixels[y0:y1, x0:x1] = (150, 60, 140)

    attributes = json.loads((out / "zarr.json").read_text())["attributes"]
    (multiscale,) = attributes["ome"]["multiscales"]
    assert [axis["name"] for axis in multiscale["axes"]] == ["y", "x"]
    assert {axis["unit"] for axis in multiscale["axes"]} == {"micrometer"}
    scale, translation = multiscale["datasets"][0]["coordinateTransformations"]
    changed = np.argwhere(maps[0] != maps[1])
    centres_um = changed * np.array(scale["scale"]) + np.array(translation["translation"])
    # Half a field of view and the resampling's support of 3 px around the object, in whole cells.
    reach_um, cell_um = (48 + 3) * 0.972, 8 * 0.972
    low = np.array([y0, x0]) * mpp - reach_um
    high = np.array([y1, x1]) * mpp + reach_um
    for near, edge, far in (
        (low, centres_um.min(axis=0), low + 2 * cell_um),
        (high - 2 * cell_um, centres_um.max(axis=0), high),
    ):
        assert (near <= edge).all()
        assert (edge <= far).all()


def test_half_precision_stays_within_its_tolerance(
    section: Path, tiny_model: Path, tmp_path: Path, scanned: Path
) -> None:
    out = tmp_path / "half.zarr"
    model = ("--model", tiny_model)
    ran("heatmap", section, "--out", out, *model, *TORCH, "--precision", "bf16")
    assert 0 < np.nanmax(np.abs(read(out) - read(scanned))) < 0.05
    assert "tolerance 0.02" in ran("verify", section, out, *model, *FEW).stdout


# --- the shipped weights


@pytest.mark.parametrize("made", ["section", "real"])
def test_the_shipped_weights(made: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The defaults from end to end: shipped model, OpenVINO, both commands."""
    if made == "real":
        slide = request.getfixturevalue("real_data") / "slides" / "cmu-1-small-region.svs"
    else:
        slide = tmp_path / "section.tif"
        slides.write_slide(slide, slides.section(500, 600), mpp=0.5)
    out = tmp_path / "map.zarr"
    ran("heatmap", slide, "--out", out)
    line = ran("verify", slide, out, "--cells", 48).stdout
    assert "48 cells scored as patches" in line
    assert "tolerance 1e-05" in line
    assert np.nanstd(read(out)) > 0.01


# --- settings


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--device", "abacus"), "abacus"),
        (("--device", "abacus", "--engine", "torch"), "abacus"),
        (("--device", "cuda", "--engine", "openvino"), "--engine torch"),
        (("--device", "cuda:99"), "cuda"),
        (("--device", "meta"), "meta"),
        (("--device", "mps"), "mps"),
        (("--device", "cpu:1", "--engine", "torch"), "cpu"),
        (("--engine", "openvino", "--precision", "fp16"), "fp16"),
    ],
)
def test_devices_and_precisions_that_do_not_exist(
    flags: tuple[str, ...], word: str, section: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "map.zarr"
    refused(run("heatmap", section, "--out", out, "--model", tiny_model, *flags), word)
    assert not out.exists()


def test_other_settings_into_an_existing_map(
    section: Path, scratch: Path, tiny_model: Path, tmp_path: Path
) -> None:
    command = ("heatmap", section, "--out", scratch, "--model", tiny_model)
    before = read(scratch).tobytes()
    assert "complete already" in ran(*command, *TORCH).stdout
    for flags, word in (
        ((*TORCH, "--no-tissue-mask"), "tissue_mask"),
        ((*TORCH, "--precision", "bf16"), "precision"),
        ((*TORCH, "--mpp", "0.5"), "mpp"),
        (("--engine", "openvino"), "engine"),
    ):
        refused(run(*command, *flags), scratch, word, "--overwrite")
    assert read(scratch).tobytes() == before
    ran(*command, *TORCH, "--no-tissue-mask", "--overwrite")
    assert np.isfinite(read(scratch)).all()
    assert [p.name for p in tmp_path.iterdir()] == [scratch.name]
