"""Slides through OpenSlide: levels, resolution, lossless and position-true reads, errors."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import slides
from handles import FakeHandle
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from slidescan.errors import SlideError
from slidescan.geometry import Box
from slidescan.slides.properties import true_downsample
from slidescan.slides.slide import Slide

# ---------------------------------------------------------------- what a slide says of itself


def test_describes_the_slide(slide_folder):
    with Slide.open(slide_folder / "checkerboard.tif") as slide:
        assert slide.mpp == (0.25, 0.25)
        assert slide.extent_l0 == (1027, 1301)
        assert slide.bounds_l0 == Box(0, 0, 1027, 1301)
        assert [level.shape_px for level in slide.levels] == [(1027, 1301), (256, 325), (64, 81)]
        assert [level.downsample for level in slide.levels] == [(1, 1), (4, 4), (16, 16)]
        assert [level.mpp for level in slide.levels] == [(0.25, 0.25), (1, 1), (4, 4)]
        assert slide.levels[1].reported != 4, "the slide should have a mean that is no integer"
        assert slide.objective_power is None
        assert slide.warnings == ()
        assert slide.fingerprint.startswith("quickhash-1:")


@pytest.mark.parametrize(
    ("extent", "shape", "expected"),
    [
        ((32914, 46000), (2057, 2875), (16, 16)),  # CMU-1.svs; OpenSlide reports 16.0005
        ((3567, 4443), (1783, 2221), (2, 2)),  # TCGA; 2.0005
        ((1025, 1030), (257, 258), (4, 4)),  # rounded up
        ((1000, 1000), (333, 334), (3, 3)),  # one axis down, one up
        ((32914, 46000), (128, 179), (256, 256)),  # 257 would explain it as well
        ((1000, 1000), (391, 500), (1000 / 391, 2)),  # no single integer
    ],
)
def test_true_downsample(extent, shape, expected):
    assert true_downsample(extent, shape) == expected


def test_mpp_may_differ_between_the_axes(tmp_path):
    slides.write_slide(tmp_path / "s.tif", slides.checkerboard(400, 300), mpp=(0.5, 0.25))
    with Slide.open(tmp_path / "s.tif") as slide:
        assert slide.mpp == (0.5, 0.25)
        plane = slide.plane(0.5)
        assert (plane.shape_px, plane.ratio) == ((400, 150), (1, 2))
        assert plane.read(Box(0, 0, 400, 150)).shape == (400, 150, 3)


def test_given_mpp_overrides_the_recorded(slide_folder):
    with Slide.open(slide_folder / "checkerboard.tif", mpp=0.5) as slide:
        assert slide.mpp == (0.5, 0.5)
        assert slide.levels[1].mpp == (2, 2)


def test_without_mpp_the_error_names_the_remedy(slide_folder):
    with pytest.raises(SlideError, match=r"no-mpp\.tif: .*no resolution.*--mpp 0\.25"):
        Slide.open(slide_folder / "no-mpp.tif")
    with Slide.open(slide_folder / "no-mpp.tif", mpp=0.3) as slide:
        assert slide.mpp == (0.3, 0.3)


@pytest.mark.parametrize("mpp", [0.0, -0.25, float("nan"), float("inf")])
def test_given_mpp_must_be_a_resolution(slide_folder, mpp):
    with pytest.raises(SlideError, match="--mpp"):
        Slide.open(slide_folder / "even.tif", mpp=mpp)
    with Slide.open(slide_folder / "even.tif") as slide, pytest.raises(ValueError, match="mpp"):
        slide.plane(mpp)


# ------------------------------------------------------------------------------ choosing a level


@pytest.mark.parametrize(
    ("mpp", "level"), [(0.228, 0), (0.25, 0), (0.9, 0), (0.972, 1), (1.0, 1), (3.6, 1), (3.7, 2)]
)
def test_level_is_the_coarsest_at_most_a_tenth_coarser(slide_folder, mpp, level):
    with Slide.open(slide_folder / "checkerboard.tif") as slide:
        assert slide.plane(mpp).level == level


def test_too_coarse_says_what_is_needed_what_there_is_and_the_remedy(slide_folder):
    with (
        Slide.open(slide_folder / "checkerboard.tif") as slide,
        pytest.raises(SlideError, match=r"needs 0\.2 um/px.* has 0\.25.*--mpp"),
    ):
        slide.plane(0.2)


@pytest.mark.parametrize(
    ("mpp", "shape"),
    [(0.25, (1027, 1301)), (1.0, (257, 326)), (0.5, (514, 651)), (0.972, (265, 335))],
)
def test_plane_covers_the_slide_rounded_up(slide_folder, mpp, shape):
    with Slide.open(slide_folder / "checkerboard.tif") as slide:
        plane = slide.plane(mpp)
        assert plane.shape_px == shape
        assert plane.bounds == Box(0, 0, *shape)
        assert plane.mpp == mpp


def test_float_noise_adds_no_pixel(tmp_path):
    # 300 * 0.1 / 0.3 is 100.00000000000001 in floats.
    slides.write_slide(tmp_path / "s.tif", slides.checkerboard(300, 300))
    with Slide.open(tmp_path / "s.tif", mpp=0.1) as slide:
        assert slide.plane(0.3).shape_px == (100, 100)


# ---------------------------------------------------------------------------------------- pixels


def test_a_level_at_the_planes_resolution_is_read_lossless(tmp_path):
    pyramid = slides.write_slide(tmp_path / "s.tif", slides.noise(512, 768), levels=(4,))
    with Slide.open(tmp_path / "s.tif") as slide:
        for mpp, stored in zip((0.25, 1.0), pyramid, strict=True):
            plane = slide.plane(mpp)
            assert np.array_equal(plane.read(Box(0, 0, *plane.shape_px)), stored)
            assert np.array_equal(plane.read(Box(13, 7, 120, 99)), stored[13:120, 7:99])


def test_recorded_noise_of_a_millionth_still_reads_lossless(tmp_path):
    # 0.243 um/px as a TIFF fraction comes back as 0.243 +- 1e-8.
    stored = slides.write_slide(tmp_path / "s.tif", slides.noise(256, 256), mpp=0.243, levels=(4,))
    with Slide.open(tmp_path / "s.tif") as slide:
        assert slide.plane(0.972).ratio == (1, 1)
        assert np.array_equal(slide.plane(0.972).read(Box(0, 0, 64, 64)), stored[1])


@pytest.mark.parametrize("mpp", [0.25, 0.487, 0.972, 1.0, 2.0])
def test_colours_lie_where_the_slide_has_them(slide_folder, mpp):
    board = slides.checkerboard(1027, 1301)
    with Slide.open(slide_folder / "checkerboard.tif") as slide:
        plane = slide.plane(mpp)
        pixels = plane.read(Box(0, 0, *plane.shape_px)).astype(int)
    side_px = 32 * 0.25 / mpp
    for row in range(0, 31, 3):
        for column in range(0, 39, 3):
            centre = int((row + 0.5) * side_px), int((column + 0.5) * side_px)
            expected = board[row * 32 + 16, column * 32 + 16].astype(int)
            assert np.abs(pixels[centre] - expected).max() <= 12, (row, column)


def test_level_with_a_fractional_downsample_keeps_its_pixels_in_place(slide_folder):
    """Cairo may shift a block by half a level-0 pixel, never by more and never cumulatively."""
    expected = slides.shrink(slides.waves(701, 901), 2).astype(int)
    with Slide.open(slide_folder / "waves.tif") as slide:
        assert slide.levels[1].reported != 2
        got = slide.read_level(1, Box(0, 0, 350, 450)).astype(int)
    error = np.abs(got - expected)[:-1, :-1]  # the last pixel may mix with the white beyond
    # The slopes are at most 10 grey levels per level pixel; a whole pixel of shift shows.
    assert error.mean() < 2
    assert error.max() <= 5


@pytest.mark.parametrize("mpp", [0.25, 0.23, 0.5])
def test_outside_the_slide_is_exactly_white(slide_folder, mpp):
    with Slide.open(slide_folder / "tiny.tif") as slide:
        plane = slide.plane(mpp)
        height, width = plane.shape_px
        got = plane.read(Box(-40, -50, height + 40, width + 30))
        inside = np.s_[40 : 40 + height, 50 : 50 + width]
        assert np.array_equal(got[inside], plane.read(Box(0, 0, height, width)))
    got[inside] = 255
    assert (got == 255).all()


def test_a_slide_smaller_than_a_patch_reads_in_place(slide_folder):
    with Slide.open(slide_folder / "tiny.tif") as slide:
        plane = slide.plane(0.25)
        got = plane.read(Box(-40, -50, 90, 100))
    assert np.array_equal(got[40:90, 50:120], slides.checkerboard(50, 70, side=16))


def test_empty_boxes_have_no_pixels(slide_folder):
    with Slide.open(slide_folder / "tiny.tif") as slide:
        assert slide.plane(0.25).read(Box(5, 5, 5, 9)).shape == (0, 4, 3)
        assert slide.plane(0.3).read(Box(5, 5, 9, 5)).shape == (4, 0, 3)


RATIOS = (1.0, 1.948, 3.887, 0.9624, 2.0, 7.3)


@pytest.fixture(scope="module")
def whole(slide_folder):
    """Whole planes with a frame of 30 px, by slide and mpp: (plane, pixels)."""
    names = ("even.tif", "odd.tif")
    opened = {name: Slide.open(slide_folder / name) for name in names}
    planes = {}
    for name, slide in opened.items():
        for ratio in RATIOS:
            plane = slide.plane(0.25 * ratio)
            height, width = plane.shape_px
            planes[name, ratio] = plane, plane.read(Box(-30, -30, height + 30, width + 30))
    yield planes
    for slide in opened.values():
        slide.close()


@settings(max_examples=60)
@given(
    name=st.sampled_from(("even.tif", "odd.tif")),
    ratio=st.sampled_from(RATIOS),
    share=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_pixel_is_the_same_whichever_box_it_is_read_in(whole, name, ratio, share):
    plane, pixels = whole[name, ratio]
    height, width = pixels.shape[:2]
    (y0, y1), (x0, x1) = (
        sorted(int(s * size) for s in pair)
        for pair, size in ((share[:2], height), (share[2:], width))
    )
    got = plane.read(Box(y0 - 30, x0 - 30, y1 - 30, x1 - 30))
    assert np.array_equal(got, pixels[y0:y1, x0:x1])


@pytest.mark.parametrize("name", ["even.tif", "odd.tif"])
@pytest.mark.parametrize("ratio", RATIOS)
def test_tile_by_tile_is_the_identity_also_from_threads(whole, name, ratio):
    plane, pixels = whole[name, ratio]
    height, width = plane.shape_px
    tiled = np.zeros_like(pixels)

    def read(box: Box) -> None:
        tiled[box.shift(30, 30).slices] = plane.read(box)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, Box(-30, -30, height + 30, width + 30).split(157)))
    assert np.array_equal(tiled, pixels)


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.svs", "no such file"),
        ("", "is a folder"),
        ("strips.tif", "not a slide that OpenSlide can open"),
    ],
)
def test_what_is_no_slide_is_refused(slide_folder, name, message):
    with pytest.raises(SlideError, match=message) as caught:
        Slide.open(slide_folder / name)
    assert "\n" not in str(caught.value)
    assert str(slide_folder / name) in str(caught.value)


@pytest.fixture
def spoilt(slide_folder, tmp_path):
    """even.tif with tile (2, 3) of level 0, level-0 px y 256..384, x 384..512, overwritten."""
    path = tmp_path / "spoilt.tif"
    shutil.copy(slide_folder / "even.tif", path)
    slides.spoil_tile(path, 2, 3)
    return path


def test_damaged_region_is_named_and_the_rest_stays_readable(spoilt):
    stored = slides.noise(512, 768)
    with Slide.open(spoilt) as slide:
        plane = slide.plane(0.25)
        for _ in range(2):
            with pytest.raises(SlideError) as caught:
                plane.read(Box(300, 400, 310, 410))
            text = str(caught.value)
            assert f"{spoilt}: cannot read level 0 at level-0 x=384, y=256, 128 x 128 px" in text
            assert "ZIPDecode" in text
            assert "\n" not in text
            assert np.array_equal(plane.read(Box(0, 0, 256, 768)), stored[:256])
        # The neighbours share no pixel with the damaged tile.
        assert np.array_equal(plane.read(Box(384, 0, 512, 768)), stored[384:])


def test_one_threads_damaged_region_is_not_another_threads_error(spoilt):
    stored = slides.noise(512, 768)
    with Slide.open(spoilt) as slide:
        plane = slide.plane(0.25)
        start = threading.Barrier(4)

        def good(_: int) -> bool:
            start.wait()
            return all(
                np.array_equal(plane.read(Box(0, 0, 200, 300)), stored[:200, :300])
                for _ in range(5)
            )

        def bad(_: int) -> bool:
            start.wait()
            for _ in range(5):
                with pytest.raises(SlideError, match="x=384, y=256"):
                    plane.read(Box(300, 400, 310, 410))
            return True

        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(work, i) for i, work in enumerate((good, bad, good, bad))]
            assert all(task.result() for task in done)


def test_truncated_copy_reads_up_to_where_it_ends(tmp_path):
    # Uncompressed and above 5 MB: for less OpenSlide hashes the tiles and refuses to open.
    stored = slides.noise(1400, 1400)
    slides.write_slide(tmp_path / "cut.tif", stored, compression=None)
    slides.truncate(tmp_path / "cut.tif", 0.5)
    with Slide.open(tmp_path / "cut.tif") as slide:
        plane = slide.plane(0.25)
        assert np.array_equal(plane.read(Box(0, 0, 300, 900)), stored[:300, :900])
        with pytest.raises(SlideError, match="y=1344"):
            plane.read(Box(1350, 0, 1360, 10))


def test_reading_after_close_is_a_bug(slide_folder):
    slide = Slide.open(slide_folder / "tiny.tif")
    plane = slide.plane(0.25)
    slide.close()
    slide.close()
    with pytest.raises(ValueError, match="close"):
        plane.read(Box(0, 0, 5, 5))


def test_fingerprint_without_quickhash_covers_size_and_ends(tmp_path):
    path = tmp_path / "big.tif"
    slides.write_slide(path, slides.noise(1400, 1400), compression=None)
    with Slide.open(path) as slide:
        first = slide.fingerprint
    data = path.read_bytes()
    ends = hashlib.sha256(str(len(data)).encode() + data[: 2**20] + data[-(2**20) :])
    assert first.startswith(f"sha256-ends:{ends.hexdigest()}+file:")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_reads_with_a_process_of_its_own(slide_folder):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with Slide.open(slide_folder / "even.tif") as slide:
        plane = slide.plane(0.25)
        before = plane.read(Box(3, 5, 40, 60))
        forked = context.Process(target=lambda: results.put(plane.read(Box(3, 5, 40, 60))))
        forked.start()
        np.testing.assert_array_equal(results.get(timeout=60), before)
        forked.join(60)
        assert forked.exitcode == 0
        # Neither reads the other's answers.
        np.testing.assert_array_equal(plane.read(Box(3, 5, 40, 60)), before)


# ------------------------------------- what no file at hand has: a stand-in for OpenSlide's handle


HALF_RED = np.zeros((80, 100, 4), np.uint8)
HALF_RED[:, :50] = (200, 10, 20, 255)
HALF_RED[:, 50:75] = (200, 10, 20, 128)


def fake(**properties: str) -> tuple[FakeHandle, Slide]:
    """80 x 100 px (height, width), red, half transparent right of x=50, transparent from x=75."""
    handle = FakeHandle(HALF_RED, **properties)
    return handle, Slide(Path(__file__), handle)


def test_transparent_pixels_are_laid_on_white():
    _, slide = fake()
    row = slide.plane(0.25).read(Box(3, 0, 4, 100))[0]
    assert (row[:50] == (200, 10, 20)).all()
    # 200 * 128/255 + 255 * 127/255 = 227.4, and so on
    assert (row[50:75] == (227, 132, 137)).all()
    assert (row[75:] == 255).all()


@pytest.mark.parametrize("mpp", [0.25, 0.243, 0.972])
def test_boxes_outside_never_touch_openslide(mpp):
    handle, slide = fake()
    plane = slide.plane(mpp)
    height, width = plane.shape_px
    for box in (Box(-50, 0, 0, 9), Box(0, width, 9, width + 9), Box(height, 0, height + 1, 9)):
        assert (plane.read(box) == 255).all()
    assert handle.reads == []


def test_reads_are_always_the_same_blocks():
    tiles = {"level[0].tile_width": "64", "level[0].tile_height": "70"}
    handle, slide = fake(**tiles)
    plane = slide.plane(0.25)
    for box in (Box(0, 0, 80, 100), Box(-5, 63, 71, 65), Box(69, 99, 71, 200)):
        plane.read(box)
    assert set(handle.reads) == {
        (0, 0, 64, 70),
        (64, 0, 36, 70),
        (0, 70, 64, 10),
        (64, 70, 36, 10),
    }


@pytest.mark.parametrize("tile", ["8", "46000"])
def test_blocks_are_of_a_sensible_size_whatever_the_tiles(tile):
    _, slide = fake(**{"level[0].tile_width": tile, "level[0].tile_height": tile})
    assert slide.levels[0].block_px == (256, 256)


def test_bounds_are_clipped_to_the_slide_and_rounded_outwards():
    _, slide = fake(bounds_x="11", bounds_y="21", bounds_width="500", bounds_height="30")
    assert slide.bounds_l0 == Box(21, 11, 51, 100)
    assert slide.plane(0.5).bounds == Box(10, 5, 26, 50)
    assert slide.plane(0.25).bounds == Box(21, 11, 51, 100)


@pytest.mark.parametrize("height", ["0", "many"])
def test_useless_bounds_are_the_whole_slide(height):
    _, slide = fake(bounds_x="11", bounds_y="21", bounds_width="50", bounds_height=height)
    assert slide.bounds_l0 == Box(0, 0, 80, 100)


@pytest.mark.parametrize("mpp", ["0", "-1", "nan", "inf", "unknown", ""])
def test_a_senseless_recorded_mpp_counts_as_none(mpp):
    with pytest.raises(SlideError, match="--mpp"):
        fake(mpp_x=mpp)


@pytest.mark.parametrize(
    ("power", "mpp", "warns"),
    [("40", "0.25", False), ("40", "0.16", False), ("20", "0.25", True), ("40", "0.5", True)],
)
def test_mpp_against_objective_power(power, mpp, warns):
    _, slide = fake(objective_power=power, mpp_x=mpp, mpp_y=mpp)
    assert slide.objective_power == float(power)
    assert len(slide.warnings) == warns
    for text in slide.warnings:
        assert f"{mpp} um/px" in text
        assert f"{power}x" in text
        assert f"about {10 / float(power):g} um/px" in text


# ------------------------------------------------------------------------------------- real slides


def test_aperio_slide(real_data):
    path = real_data / "slides" / "cmu-1-small-region.svs"
    with Slide.open(path) as slide:
        assert slide.mpp == (0.499, 0.499)
        assert slide.objective_power == 20
        assert slide.warnings == ()
        assert slide.extent_l0 == (2967, 2220)
        plane = slide.plane(0.972)
        assert plane.shape_px == (1524, 1140)  # 2967 * 0.499 / 0.972 = 1523.2
        got = plane.read(Box(300, 200, 700, 620))
        # Another tiling of the same pixels.
        parts = [plane.read(part) for part in Box(300, 200, 700, 620).split(300)]
        rows = [np.hstack(parts[:2]), np.hstack(parts[2:])]
        assert np.array_equal(np.vstack(rows), got)
    with openslide.OpenSlide(path) as raw:
        image = raw.read_region((0, 0), 0, raw.dimensions).convert("RGB")
    # Pillow in our order, rows first; its box is good to float32, which is enough here.
    ratio = 0.972 / 0.499
    y0, x0, y1, x1 = 300 * ratio, 200 * ratio, 700 * ratio, 620 * ratio
    bicubic = Image.Resampling.BICUBIC
    down = image.resize((image.width, 400), bicubic, (0, y0, image.width, y1))
    small = down.resize((420, 400), bicubic, (x0, 0, x1, 400))
    assert np.abs(got.astype(int) - np.asarray(small)).max() <= 1


def test_real_slide_without_mpp(real_data):
    path = real_data / "slides" / "tcga-cr-7395-no-mpp.svs"
    with pytest.raises(SlideError, match=r"--mpp 0\.25"):
        Slide.open(path)
    with Slide.open(path, mpp=0.25) as slide:
        assert [level.downsample for level in slide.levels] == [(1, 1), (2, 2)]
        assert slide.levels[1].reported == pytest.approx(2.0005, abs=1e-4)
        plane = slide.plane(0.5)
        assert (plane.level, plane.ratio) == (1, (1, 1))
        # Far from the origin, where multiplying by 2 or by 2.0005 is a pixel apart.
        fine = slide.plane(0.25).read(Box(3000, 3600, 3400, 4000)).astype(int)
        coarse = plane.read(Box(1500, 1800, 1700, 2000)).astype(int)
        mean = fine.reshape(200, 2, 200, 2, 3).mean(axis=(1, 3))
        here = np.abs(mean - coarse)[1:-1, 1:-1].mean()
        for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            moved = np.roll(coarse, (dy, dx), axis=(0, 1))
            assert np.abs(mean - moved)[1:-1, 1:-1].mean() > here


@pytest.mark.parametrize("name", ["camelyon-jpeg.dcm", "camelyon-jpeg2000.dcm"])
def test_dicom_level_is_too_coarse_for_the_model_but_reads(real_data, name):
    with Slide.open(real_data / "slides" / name) as slide:
        assert slide.mpp == pytest.approx((28.968, 28.969))
        with pytest.raises(SlideError, match=r"0\.972.*28\.97.*--mpp"):
            slide.plane(0.972)
        plane = slide.plane(28.97)
        assert plane.level == 0
        pixels = plane.read(Box(0, 0, *plane.shape_px))
        # A slide: mostly bright glass, some of it tissue.
        assert np.median(pixels) > 180
        assert pixels.std() > 5


@pytest.mark.parametrize("name", ["broken.svs", "mrxs-without-data.mrxs"])
def test_refused_slides(real_data, name):
    with pytest.raises(SlideError, match=f"{name}: not a slide") as caught:
        Slide.open(real_data / "slides" / name)
    assert ("folder mrxs-without-data/" in str(caught.value)) == name.endswith(".mrxs")
