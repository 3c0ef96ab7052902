"""The tissue mask: nothing of 50 um is lost, little glass is scanned."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.morphology import closing, dilation

from slidescan.geometry import Box, Grid
from slidescan.slides.tissue import (
    FRAGMENT_UM,
    _close,
    _without_specks,
    glass_colour,
    grow,
    tissue_mask,
)

UM_PER_PX = 7.776  # stride 8 at 0.972 um/px
SIDE = 240
WHITE, GREY, DIM, YELLOW = (244, 243, 243), (236, 236, 238), (226, 222, 228), (246, 243, 232)
GLASSES = pytest.mark.parametrize(
    "glass", [WHITE, GREY, DIM, YELLOW], ids=["white", "grey", "dim", "yellow"]
)

Image8 = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def disc(centre: tuple[float, float], diameter_um: float, side: int = SIDE) -> NDArray[np.float64]:
    """How much of each pixel a disc covers, so that fragments do not depend on alignment."""
    y, x = np.ogrid[:side, :side]
    distance = np.hypot(y - centre[0], x - centre[1])
    return np.clip(diameter_um / UM_PER_PX / 2 - distance + 0.5, 0, 1)


def section(rng: np.random.Generator) -> NDArray[np.float64]:
    """Transmittance of H&E tissue, (SIDE, SIDE, 3): nuclei, eosin, and pale eosin in patches."""
    stains = np.array([(0.35, 0.25, 0.55), (0.85, 0.50, 0.70), (0.97, 0.86, 0.93)])
    fields = ndimage.gaussian_filter(rng.normal(size=(3, SIDE, SIDE)), (0, 4, 4))
    return stains[fields.argmax(axis=0)]


def render(
    transmittance: NDArray[np.float64],
    glass: tuple[int, int, int],
    rng: np.random.Generator,
    *,
    vignette: float = 0.0,
) -> Image8:
    """Photograph it: light that falls off towards the corners, JPEG's 2 px chroma, noise."""
    height, width = transmittance.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = 1 - vignette * (y**2 + x**2) / 2
    rgb = transmittance * light[..., None] * np.array(glass, float)
    blocks = rng.integers(-1, 2, (-(-height // 2), -(-width // 2), 3)).repeat(2, 0).repeat(2, 1)
    rgb += blocks[:height, :width] + rng.normal(0, 0.7, rgb.shape)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def cover(
    share: NDArray[np.float64], tissue: NDArray[np.float64] | tuple[float, float, float]
) -> NDArray[np.float64]:
    """Transmittance of tissue that covers `share` of each pixel."""
    return 1 - share[..., None] * (1 - np.asarray(tissue))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


# Sections on glass


@GLASSES
@pytest.mark.parametrize("vignette", [0.0, 0.12])
def test_all_of_a_section_and_little_glass(
    glass: tuple[int, int, int], vignette: float, rng: np.random.Generator
) -> None:
    share = disc((120, 120), 900)
    mask = tissue_mask(render(cover(share, section(rng)), glass, rng, vignette=vignette))
    assert mask[share > 0.5].mean() > 0.9999
    assert mask[share == 0].mean() < 0.02


def test_scan_padding_is_neither_tissue_nor_the_colour_of_the_glass(
    rng: np.random.Generator,
) -> None:
    share = disc((170, 170), 500)
    rgb = render(cover(share, section(rng)), DIM, rng)
    rgb[:100] = rgb[:, :60] = 255  # outside the scanned rectangle, more of it than of glass
    mask = tissue_mask(rgb)
    np.testing.assert_allclose(glass_colour(rgb), DIM, atol=1)
    assert mask[share > 0.5].all()
    assert mask[share == 0].mean() < 0.02


# No glass, no tissue


def test_a_slide_full_of_tissue_is_kept_whole(rng: np.random.Generator) -> None:
    assert tissue_mask(render(section(rng), WHITE, rng)).all()


@pytest.mark.parametrize("stain", [(0.97, 0.87, 0.93), (0.85, 0.5, 0.7), (0.35, 0.25, 0.55)])
def test_a_slide_full_of_one_stain_is_not_its_own_glass(
    stain: tuple[float, float, float], rng: np.random.Generator
) -> None:
    assert tissue_mask(render(cover(np.ones((80, 80)), stain), WHITE, rng)).all()


@GLASSES
def test_an_empty_slide_gives_nearly_nothing(
    glass: tuple[int, int, int], rng: np.random.Generator
) -> None:
    rgb = render(np.ones((SIDE, SIDE, 3)), glass, rng, vignette=0.12)
    assert tissue_mask(rgb).mean() < 0.01


@pytest.mark.parametrize("value", [255, 254, 240, 0])
def test_one_flat_colour_is_empty(value: int) -> None:
    assert not tissue_mask(np.full((50, 60, 3), value, np.uint8)).any()


# Small things


@GLASSES
@pytest.mark.parametrize("chroma", [10, 15])
def test_a_pale_fragment_survives_beside_a_big_dark_section(
    glass: tuple[int, int, int], chroma: int, rng: np.random.Generator
) -> None:
    big = disc((90, 120), 1100)
    pale = (1.0, 1 - chroma / 240, 1 - chroma / 480)
    for shift in np.linspace(0, 0.9, 4):
        share = disc((210 + shift, 30 + shift / 2), FRAGMENT_UM)
        mask = tissue_mask(render(cover(big, section(rng)) * cover(share, pale), glass, rng))
        assert mask[share == 1].mean() > 0.9
        assert grow(mask, 1)[share > 0].all()
        assert mask[big > 0.5].all()


def test_a_grey_fragment_survives(rng: np.random.Generator) -> None:
    share = disc((60.4, 60.7), FRAGMENT_UM)
    mask = tissue_mask(render(cover(share, (0.7, 0.7, 0.7)), GREY, rng))
    assert mask[share == 1].all()


@pytest.mark.parametrize("um_per_px", [0.972, 3.888, 7.776, 15.552, 28.97, 62.2])
def test_nothing_of_50_um_is_removed_at_any_scale(um_per_px: float) -> None:
    across = max(1, int(FRAGMENT_UM / um_per_px))
    rgb = np.full((120, 120, 3), 240, np.uint8)
    rgb[40 : 40 + across, 50 : 50 + across] = 230, 200, 220
    assert tissue_mask(rgb, um_per_px)[40 : 40 + across, 50 : 50 + across].all()


def test_a_thin_strand_survives() -> None:
    rgb = np.full((60, 60, 3), 240, np.uint8)
    rgb[30, 10:40] = 235, 215, 225
    assert tissue_mask(rgb)[30, 11:39].all()


def test_specks_go() -> None:
    rgb = np.full((60, 60, 3), 240, np.uint8)
    for y, x in [(0, 0), (10, 10), (10, 40), (40, 10), (59, 30)]:
        rgb[y, x] = 60, 60, 90
    rgb[40, 40:43] = 60, 60, 60
    assert not tissue_mask(rgb).any()


# Holes, pens, black


def test_small_holes_are_closed_and_big_lumina_are_not() -> None:
    rgb = np.full((100, 100, 3), 240, np.uint8)
    rgb[10:90, 10:90] = 200, 120, 170
    rgb[20:30, 20:30] = rgb[40:80, 40:80] = 240
    mask = tissue_mask(rgb)
    assert mask[20:30, 20:30].all()
    assert not mask[50:70, 50:70].any()


def test_closing_adds_nothing_towards_the_border() -> None:
    rgb = np.full((60, 60, 3), 240, np.uint8)
    rgb[4:30, 20:40] = 200, 120, 170
    mask = tissue_mask(rgb)
    assert mask.sum() == 26 * 20
    assert mask[4:30, 20:40].all()


@pytest.mark.parametrize("ink", [(40, 60, 160), (30, 120, 70), (40, 40, 40)])
def test_pen_is_kept_since_tissue_may_lie_below(ink: tuple[int, int, int]) -> None:
    rgb = np.full((60, 60, 3), 240, np.uint8)
    rgb[20:30, 5:55] = ink
    assert tissue_mask(rgb)[20:30, 5:55].all()


def test_black_is_where_nothing_was_scanned(rng: np.random.Generator) -> None:
    share = disc((150, 150), 500)
    rgb = render(cover(share, section(rng)), WHITE, rng)
    rgb[:80] = rng.integers(0, 6, rgb[:80].shape)
    mask = tissue_mask(rgb)
    assert not mask[:79].any()
    assert mask[share > 0.5].all()


# The array


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1), (1, 7)])
def test_tiny_images(shape: tuple[int, int]) -> None:
    for value in (255, 128):
        mask = tissue_mask(np.full((*shape, 3), value, np.uint8))
        assert mask.shape == shape
        assert mask.dtype == np.bool_
    assert grow(np.ones(shape, np.bool_), 2).shape == shape


