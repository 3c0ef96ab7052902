"""The public Python API: values are those of the commands, coordinates those of the slide."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import networks
import numpy as np
import pytest
import slides
import torch
from commands import ran
from models import save
from numpy.typing import NDArray
from PIL import Image

import slidescan
from slidescan.geometry import Box
from slidescan.maps.store import Heatmap
from slidescan.networks.network import Network
from slidescan.slides.slide import Slide

MPP = 0.972
ONE = ("--engine", "torch", "--threads", "1")


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkerboard with other um/px along y than along x."""
    path = tmp_path_factory.mktemp("board") / "board.tif"
    slides.write_slide(path, slides.checkerboard(620, 570), mpp=(0.45, 0.6), levels=(2,))
    return path


@pytest.fixture(scope="module")
def made(board: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> slidescan.Map:
    out = tmp_path_factory.mktemp("made") / "map.zarr"
    with pytest.warns(UserWarning, match="0.45 um/px along y and 0.6 along x"):
        return slidescan.scan(
            board, out, tiny_model, engine="torch", threads=1, tissue_mask=False, stride=16
        )


# --- the package


def test_importing_it_loads_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); import slidescan; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split()) - {"importlib", "importlib._bootstrap", "typing"}
    assert not {name.partition(".")[0] for name in loaded} & {"numpy", "torch", "zarr", "click"}
    assert {name for name in loaded if name.startswith("slidescan")} == {"slidescan"}


