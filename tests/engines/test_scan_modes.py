"""`--mode` and `--stride`: every cell is what its own patch is said to be, of any model."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networks
import numpy as np
import processes
import pytest
import slides
import torch
from click.testing import Result
from commands import ran, refused, run
from hypothesis import given, settings
from hypothesis import strategies as st
from maps import contents, read
from models import save
from numpy.typing import NDArray
from PIL import Image
from processes import Strike
from settled import settled

from slidescan.engines.averaging import Oriented
from slidescan.engines.backend import Backend
from slidescan.engines.ensemble import Ensemble
from slidescan.engines.patchwise import TILE_CELLS, Patchwise
from slidescan.engines.scan_modes import choose_stride
from slidescan.errors import ConfigError
from slidescan.evaluation import slide_level, slide_report
from slidescan.geometry import Box, Field, Grid
from slidescan.maps.store import Heatmap
from slidescan.models import model
from slidescan.networks.network import probability
from slidescan.networks.plan import LitePlan
from slidescan.protocols import Selective
from slidescan.scanning import pipeline
from slidescan.scanning.options import Options
from slidescan.scanning.session import Session

ONE = ("--threads", "1")
TORCH = ("--engine", "torch", *ONE)
PATCH = ("--mode", "patch")
Pixels = NDArray[np.uint8]
Scores = NDArray[np.float32]


@pytest.fixture(scope="module")
def padded_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EfficientNet-Lite0 with random weights, whose probabilities vary."""
    pixels = np.stack([slides.section(96, 96, seed) for seed in range(12)])
    network = settled(LitePlan(arch="efficientnet-lite"), pixels)
    return save(tmp_path_factory.mktemp("padded") / "padded.safetensors", network)