def test_layout_strips_and_repetition_do_not_matter(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = render(cover(disc((120, 120), 900), section(rng)), YELLOW, rng)
    kept = rgb.copy()
    mask = tissue_mask(rgb)
    np.testing.assert_array_equal(rgb, kept)
    planes = np.moveaxis(np.ascontiguousarray(np.moveaxis(rgb, -1, 0)), 0, -1)
    rgba = np.concatenate([rgb, rgb[..., :1]], axis=-1)[..., :3]
    frozen = rgb.copy()
    frozen.flags.writeable = False
    monkeypatch.setattr("slidescan.slides.tissue.STRIP_PX", 7 * SIDE)
    for same in (rgb, np.asfortranarray(rgb), planes, rgba, rgb[::-1].copy()[::-1], frozen):
        np.testing.assert_array_equal(tissue_mask(same), mask)


def test_a_turned_slide_has_the_turned_mask(rng: np.random.Generator) -> None:
    rgb = render(cover(disc((100, 140), 900), section(rng)), GREY, rng)
    for turn in (1, 2, 3):
        np.testing.assert_array_equal(
            tissue_mask(np.rot90(rgb, turn)), np.rot90(tissue_mask(rgb), turn)
        )


# Growth


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_growth_by_the_field_takes_every_cell_that_sees_tissue(stride: int) -> None:
    grid = Grid((40 * stride, 40 * stride), stride)
    mask = np.zeros(grid.shape, np.bool_)
    mask[3, 20] = mask[30, 39] = True
    tissue = [Box(y, x, y + 1, x + 1) for y, x in np.argwhere(mask)]
    reach = -(-(grid.field_px - stride) // (2 * stride))
    sees = np.zeros_like(mask)
    for r, c in np.ndindex(*grid.shape):
        view = grid.pixels(Box(r, c, r + 1, c + 1))
        squares = (Box(*(stride * edge for edge in (b.y0, b.x0, b.y1, b.x1))) for b in tissue)
        sees[r, c] = any(square.clip(view).area for square in squares)
    np.testing.assert_array_equal(grow(mask, reach), sees)


def test_growth_by_nothing() -> None:
    mask = np.eye(5, dtype=np.bool_)
    np.testing.assert_array_equal(grow(mask, 0), mask)


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 6, 11])
@pytest.mark.parametrize("share", [0.002, 0.05, 0.5, 0.97])
def test_morphology_is_that_of_scikit_image(
    radius: int, share: float, rng: np.random.Generator
) -> None:
    square = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    for shape in (1, 1), (1, 9), (61, 80):
        mask = rng.random(shape) < share
        np.testing.assert_array_equal(grow(mask, radius), dilation(mask, square))
        closed = closing(np.pad(mask, radius), square)
        inside = tuple(slice(radius, radius + side) for side in shape)
        np.testing.assert_array_equal(_close(mask, radius), closed[inside])