def test_on_a_cpu_all_but_load_works_without_torch(
    section: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """Once the networks are compiled, which the commands do as well."""
    one = ("--threads", 1, "--model", tiny_model)
    ran("heatmap", section, *one, "--out", tmp_path / "first.zarr")
    patch = tmp_path / "patches" / "p.png"
    patch.parent.mkdir()
    Image.fromarray(slides.section(96, 96)).save(patch)
    ran("predict", patch.parent, *one, "--out", tmp_path / "table.csv")
    code = """
import sys, slidescan
slide, out, model, patch = sys.argv[1:]
assert slidescan.scan(slide, out, model, threads=1).values.shape
assert slidescan.open_map(out).complete
assert slidescan.predict([patch], model, threads=1).shape == (1,)
assert slidescan.read_region(slide, (0, 0, 5, 4), 0.972).shape == (4, 5, 3)
print("torch" in sys.modules)
slidescan.load(model)
print("torch" in sys.modules)
"""
    command = [sys.executable, "-c", code, section, tmp_path / "map.zarr", tiny_model, patch]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_every_public_name_is_found_and_listed() -> None:
    assert list(slidescan.__all__) == sorted(slidescan.__all__)
    for name in slidescan.__all__:
        assert getattr(slidescan, name).__doc__
        assert name in dir(slidescan)
    assert slidescan.__version__
    with pytest.raises(AttributeError, match="no attribute 'heatmap'"):
        slidescan.heatmap  # noqa: B018


def test_the_example_of_the_readme_runs(
    section: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", text, flags=re.S)
    assert example
    shutil.copy(section, tmp_path / "slide.tif")
    monkeypatch.chdir(tmp_path)
    exec(example[1], {})
    cell, patch, shape = capsys.readouterr().out.splitlines()
    assert float(cell) == pytest.approx(float(patch), abs=1e-5)
    assert 0 < float(cell) < 1
    assert shape.endswith("1, 1])")


# --- scan and open_map


def test_a_scan_is_that_of_the_command(
    made: slidescan.Map, board: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "map.zarr"
    flags = ("--no-tissue-mask", "--stride", 16, "--model", tiny_model, *ONE)
    ran("heatmap", board, *flags, "--out", out)
    written = Heatmap.open(out)
    np.testing.assert_array_equal(made.values, written.read(written.grid.cells))
    assert made.values.dtype == np.float32
    assert np.ptp(made.values) > 0.01
    assert made.settings == written.settings
    assert made.provenance["command"].startswith("slidescan.scan('")
    assert written.provenance["command"].partition(" ")[0] == "slidescan"
    assert (made.mpp, made.stride_px, made.field_px) == (MPP, 16, 96)
    assert made.shape == made.tissue.shape == made.values.shape


def test_progress_ends_at_its_total_and_nothing_is_printed(
    section: Path, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    heard: list[slidescan.Progress] = []
    out = tmp_path / "map.zarr"
    found = slidescan.scan(
        section, out, str(tiny_model), engine="torch", threads=1, progress=heard.append
    )
    assert {each.step for each in heard} == {"finding tissue", "scanning"}
    for step in ("finding tissue", "scanning"):
        of = [each for each in heard if each.step == step]
        assert of[0].done == 0
        assert of[-1].done == of[-1].total > 0
        assert [each.done for each in of] == sorted(each.done for each in of)
    assert np.isfinite(found.values).sum() == found.tissue.sum() > 100
    assert slidescan.scan(section, out, tiny_model, engine="torch", threads=1).shape == found.shape
    assert capfd.readouterr() == ("", "")


def test_what_looks_wrong_is_a_python_warning(tiny_model: Path, tmp_path: Path) -> None:
    slide = tmp_path / "glass.tif"
    slides.write_slide(slide, np.full((200, 200, 3), 243, np.uint8), mpp=MPP)
    with pytest.warns(UserWarning, match="no tissue found"):
        slidescan.scan(slide, tmp_path / "map.zarr", tiny_model, engine="torch", threads=1)


def test_an_unfinished_map_is_opened_only_when_asked(made: slidescan.Map, tmp_path: Path) -> None:
    path = Path(shutil.copytree(made.path, tmp_path / "map.zarr"))
    record = json.loads((path / "zarr.json").read_text())
    record["attributes"]["slidescan"]["complete"] = False
    (path / "zarr.json").write_text(json.dumps(record))
    with pytest.raises(slidescan.SlidescanError, match="has not finished"):
        slidescan.open_map(path)
    found = slidescan.open_map(path, unfinished=True)
    assert not found.complete
    np.testing.assert_array_equal(found.values, made.values)


def test_coordinates_are_those_of_cell_centres(made: slidescan.Map) -> None:
    cell = 16 * MPP
    np.testing.assert_allclose(made.y_um, (np.arange(made.shape[0]) + 0.5) * cell)
    np.testing.assert_allclose(made.x_um, (np.arange(made.shape[1]) + 0.5) * cell)
    np.testing.assert_allclose(made.y_l0 * 0.45, made.y_um)
    np.testing.assert_allclose(made.x_l0 * 0.6, made.x_um)
    # The last cells reach the edge of the slide, 620 x 570 px.
    for centres, step, extent in ((made.y_l0, cell / 0.45, 620), (made.x_l0, cell / 0.6, 570)):
        assert centres[-1] - step / 2 < extent <= centres[-1] + step / 2


def test_at_takes_level_0_pixels(made: slidescan.Map) -> None:
    x, y = np.meshgrid(made.x_l0, made.y_l0)
    np.testing.assert_array_equal(made.at(x, y), made.values)
    height, width = made.cell_l0
    found = made.at(made.x_l0[5] + 0.49 * width, made.y_l0[3] - 0.49 * height)
    assert isinstance(found, float)
    assert found == made.values[3, 5]
    assert made.at(made.x_l0[5] + 0.51 * width, made.y_l0[3]) == made.values[3, 6]
    outside = made.at([-0.1, 5, 1e6, 5], [5, -0.1, 5, 1e6])
    assert np.isnan(outside).all()


def test_a_cell_is_the_patch_around_its_coordinates(
    made: slidescan.Map, board: Path, tiny_model: Path
) -> None:
    """Map, region and prediction agree on where a position is."""
    cells = [(2, 7), (11, 3), (0, 0), (17, 21)]
    corners = [(round(made.x_um[c] / MPP) - 48, round(made.y_um[r] / MPP) - 48) for r, c in cells]
    patches = np.stack([slidescan.read_region(board, (*xy, 96, 96), MPP) for xy in corners])
    alone = slidescan.predict(patches, tiny_model, engine="torch", threads=1)
    np.testing.assert_allclose(alone, [made.values[cell] for cell in cells], atol=1e-6)
    assert np.ptp(alone) > 1e-4


def test_to_xarray(made: slidescan.Map) -> None:
    pytest.importorskip("xarray")
    array = made.to_xarray()
    assert array.dims == ("y", "x")
    np.testing.assert_array_equal(array, made.values)
    nearest = array.sel(y=made.y_um[4] + 1, x=made.x_um[9] - 1, method="nearest")
    assert float(nearest) == made.values[4, 9]
    np.testing.assert_array_equal(array["x_l0"], made.x_l0)
    np.testing.assert_array_equal(array["tissue"], made.tissue)
    assert array.attrs["slide"] == "board.tif"


def test_without_xarray_the_remedy_is_named(
    made: slidescan.Map, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(slidescan.SlidescanError, match="pip install xarray"):
        made.to_xarray()


# --- read_region


def test_a_region_has_its_place_and_is_white_outside(tmp_path: Path) -> None:
    path = tmp_path / "plane.tif"
    (pixels,) = slides.write_slide(path, slides.checkerboard(200, 300), mpp=0.5)
    region = slidescan.read_region(path, (64, 96, 32, 16), 0.5)
    assert region.shape == (16, 32, 3)
    np.testing.assert_array_equal(region, pixels[96:112, 64:96])
    over = slidescan.read_region(path, (290, -10, 20, 30), 0.5)
    assert (over[:10] == 255).all()
    assert (over[:, 10:] == 255).all()
    np.testing.assert_array_equal(over[10:, :10], pixels[:20, 290:])
    with Slide.open(path) as slide:
        read = slide.plane(0.7).read(Box(5, 20, 50, 90))
    np.testing.assert_array_equal(slidescan.read_region(path, (20, 5, 70, 45), 0.7), read)
    with pytest.raises(ValueError, match="width and height"):
        slidescan.read_region(path, (0, 0, 10, 0), 0.5)


# --- predict


@pytest.fixture(scope="module")
def patches() -> NDArray[np.uint8]:
    return np.stack([slides.section(96, 96, seed) for seed in range(5)])


def test_a_prediction_is_that_of_the_command(
    patches: NDArray[np.uint8], tiny_model: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "patches", tmp_path / "table.csv"
    folder.mkdir()
    for row, pixels in enumerate(patches):
        Image.fromarray(pixels).save(folder / f"p{row}.png")
    ran("predict", folder, "--model", tiny_model, *ONE, "--out", out)
    written = [np.float32(line.split(",")[1]) for line in out.read_text().splitlines()[1:]]
    how = {"model": tiny_model, "engine": "torch", "threads": 1}
    paths = sorted(folder.iterdir())
    for given in (patches, folder, paths, [str(path) for path in paths]):
        found = slidescan.predict(given, **how)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, written)
    backwards = slidescan.predict([*paths[::-1], paths[0]], **how)  # files may be named twice
    np.testing.assert_allclose(backwards, [*written[::-1], written[0]], atol=1e-6)
    heard: list[slidescan.Progress] = []
    assert slidescan.predict(paths[2], **how, progress=heard.append) == pytest.approx(written[2])
    assert heard[-1] == slidescan.Progress("predicting", 1, 1, "patch")


def test_predict_refuses(patches: NDArray[np.uint8], tiny_model: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    Image.fromarray(patches[0, :50]).save(small)
    how = {"model": tiny_model, "engine": "torch", "threads": 1}
    with pytest.raises(slidescan.SlidescanError, match=r"small.png: is 96 x 50 px.*1 of 1"):
        slidescan.predict([small], **how)
    with pytest.raises(slidescan.SlidescanError, match="did you mean best"):
        slidescan.predict(patches, "bset")
    for wrong in (patches.astype(np.float32), patches[:, :90], patches[0]):
        with pytest.raises(ValueError, match="uint8 of shape"):
            slidescan.predict(wrong, **how)  # type: ignore[arg-type]


# --- load


def tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2)


def test_a_loaded_model_gives_what_predict_gives(
    patches: NDArray[np.uint8], tiny_model: Path
) -> None:
    model = slidescan.load(tiny_model)
    assert (model.field_px, model.stride_px, model.mpp) == (96, 8, MPP)
    assert not model.training
    x = tensor(patches)
    found = model.probability(x)
    assert found.shape == (5, 1, 1)
    torch.testing.assert_close(model.probability(x.float()), found, rtol=0, atol=0)
    torch.testing.assert_close(torch.softmax(model(x), dim=1)[:, 1], found)
    alone = slidescan.predict(patches, tiny_model, engine="torch", threads=1)
    np.testing.assert_allclose(found[:, 0, 0], alone, atol=1e-6)


def test_a_larger_image_gives_the_map(tiny_model: Path) -> None:
    model, image = slidescan.load(tiny_model), slides.section(96 + 5 * 8 + 3, 96 + 2 * 8)
    dense = model.probability(tensor(image[None]))
    assert dense.shape == (1, 6, 3)
    patch = image[4 * 8 : 4 * 8 + 96, 8 : 8 + 96]
    torch.testing.assert_close(
        dense[:, 4:5, 1:2], model.probability(tensor(patch[None])), rtol=0, atol=1e-6
    )
    features = model.features(tensor(image[None]))
    assert features.shape[0] == 1
    assert features.shape[2:] == (6, 3)


@pytest.mark.parametrize("pool", ["mean", "max", "log-sum-exp", "attention"])
def test_features_are_a_vector_a_cell(pool: str, tmp_path: Path) -> None:
    plan = networks.plan("4/2", "R N R", pool, grid=3)
    model = _saved(networks.network(plan).float(), tmp_path)
    x = tensor(slides.section(96 + 2 * model.stride_px, 96)[None])
    features, probability = model.features(x), model.probability(x)
    assert features.shape == (1, model.network.body.channels, *probability.shape[1:])
    if pool in ("mean", "max"):
        logits = model.network.head.classifier(features)
        torch.testing.assert_close(logits, model(x))


def _saved(network: Network, folder: Path) -> slidescan.Classifier:
    return slidescan.load(save(folder / "model.safetensors", network))


def test_load_refuses(tiny_model: Path, tmp_path: Path) -> None:
    model = slidescan.load(tiny_model)
    for shape in ((1, 3, 95, 96), (1, 96, 96, 3), (3, 96, 96)):
        with pytest.raises(ValueError, match="needs"):
            model(torch.zeros(shape))
    with pytest.raises(slidescan.SlidescanError, match="did you mean fast"):
        slidescan.load("fats")
    with pytest.raises(slidescan.SlidescanError, match=r"no best.json in this folder"):
        slidescan.load(tmp_path)


def test_a_runs_folder_is_its_best_model(tiny_model: Path, tmp_path: Path) -> None:
    for suffix in (".safetensors", ".json"):
        shutil.copy(tiny_model.with_suffix(suffix), tmp_path / f"best{suffix}")
    assert slidescan.load(tmp_path).card == slidescan.load(tiny_model).card
