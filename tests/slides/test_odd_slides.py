"""Slides whose size, resolution or samples are not what they seem: refused or warned of by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slides
import tifffile
from commands import ran, refused, run

from slidescan.errors import SlideError
from slidescan.maps.store import Heatmap
from slidescan.slides import properties
from slidescan.slides.properties import check_size, find_levels, find_warnings
from slidescan.slides.samples import Samples, find_samples
from slidescan.slides.slide import Slide
from slidescan.slides.tiff_index import read_directories

UM = 1e4  # a centimetre
TISSUE = slides.section(256, 256)


def write(path: Path, pixels: object, **changes: object) -> Path:
    how = {"tile": (64, 64), "photometric": "rgb", "resolution": (UM, UM)}
    tifffile.imwrite(path, pixels, **how | {"resolutionunit": "CENTIMETER"} | changes)
    return path


@pytest.mark.parametrize("mpp", [0.001, 0.0499, UM / (2**32 - 1)])
def test_a_recorded_resolution_beyond_optics_is_refused(tmp_path: Path, mpp: float) -> None:
    path = tmp_path / "s.tif"
    slides.write_slide(path, TISSUE, mpp=mpp)
    with pytest.raises(SlideError, match=r"records .* um/px, .* finer than any .* --mpp 0\.25"):
        Slide.open(path)
    with Slide.open(path, mpp=0.25) as slide:
        assert slide.mpp == (0.25, 0.25)


@pytest.mark.parametrize("mpp", ["0.001", "0.0001", "0.00001", "1e-300", "0.0499"])
def test_a_given_resolution_beyond_optics_is_refused(tmp_path: Path, mpp: str) -> None:
    slides.write_slide(tmp_path / "s.tif", TISSUE, mpp=0.972)
    out = tmp_path / "map.zarr"
    refused(run("heatmap", tmp_path / "s.tif", "--out", out, "--mpp", mpp), "--mpp", "0.05")
    assert not out.exists()


def test_the_floor_itself_is_a_resolution(tmp_path: Path) -> None:
    slides.write_slide(tmp_path / "s.tif", TISSUE, mpp=0.972)
    with Slide.open(tmp_path / "s.tif", mpp=0.05) as slide:
        assert slide.plane(0.972).shape_px == (14, 14)


@pytest.mark.parametrize("extent", [(2**31, 2**31), (2**31, 100), (800_000, 800_000)])
def test_a_slide_larger_than_glass_is_refused(extent: tuple[int, int]) -> None:
    with pytest.raises(SlideError, match=r"cm, larger than any slide.*--mpp.*damaged"):
        check_size(Path("s.tif"), extent, (0.25, 0.25))
    check_size(Path("s.tif"), (600_000, 800_000), (0.25, 0.25))  # 15 x 20 cm


def test_the_size_is_checked_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides.write_slide(tmp_path / "s.tif", TISSUE, mpp=0.25)
    monkeypatch.setattr(properties, "LARGEST_UM", 50.0)
    result = run("heatmap", tmp_path / "s.tif", "--out", tmp_path / "map.zarr")
    refused(result, "256 x 256 px", "larger than any slide")


def test_an_empty_level_is_refused() -> None:
    with pytest.raises(SlideError, match="level 1 is 0 x 5 px"):
        find_levels(Path("s.tif"), [(100, 80), (0, 5)], [1.0, 20.0], {}, (0.25, 0.25))


@pytest.mark.parametrize("size", [(1, 1), (2**31, 7), (99, 80), (300, 300)])
def test_absurd_levels_are_described_not_a_crash(size: tuple[int, int]) -> None:
    found = find_levels(Path("s.tif"), [(100, 80), size], [1.0, 2.0], {}, (0.25, 0.25))
    assert found[1].shape_px == size[::-1]
    assert min(found[1].mpp) > 0


def test_what_is_odd_about_a_resolution() -> None:
    aperio = {
        "aperio.MPP": "0.25", "tiff.XResolution": "10000", "tiff.ResolutionUnit": "centimeter"
    }  # fmt: skip
    (line,) = find_warnings(aperio, (0.25, 0.25), 40, given=False)
    assert "0.25 um/px" in line
    assert "resolution is 1;" in line
    assert find_warnings(aperio, (0.25, 0.25), 40, given=True) == ()
    printer = aperio | {"tiff.XResolution": "72", "tiff.ResolutionUnit": "inch"}
    assert find_warnings(printer, (0.25, 0.25), 40, given=False) == ()
    (line,) = find_warnings({}, (0.25, 0.5), None, given=False)
    assert "0.25 um/px along y and 0.5 along x" in line
    assert find_warnings({}, (0.2525, 0.2524), None, given=False) == ()


@pytest.mark.parametrize(
    ("pixels", "changes", "found"),
    [
        (TISSUE.astype(np.uint16) * 16, {}, "16-bit unsigned integer samples"),
        (TISSUE.astype(np.uint16) * 16, {"bigtiff": True}, "16-bit unsigned integer samples"),
        (TISSUE.astype(np.float32) / 255, {}, "32-bit floating-point samples"),
        (TISSUE.astype(np.int8), {}, "8-bit signed integer samples"),
    ],
)
def test_samples_that_are_not_8_bits_are_refused(
    tmp_path: Path, pixels: object, changes: dict[str, object], found: str
) -> None:
    path = write(tmp_path / "s.tif", pixels, **changes)
    with pytest.raises(SlideError, match=f"{found}.*convert the slide to 8-bit RGB"):
        Slide.open(path)


def test_an_ome_tiff_of_planes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "planes.ome.tif"
    write(path, np.moveaxis(TISSUE, 2, 0), photometric="minisblack", metadata={"axes": "CYX"})
    with pytest.raises(SlideError, match="its 3 channels in separate planes"):
        Slide.open(path)
    write(path, TISSUE, metadata={"axes": "YXS"})
    Slide.open(path).close()


def test_what_is_no_tiff_has_no_samples(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", TISSUE)
    assert find_samples(read_directories(path)) == Samples(8, "unsigned integer", 3, 1)
    other = write(tmp_path / "b.tif", TISSUE, byteorder=">")
    assert find_samples(read_directories(other)) == find_samples(read_directories(path))
    content = path.read_bytes()
    for broken in (b"", b"II*\0", content[:9], b"\xff" * 99, content[:4] + b"\xff" * 99):
        path.write_bytes(broken)
        assert find_samples(read_directories(path)) is None


INVERTED, GREY = 255 - TISSUE, np.repeat(TISSUE.mean(2, keepdims=True), 3, 2).astype(np.uint8)
BROWN = TISSUE[..., [0, 2, 1]]  # blue is the lowest channel, as with DAB


@pytest.mark.parametrize("pixels", [INVERTED, GREY, BROWN], ids=["inverted", "grey", "brown"])
def test_pixels_unlike_h_and_e_are_warned_of(
    pixels: slides.Pixels, tiny_model: Path, tmp_path: Path
) -> None:
    tail = ("--out", tmp_path / "map.zarr", "--model", tiny_model, "--engine", "torch")
    slides.write_slide(tmp_path / "s.tif", pixels, mpp=0.972)
    (line,) = ran("heatmap", tmp_path / "s.tif", *tail).stderr.splitlines()
    assert "unlike a slide stained with H&E" in line
    he_like = Heatmap.open(tmp_path / "map.zarr").provenance["he_like"]
    assert f"in {he_like:.0%} of the tissue" in line
    assert he_like < 0.25


def test_h_and_e_is_not_warned_of(tiny_model: Path, tmp_path: Path) -> None:
    slides.write_slide(tmp_path / "s.tif", TISSUE, mpp=0.972)
    tail = ("--out", tmp_path / "map.zarr", "--model", tiny_model, "--engine", "torch")
    assert ran("heatmap", tmp_path / "s.tif", *tail).stderr == ""
    assert Heatmap.open(tmp_path / "map.zarr").provenance["he_like"] > 0.9


@pytest.mark.parametrize("name", ["strips.tif", "webp.tif", "image.png"])
def test_what_openslide_does_not_read_names_the_conversion(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".png"):
        path.write_bytes(b"\x89PNG\r\n\x1a\n")
    elif name == "webp.tif":
        write(path, TISSUE, compression="webp")
    else:
        slides.write_strips(path, TISSUE)
    with pytest.raises(SlideError, match=f"vips tiffsave {name} tiled.tif --tile --pyramid"):
        Slide.open(path)
