"""The map and `export ngff04` as readers of OME-NGFF see them."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from checkers import Checkers, Floats, Sampler
from commands import ran, refused, run
from numpy.typing import NDArray
from ome_zarr_models import v04

from slidescan.maps.finished import open_finished
from slidescan.maps.store import Heatmap


def by_centres(level: NDArray[Any], dataset: dict[str, Any], mpp: float) -> Sampler:
    """As the specification says, and neuroglancer and ome-zarr-py do: places are of centres."""
    scale, translation = dataset["coordinateTransformations"]

    def sample(x: Floats, y: Floats) -> Floats:
        rows, columns = (
            np.rint((each * mpp - start) / step).astype(int)
            for each, start, step in zip(
                (y, x), translation["translation"], scale["scale"], strict=True
            )
        )
        inside = np.minimum(rows, level.shape[0] - 1), np.minimum(columns, level.shape[1] - 1)
        values: Floats = level[inside].astype(float)
        return values

    return sample


def test_maps_lie_on_the_slide(boards: Checkers, tmp_path: Path) -> None:
    out = tmp_path / "map-04.zarr"
    ran("export", "ngff04", boards.map_path, "--out", out)
    new, old = (zarr.open_group(path, mode="r") for path in (boards.map_path, out))
    for group, attributes in ((new, new.attrs["ome"]), (old, old.attrs)):
        (image,) = attributes["multiscales"]  # type: ignore[index, call-overload]
        assert [axis["unit"] for axis in image["axes"]] == ["micrometer", "micrometer"]
        sample = by_centres(np.asarray(group["0"]), image["datasets"][0], boards.mpp)
        assert boards.error_l0(sample) <= 0.5 * boards.cell_l0 + 1


def test_viewers_are_told_to_show_0_to_1_in_a_colour(board: Checkers, tmp_path: Path) -> None:
    out = tmp_path / "map-04.zarr"
    ran("export", "ngff04", board.map_path, "--out", out)
    new, old = (zarr.open_group(path, mode="r") for path in (board.map_path, out))
    for omero in (new.attrs["ome"]["omero"], old.attrs["omero"]):  # type: ignore[index, call-overload]
        (channel,) = omero["channels"]
        assert channel["window"] == {"start": 0, "end": 1, "min": 0, "max": 1}
        assert bytes.fromhex(channel["color"]) == bytes([230, 159, 0])
        assert channel["active"] is True


def test_validators_accept_the_older_version(board: Checkers, tmp_path: Path) -> None:
    out = tmp_path / "map-04.zarr"
    ran("export", "ngff04", board.map_path, "--out", out)
    group = zarr.open_group(out, mode="r", zarr_format=2)
    image = v04.Image.from_zarr(group)
    label = v04.ImageLabel.from_zarr(zarr.open_group(out / "labels/tissue", mode="r"))
    for found in (image, label):
        (scales,) = found.attributes.multiscales
        assert scales.version == "0.4"
    source = Heatmap.open(board.map_path)
    np.testing.assert_array_equal(group["0"], source.read(source.grid.cells))
    np.testing.assert_array_equal(group["labels/tissue/0"], source.mask)
    kept = group.attrs["slidescan"]
    assert kept["settings"] == source.settings  # type: ignore[index, call-overload]
    assert {path.name for path in out.rglob("zarr.json")} == set()
    assert group["0"].metadata.compressor.codec_id == "zlib"  # type: ignore[union-attr]


def test_what_is_not_an_image_is_never_replaced(board: Checkers, tmp_path: Path) -> None:
    out = tmp_path / "precious.zarr"
    out.mkdir()
    (out / "data").touch()
    refused(run("export", "ngff04", board.map_path, "--out", out, "--overwrite"), "left alone")
    assert [path.name for path in out.iterdir()] == ["data"]


def test_maps_of_earlier_versions_have_no_window_and_open_as_before(
    board: Checkers, tmp_path: Path
) -> None:
    old = Path(shutil.copytree(board.map_path, tmp_path / "old.zarr"))
    group = zarr.open_group(old, mode="r+")
    ome = dict(group.attrs["ome"])  # type: ignore[arg-type]
    del ome["omero"]
    group.attrs["ome"] = ome
    shutil.rmtree(old / "0" / "c")
    with Heatmap.open(old, writable=True) as heatmap:
        heatmap._mark(complete=False)
        values = Heatmap.open(board.map_path).read(heatmap.grid.cells)
        for block in list(heatmap.missing()):
            heatmap.write(block, values[block.slices])
        heatmap.finish({})
    np.testing.assert_array_equal(open_finished(old).read(heatmap.grid.cells), values)


@pytest.mark.skipif(find_spec("napari_ome_zarr") is None, reason="needs napari-ome-zarr")
@pytest.mark.filterwarnings("ignore")  # napari's own
def test_naparis_reader_shows_the_window_and_needs_half_a_cell(board: Checkers) -> None:
    """docs/viewers.md: it drops the translation, which its scale gives back."""
    from napari.layers import Layer
    from napari_ome_zarr import napari_get_reader

    read = napari_get_reader(str(board.map_path))
    assert read is not None
    layer = Layer.create(*read(str(board.map_path))[0])
    assert list(layer.contrast_limits) == [0, 1]
    cell_um = board.cell_l0 * board.mpp
    np.testing.assert_allclose(layer.data_to_world((0, 0)), 0)
    layer.translate = np.asarray(layer.scale) / 2
    np.testing.assert_allclose(layer.data_to_world((0, 0)), cell_um / 2)