@pytest.mark.parametrize("least", [0, 2, 4])
def test_specks_are_counted_as_scipy_counts_them(least: int, rng: np.random.Generator) -> None:
    mask = rng.random((40, 57)) < 0.1
    near = ndimage.convolve(mask.astype(int), np.ones((5, 5)), mode="constant")
    np.testing.assert_array_equal(_without_specks(mask, least), mask & (near >= least))


# Real slides. The reference is read at full resolution, where stain is plain to see: a cell holds
# tissue where a tenth of its pixels lets less than three quarters of the green light through.


def cells(rgb: Image8, px: int) -> tuple[Image8, Mask]:
    """Mean colour of squares of `px`, and which of them hold tissue; the rest is cut off."""
    height, width = (n // px for n in rgb.shape[:2])
    squares = rgb[: height * px, : width * px].reshape(height, px, width, px, 3)
    mean = np.rint(squares.mean(axis=(1, 3))).astype(np.uint8)
    return mean, (squares[..., 1] < 180).mean(axis=(1, 3)) >= 0.1


def level_0(path: Path) -> Image8:
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(path) as slide:
        region = slide.read_region((0, 0), 0, slide.dimensions)
    return np.asarray(Image.alpha_composite(Image.new("RGBA", region.size, "white"), region))[
        ..., :3
    ]


@pytest.mark.parametrize(
    ("name", "px", "glass", "least", "most"),
    [
        # About half glass, although named a region; boxes (y, x) found by eye.
        ("cmu-1-small-region.svs", 16, [np.s_[80:180, 4:28], np.s_[5:30, 105:138]], 0.38, 0.46),
        # Taken as 0.25 um/px. White padding around pinkish glass, the rest is tissue.
        ("tcga-cr-7395-no-mpp.svs", 31, [np.s_[100:110, 2:35], np.s_[0:10, 0:80]], 0.62, 0.72),
    ],
)
def test_slide(
    real_data: Path, name: str, px: int, glass: list[tuple[slice, slice]], least: float, most: float
) -> None:
    rgb, tissue = cells(level_0(real_data / "slides" / name), px)
    mask = tissue_mask(rgb)
    assert mask[tissue].mean() > 0.998  # what is missed are lone specks of debris
    assert not any(mask[box].any() for box in glass)
    assert least < mask.mean() < most


def test_overview_of_camelyon(real_data: Path) -> None:
    """28.97 um/px: a node in fat on dim glass with bubbles, dust and a JPEG's noise."""
    rgb = level_0(real_data / "slides" / "camelyon-jpeg.dcm")
    mask = tissue_mask(rgb, 28.97)
    assert mask[rgb[..., 1] < 180].mean() > 0.999
    # The fat between the two sections of the node, then glass.
    assert mask[200:260, 280:330].mean() > 0.5
    for glass in (np.s_[10:55, 100:350], np.s_[640:695, 20:600], np.s_[350:600, 1100:1150]):
        assert mask[glass].mean() < 0.01
    assert 0.35 < mask.mean() < 0.45


def test_every_tumour_of_pcam_is_scanned(real_data: Path) -> None:
    """Patches lie apart on one slide: the cell at each centre must see selected tissue."""
    with (real_data / "pcam" / "train_labels.csv").open(newline="") as file:
        labels = {row["id"]: row["label"] == "1" for row in csv.DictReader(file)}
    side, apart, across = 12, 26, 20  # 12 cells a patch; 14 of glass, more than closing bridges
    slide = np.full((across * apart, across * apart, 3), (245, 245, 244), np.uint8)
    truth = np.zeros(slide.shape[:2], np.bool_)
    tumours = []
    with zipfile.ZipFile(real_data / "pcam" / "patches.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".webp")]
        for i, name in enumerate(names[:: len(names) // across**2][: across**2]):
            patch = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
            y, x = (apart * k + 7 for k in divmod(i, across))
            box = np.s_[y : y + side, x : x + side]
            slide[box], truth[box] = cells(patch, 8)
            tumours += [box] if labels[Path(name).stem] else []
    mask = tissue_mask(slide)
    assert len(tumours) > 100
    assert all(mask[box].any() for box in tumours)
    assert mask[truth].mean() > 0.999
    assert not mask[::apart].any()