def tensor(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float()


def by_hand(pixels: Pixels, stride: int) -> Pixels:
    """The patch of every cell, cut out of the slide with white around it; (h, w, 96, 96, 3)."""
    height, width = pixels.shape[:2]
    around = np.pad(pixels, ((96, 192), (96, 192), (0, 0)), constant_values=255)
    # The middle of the cell's square is the middle of the patch.
    rows, columns = (
        [96 + stride * i + stride // 2 - 48 for i in range(-(-extent // stride))]
        for extent in (height, width)
    )
    return np.array([[around[y : y + 96, x : x + 96] for x in columns] for y in rows])


def say(source: Path, patches: Pixels) -> Scores:
    """What the model's network says of (h, w, 96, 96, 3)."""
    network = model.load(str(source)).network
    with torch.inference_mode():
        scores = [probability(network(tensor(row)))[:, 0, 0].numpy() for row in patches]
    return np.array(scores)


def native(folder: Path, height: int, width: int) -> tuple[Path, Pixels]:
    """A slide that is its own scan plane."""
    path = folder / "native.tif"
    (pixels,) = slides.write_slide(path, slides.section(height, width), mpp=0.972)
    return path, pixels


# --- the strategy -----------------------------------------------------------------------------


@dataclass
class Sums:
    """Scores a patch by sums that tell every pixel's place; counts what it is given."""

    batches: list[int] = field(default_factory=list)

    def __call__(self, pixels: Pixels) -> Scores:
        self.batches.append(len(pixels))
        weights = np.arange(1, pixels[0].size + 1).reshape(pixels.shape[1:])
        return np.asarray((pixels * weights).sum(axis=(1, 2, 3)) % 9973, np.float32)[:, None, None]


@settings(max_examples=60)
@given(
    count=st.integers(1, 3),
    extent=st.tuples(st.integers(8, 31), st.integers(8, 31)),
    stride=st.integers(1, 12),
    batch=st.integers(1, 9),
    share=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_each_wanted_window_is_scored_alone(
    count: int, extent: tuple[int, int], stride: int, batch: int, share: float
) -> None:
    rng = np.random.default_rng(count + stride)
    pixels = rng.integers(0, 256, (count, *extent, 3), dtype=np.uint8)
    seen = Field(0, 8, stride)
    rows, columns = (seen.outputs(n) for n in extent)
    expected = np.array(
        [
            [
                [Sums()(image[None, y : y + 8, x : x + 8]).item() for x in starts(columns, stride)]
                for y in starts(rows, stride)
            ]
            for image in pixels
        ]
    )
    engine = Sums()
    patchwise = Patchwise(engine, seen, batch)
    assert isinstance(patchwise, Selective)
    np.testing.assert_array_equal(patchwise(pixels), expected)
    assert sum(engine.batches) == expected.size
    assert max(engine.batches) <= batch

    wanted = rng.random(expected.shape) < share
    engine.batches.clear()
    found = patchwise.select(pixels, wanted)
    np.testing.assert_array_equal(found, np.where(wanted, expected, np.nan))
    assert sum(engine.batches) == wanted.sum()
    assert all(n == batch for n in engine.batches[:-1])


def starts(count: int, stride: int) -> range:
    return range(0, count * stride, stride)


def test_a_valid_network_says_the_same_at_once_and_patch_by_patch() -> None:
    network = networks.network(networks.plan("4/2", "R N N R"))

    def exact(pixels: Pixels) -> Any:
        with torch.inference_mode():
            return probability(network(tensor(pixels).double())).numpy()

    pixels = slides.section(141, 187)[None]
    # Patchwise keeps float32, which is what rounds.
    found = Patchwise(exact, network.field)(pixels)
    assert found.shape == (1, 6, 12)
    assert np.ptp(found) > 0.01
    np.testing.assert_allclose(found, exact(pixels), rtol=0, atol=1e-7)


# --- which stride -----------------------------------------------------------------------------


def test_strides(tiny_model: Path, padded_model: Path) -> None:
    tiny, padded = (Ensemble.load([str(path)]) for path in (tiny_model, padded_model))
    both = Ensemble.load([str(tiny_model), str(padded_model)])
    assert both.stride_px is None
    for ensemble, mode, wanted, stride in (
        (tiny, "dense", None, 8),
        (tiny, "dense", 8, 8),
        (tiny, "patch", None, 8),
        (tiny, "patch", 2, 2),
        (tiny, "patch", 96, 96),
        (padded, "patch", None, 32),
        (padded, "patch", 6, 6),
        (both, "patch", 10, 10),
        (tiny, "dense", 2, 2),
        (tiny, "dense", 64, 64),
    ):
        assert choose_stride(ensemble, mode, wanted) == stride  # type: ignore[arg-type]
    for ensemble, mode, wanted, words in (
        (
            padded,
            "dense",
            None,
            ["padded: pads with zeros", "image ends", "--mode patch"],
        ),
        (padded, "dense", 32, ["pads with zeros"]),
        (both, "dense", 8, ["padded: pads with zeros"]),
        (both, "patch", None, ["tiny has stride 8", "padded has stride 32", "--stride 8"]),
        (tiny, "dense", 6, ["--stride 6", "tiny's own stride, 8 px", "use --mode patch"]),
        (tiny, "dense", 7, ["--stride 7", "even", "2 to 96", "odd"]),
        (tiny, "dense", 104, ["--stride 104", "left out"]),
        (tiny, "patch", 7, ["--stride 7", "even", "2 to 96", "odd"]),
        (tiny, "patch", 0, ["--stride 0"]),
        (tiny, "patch", -8, ["--stride -8"]),
        (tiny, "patch", 98, ["--stride 98", "2 to 96", "left out"]),
    ):
        with pytest.raises(ConfigError) as error:
            choose_stride(ensemble, mode, wanted)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
        for word in words:
            assert word in str(error.value)


def test_refusals_come_before_the_slide(
    tiny_model: Path, padded_model: Path, tmp_path: Path
) -> None:
    slide = tmp_path / "text.svs"
    slide.write_text("not a slide")

    def heatmap(source: Path, *flags: object) -> Result:
        command = ("heatmap", slide, "--out", tmp_path / "map.zarr", *TORCH)
        return run(*command, "--model", source, *flags)

    refused(heatmap(padded_model), "pads with zeros", "use --mode patch")
    refused(heatmap(padded_model, "--mode", "dense", "--stride", 32), "use --mode patch")
    refused(heatmap(tiny_model, *PATCH, "--stride", 7), "--stride 7", "even")
    refused(heatmap(tiny_model, "--stride", 12), "own stride, 8 px", "--mode patch")
    refused(heatmap(tiny_model, "--model", padded_model, *PATCH), "--stride 8")
    refused(heatmap(padded_model, *PATCH), slide, "not a slide")
    assert heatmap(tiny_model, "--stride", "some").exit_code == 2
    assert heatmap(tiny_model, "--mode", "both").exit_code == 2


def test_help_tells_of_it() -> None:
    text = ran("heatmap", "--help").stdout
    assert "--mode [dense|patch]" in text
    assert "[default: dense]" in text
    assert "--stride INTEGER" in text
    assert "96" in text


# --- maps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_patch_map_is_the_dense_map(engine: str, tiny_model: Path, tmp_path: Path) -> None:
    slide, _ = native(tmp_path, 130, 181)
    maps = []
    for mode in ("dense", "patch"):
        out = tmp_path / f"{mode}.zarr"
        command = ("heatmap", slide, "--out", out, "--model", tiny_model, "--mode", mode)
        ran(*command, "--engine", engine, *ONE)
        maps.append(read(out))
    dense, patch = maps
    assert dense.shape == (17, 23)
    assert 200 < np.isfinite(dense).sum() < dense.size
    assert np.nanstd(dense) > 0.01
    np.testing.assert_allclose(patch, dense, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("stride", "mode", "engine"),
    [
        *((stride, "patch", "torch") for stride in (2, 4, 6, 10, 16, 24, 32, 50, 96)),
        *((stride, "dense", "torch") for stride in (2, 4, 16, 24, 32, 64, 96)),
        *((stride, "dense", "openvino") for stride in (4, 16)),
    ],
)
def test_every_cell_is_its_patch_at_any_stride(
    stride: int,
    mode: str,
    engine: str,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither tiles nor blocks nor the slide are whole multiples of the strides."""
    monkeypatch.setattr(pipeline, "TILE_PX", max(70, stride))
    height, width = (27, 51) if stride < 6 else (143, 199)
    slide, pixels = native(tmp_path, height, width)
    out = tmp_path / "map.zarr"
    model_flags = ("--model", tiny_model)
    flags = ("--mode", mode, "--stride", stride, "--no-tissue-mask", "--engine", engine, *ONE)
    line = ran("heatmap", slide, "--out", out, *model_flags, *flags).stdout
    expected = say(tiny_model, by_hand(pixels, stride))
    assert expected.shape == (-(-height // stride), -(-width // stride))
    np.testing.assert_allclose(read(out), expected, rtol=0, atol=1e-5)
    assert np.ptp(expected) > 0.005

    cells = expected.size
    rows, columns = expected.shape
    mpx = cells * stride**2 / 1e6
    assert f"{rows} x {columns} cells, {cells} scanned, {mpx:.1f} Mpx in" in line
    heatmap = Heatmap.open(out)
    assert heatmap.grid == Grid((height, width), stride)
    (multiscale,) = json.loads((out / "zarr.json").read_text())["attributes"]["ome"]["multiscales"]
    scale, translation = multiscale["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == pytest.approx([stride * 0.972] * 2)
    assert translation["translation"] == pytest.approx([stride * 0.972 / 2] * 2)

    assert (
        "cells scored as patches"
        in ran("verify", slide, out, *model_flags, "--cells", 20, *ONE).stdout
    )
    picture = tmp_path / "map.png"
    ran("export", "png", out, "--slide", slide, "--out", picture)
    with Image.open(picture) as image:
        assert image.height > height


@pytest.mark.parametrize("stride", [4, 16])
def test_an_oriented_ensemble_of_several_strides_scans_densely(
    stride: int, tiny_model: Path, tmp_path: Path
) -> None:
    slide, _ = native(tmp_path, 61, 75)
    stride4 = networks.network(networks.plan("4/2", "N R", filters=2)).float()
    both = ("--model", tiny_model, "--model", save(tmp_path / "stride4.safetensors", stride4))
    flags = (*both, "--tta", "d4", "--stride", stride, "--no-tissue-mask", *TORCH)
    maps = []
    for mode in ("dense", "patch"):
        out = tmp_path / f"{mode}.zarr"
        ran("heatmap", slide, "--out", out, "--mode", mode, *flags)
        maps.append(read(out))
    np.testing.assert_allclose(*maps, rtol=0, atol=1e-5)
    assert np.ptp(maps[0]) > 0.001


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_padded_model_scores_patches(engine: str, padded_model: Path, tmp_path: Path) -> None:
    slide, pixels = native(tmp_path, 171, 219)
    out = tmp_path / "map.zarr"
    flags = ("--model", padded_model, "--engine", engine, *ONE)
    ran("heatmap", slide, "--out", out, *flags, *PATCH, "--no-tissue-mask")
    expected = say(padded_model, by_hand(pixels, 32))
    assert expected.shape == (6, 7)
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(read(out), expected, rtol=0, atol=1e-5)
    assert Heatmap.open(out).settings["mode"] == "patch"
    assert "tolerance 1e-05" in ran("verify", slide, out, *flags, "--cells", 12).stdout

    folder, table = tmp_path / "patches", tmp_path / "table.csv"
    folder.mkdir()
    for column, patch in enumerate(by_hand(pixels, 32)[2]):
        Image.fromarray(patch).save(folder / f"p{column}.png")
    ran("predict", folder, "--out", table, *flags)
    found = [float(line.split(",")[1]) for line in table.read_text().splitlines()[1:]]
    np.testing.assert_allclose(found, expected[2], rtol=0, atol=1e-5)


def test_verify_finds_a_wrong_cell_of_a_padded_model(padded_model: Path, tmp_path: Path) -> None:
    import zarr

    slide, _ = native(tmp_path, 130, 130)
    out = tmp_path / "map.zarr"
    ran("heatmap", slide, "--out", out, "--model", padded_model, *PATCH, *TORCH)
    values: Any = zarr.open_group(str(out), mode="r+")["0"]
    values[1, 2] += 0.001
    command = ("verify", slide, out, "--model", padded_model, *ONE)
    refused(run(*command), "(1, 2)", "does NOT equal")


def test_only_the_selected_cells_are_scored(
    tiny_model: Path, section: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Sums()
    session = Session(
        Options((str(tiny_model),), mode="patch", stride=16, threads=1), report := Quiet()
    )
    patchwise = Patchwise(engine, Field(0, 96, 16))
    monkeypatch.setattr(Session, "engine", patchwise)
    out = tmp_path / "map.zarr"
    summary = session.run(section, out)
    mask = Heatmap.open(out).mask
    tiles = [
        t for w in pipeline.plan_work([Box(0, 0, *mask.shape)], mask, TILE_CELLS) for t in w.tiles
    ]
    assert 500 < summary.scanned == mask.sum() < 0.9 * sum(tile.area for tile in tiles)
    assert sum(engine.batches) == mask.sum()
    # The pixels are those of the cells that are scored, and the bar ends at its total.
    total, done = report.bars["scanning"]
    assert total == mask.sum() * 16**2
    assert sum(done) == total
    assert len(done) == len(tiles) > 1
    assert summary.megapixels == round(total / 1e6, 3)


@dataclass
class Quiet:
    """A report that remembers its bars."""

    bars: dict[str, tuple[int, list[int]]] = field(default_factory=dict)

    @contextmanager
    def bar(self, what: str, total: int, unit: str) -> Iterator[Any]:
        assert unit == "px"
        _, steps = self.bars[what] = (total, [])

        class Bar:
            def update(self, done: int) -> None:
                steps.append(done)

        yield Bar()

    def say(self, line: str) -> None:
        pass

    warn = say


@pytest.mark.parametrize("stride", [24, 32, 48, 96])
@pytest.mark.parametrize("corner", [(0, 0), (84, 131), (170, 90), (311, 240)])
def test_no_stride_loses_a_fragment(
    stride: int, corner: tuple[int, int], tiny_model: Path, tmp_path: Path
) -> None:
    """A pale one of 50 um, however it lies on the cells: diluted on an overview of one pixel a
    cell it would be glass."""
    y, x = corner
    pixels = np.full((400, 400, 3), 243, np.uint8)
    pixels[y : y + 52, x : x + 52] = (243, 229, 238)
    slide = tmp_path / "slide.tif"
    slides.write_slide(slide, pixels, mpp=0.972)
    out = tmp_path / "map.zarr"
    ran("heatmap", slide, "--out", out, "--model", tiny_model, *PATCH, "--stride", stride, *TORCH)
    heatmap = Heatmap.open(out)
    seen = np.zeros((400, 400), bool)
    for row, column in np.argwhere(heatmap.mask):
        box = heatmap.grid.pixels(Box(row, column, row + 1, column + 1))
        seen[box.clip(Box(0, 0, 400, 400)).slices] = True
    assert seen[y : y + 52, x : x + 52].mean() > 0.5
    # One row beyond what reaches it at most.
    assert heatmap.mask.sum() <= (-(-(52 + 96) // stride) + 2) ** 2


def test_models_of_several_strides_are_averaged(
    tiny_model: Path, padded_model: Path, tmp_path: Path
) -> None:
    """With D4: the mean over models and orientations, each worked out by itself."""
    slide, pixels = native(tmp_path, 100, 130)
    out = tmp_path / "map.zarr"
    both = ("--model", tiny_model, "--model", padded_model)
    tail = (*PATCH, "--stride", 48, "--tta", "d4", *TORCH)
    ran("heatmap", slide, "--out", out, *both, *tail, "--no-tissue-mask")
    patches = by_hand(pixels, 48)
    turned = [
        np.rot90(sheet, turns, axes=(2, 3))
        for sheet in (patches, patches[:, :, ::-1])
        for turns in range(4)
    ]
    each = [say(path, sheet) for path in (tiny_model, padded_model) for sheet in turned]
    assert np.ptp(each, axis=0).min() > 0.01
    np.testing.assert_allclose(read(out), np.mean(each, axis=0), rtol=0, atol=1e-5)
    assert "tolerance 1e-05" in ran("verify", slide, out, *both, *ONE).stdout
    # Patches know no stride, so predict needs none.
    folder, table = tmp_path / "patches", tmp_path / "table.csv"
    folder.mkdir()
    Image.fromarray(patches[1, 1]).save(folder / "p.png")
    ran("predict", folder, "--out", table, *both, "--tta", "d4", *TORCH)
    score = float(table.read_text().splitlines()[1].split(",")[1])
    assert score == pytest.approx(float(np.mean(each, axis=0)[1, 1]), abs=1e-5)


def test_d4_of_patches_is_patches_of_d4(tiny_model: Path) -> None:
    ensemble = Ensemble.load([str(tiny_model)], "d4")
    engine = ensemble.engine(Backend("torch", "cpu", "fp32", 1))
    assert isinstance(engine, Oriented)
    pixels = slides.section(130, 150)[None]
    found = Patchwise(engine, Field(0, 96, 8))(pixels)
    np.testing.assert_allclose(found, engine(pixels), rtol=0, atol=1e-6)


# --- resuming ---------------------------------------------------------------------------------


def test_maps_of_two_kinds_do_not_mix(tiny_model: Path, tmp_path: Path) -> None:
    slide, _ = native(tmp_path, 120, 140)
    dense, patch = tmp_path / "dense.zarr", tmp_path / "patch.zarr"

    def heatmap(out: Path, *flags: object) -> Result:
        return run("heatmap", slide, "--out", out, "--model", tiny_model, *TORCH, *flags)

    for out, own, other, word in (
        (dense, (), PATCH, 'mode: absent there, "patch" here'),
        (patch, PATCH, (), 'mode: "patch" there, absent here'),
    ):
        assert heatmap(out, *own).exit_code == 0
        before = read(out).tobytes()
        refused(heatmap(out, *other), out, word, "--overwrite")
        refused(heatmap(out, *PATCH, "--stride", 16), out, "grid.stride: 8 there, 16 here")
        result = heatmap(out, *own, "--stride", 8)
        assert "complete already" in result.stdout
        assert read(out).tobytes() == before
    # As every map of before.
    assert "mode" not in Heatmap.open(dense).settings
    assert Heatmap.open(patch).settings["mode"] == "patch"
    assert Heatmap.open(patch).settings["batch"] == 64


@pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")
def test_killed_and_resumed_is_uninterrupted(
    section: Path, tiny_model: Path, tmp_path: Path
) -> None:
    def heatmap(name: str, strike: Strike | None = None) -> int:
        arguments = ("heatmap", section, "--out", tmp_path / name, "--model", tiny_model)
        return processes.slidescan(
            *(*arguments, *PATCH, "--stride", 24, *TORCH),
            log=tmp_path / "log",
            strike=strike,
            block_cells=16,
        )

    assert heatmap("whole.zarr") == 0, (tmp_path / "log").read_text()
    strike = Strike("slidescan.maps.store:Heatmap.write", 3, after=True)
    assert heatmap("killed.zarr", strike) == -signal.SIGKILL
    assert not Heatmap.open(tmp_path / "killed.zarr").complete
    assert heatmap("killed.zarr") == 0
    said = re.search(r"resuming, (\d+) of (\d+) blocks", (tmp_path / "log").read_text())
    assert said
    done, total = map(int, said.groups())
    assert 3 == done < total
    assert contents(tmp_path / "killed.zarr") == contents(tmp_path / "whole.zarr")


# --- what comes after -------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [4, 16, 32])
def test_evaluation_of_maps_of_any_stride(
    stride: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lesions, distances and places are in um and level-0 px, whatever the cells."""
    monkeypatch.setattr(slide_level, "TREES", 20)
    monkeypatch.setattr(slide_report, "draw", lambda *_: None)  # half of the time
    grid = Grid((640, 768), stride)
    y, x = ((np.arange(cells) + 0.5) * stride for cells in grid.shape)
    on = np.outer(abs(y - 320) < 192, abs(x - 256) < 192)
    values = np.where(on, np.float32(0.9), np.float32(0.1))
    slide = {"fingerprint": "test:1", "mpp": [0.972, 0.972], "extent_l0": list(grid.extent_px)}
    made_by = {"slide": slide, "model": {"name": "tiny", "sha256": "ab" * 32}, "mode": "patch"}
    out = tmp_path / "tumor_1.zarr"
    mask, about = np.ones(grid.shape, bool), {"slide": "tumor_1.tif"}
    with Heatmap.create(
        out, grid=grid, mpp=0.972, mask=mask, settings=made_by, provenance=about
    ) as made:
        made.write(grid.cells, values)
        made.finish({})
    annotations, folder = tmp_path / "annotations", tmp_path / "out"
    annotations.mkdir()
    corners = [[64, 128], [448, 128], [448, 512], [64, 512]]
    content = {"positive": [{"name": "L", "vertices": corners}], "negative": []}
    (annotations / "tumor_1.json").write_text(json.dumps(content))
    ran("evaluate", "slides", out, "--annotations", annotations, "--out", folder, "--resamples", 0)
    found = json.loads((folder / "metrics.json").read_text())
    assert found["about"]["um_per_cell"] == pytest.approx(stride * 0.972)
    assert found["metrics"]["cell_dice"]["value"] == 1
    (case,) = found["per_slide"]
    (lesion,) = case["lesions"]
    assert lesion["score"] == {"nms": pytest.approx(0.9), "components": pytest.approx(0.9)}
    with (folder / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["on"] for row in rows} == {"lesion 1"}
    assert all(64 <= int(row["x_l0"]) <= 448 for row in rows)
    assert all(128 <= int(row["y_l0"]) <= 512 for row in rows)
