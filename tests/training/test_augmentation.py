"""Augmentation changes what it says, within its range, and is drawn from (seed, epoch, row)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from slidescan.cli import main
from slidescan.errors import ConfigError
from slidescan.protocols import WHITE

pytest.importorskip("slidescan_train.augmentation")  # which keeps albumentations off the network
import albumentations as A  # noqa: N812  (its own idiom)
from slidescan_train.augmentation import Augment, draws, preview, transforms
from slidescan_train.augmentation.geometry import SYMMETRIES
from slidescan_train.recipe.augment_config import AugmentConfig, GaussNoise, OneOf

CENTRE = slice(32, 64)
NAMES = ("d4", "stain", "hed", "randstainna", "hue", *OneOf.model_fields, "crop")
NOTHING = {**{name: {"p": 0} for name in ("d4", "stain", "hue", "crop")}, "one_of": {}}
BLURS = ("blur", "motion_blur", "contrast_blur", "brightness_blur", "jpeg")


def tissue(seed: int = 0) -> NDArray[np.uint8]:
    """Pink and purple in blocks of 8 px, so that a shift, a blur and a colour all show."""
    rng = np.random.default_rng(seed)
    stain = rng.random((12, 12, 1)).repeat(8, axis=0).repeat(8, axis=1)
    colours = stain * np.array([225, 150, 190]) + (1 - stain) * np.array([95, 60, 130])
    return (colours + rng.normal(0, 4, (96, 96, 3))).clip(0, 255).astype(np.uint8)


def config(**changes: dict[str, object]) -> AugmentConfig:
    """Nothing but `changes`: of one_of by the names of its own."""
    inner = {name: changes.pop(name) for name in OneOf.model_fields if name in changes}
    return AugmentConfig.model_validate({**NOTHING, "one_of": inner, **changes})


def one(name: str, **ranges: object) -> Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]:
    """The augmentation of this name as a function of a patch and a seed."""
    transform = transforms(config(**{name: {"p": 0, **ranges}}))[name]
    return lambda pixels, seed: transform(pixels, np.random.default_rng(seed))


def grey(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    return pixels.astype(float).mean(axis=2)


# --- each augmentation --------------------------------------------------------------------------


def test_every_augmentation_of_the_issue_is_there_by_its_name() -> None:
    assert tuple(transforms(AugmentConfig())) == tuple(draws(AugmentConfig())) == NAMES
    assert len(OneOf.model_fields) == 14


@pytest.mark.parametrize("name", NAMES)
def test_each_changes_a_patch_repeatably_and_leaves_the_original(name: str) -> None:
    transform, pixels = one(name), tissue()
    results = [transform(pixels, seed) for seed in range(8)]
    assert np.array_equal(pixels, tissue())
    assert all(r.shape == (96, 96, 3) and r.dtype == np.uint8 for r in results)
    assert sum(not np.array_equal(r, pixels) for r in results) >= 6
    assert len({r.tobytes() for r in results}) >= 4
    for seed in (5, 2):  # in another order, by another instance
        assert np.array_equal(one(name)(pixels, seed), results[seed])


@given(st.integers(0, 2**63), st.integers(1, 32))
def test_a_crop_cuts_edges_up_to_its_width_and_nothing_of_the_label(seed: int, most: int) -> None:
    pixels = np.full((96, 96, 3), 100, np.uint8)
    cut = one("crop", most_px=most)(pixels, seed)
    white = (cut == WHITE).all(axis=2)
    assert np.array_equal(cut[~white], pixels[~white])
    kept = np.argwhere(~white)
    (top, left), (bottom, right) = kept.min(axis=0), kept.max(axis=0)
    assert not white[top : bottom + 1, left : right + 1].any()  # a rectangle
    widths = (top, left, 95 - bottom, 95 - right)
    assert 1 <= max(widths) <= most
    assert not white[CENTRE, CENTRE].any()


def test_a_crop_cuts_each_edge_as_often_as_the_others() -> None:
    crop = one("crop", most_px=24)
    dark = np.zeros((96, 96, 3), np.uint8)
    cuts = [crop(dark, seed) for seed in range(600)]
    edges = [(c[0, 48], c[-1, 48], c[48, 0], c[48, -1]) for c in cuts]
    share = (np.array(edges)[..., 0] == WHITE).mean(axis=0)
    np.testing.assert_allclose(share, 8 / 15, atol=0.08)  # even, given that it is not none


def test_the_cut_edges_are_white_whatever_became_of_the_colours() -> None:
    augment = Augment(config(crop={"p": 1}, brightness={"p": 1, "brightness": 0.9}))
    for seed in range(20):
        cut = augment(tissue(), np.random.default_rng(seed))
        corners = cut[[0, 0, -1, -1, 0, -1, 48, 48], [0, -1, 0, -1, 48, 48, 0, -1]]
        assert (corners == WHITE).all(axis=1).any()


def marker(y: int, x: int) -> NDArray[np.uint8]:
    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[y - 1 : y + 2, x - 1 : x + 2] = 255
    return pixels


def centroid(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    weight = grey(pixels)
    grid = np.indices(weight.shape)
    return (grid * weight).sum(axis=(1, 2)) / weight.sum()


@pytest.mark.parametrize(
    ("name", "ranges", "most"),
    [
        ("rotation", {"degrees": 10.0}, 4.1),
        ("rotation", {"degrees": 15.0}, 6.1),
        ("translation", {"px": 3}, 3 * 2**0.5),
        ("translation", {"px": 4}, 4 * 2**0.5),
        *((name, {}, 0.1) for name in ("motion_blur", "blur", "contrast_blur")),
    ],
)
def test_the_corners_of_the_label_move_by_no_more_than_said(
    name: str, ranges: dict[str, object], most: float
) -> None:
    transform = one(name, **ranges)
    moved = [
        float(np.linalg.norm(centroid(transform(marker(y, x), seed)) - (y, x)))
        for y, x in ((33, 33), (33, 62), (62, 33), (62, 62))
        for seed in range(40)
    ]
    assert max(moved) <= most + 0.05
    assert max(moved) >= 0.6 * most or most < 1  # and the range is used


def test_the_longest_translation_leaves_tissue_of_the_patch_in_the_middle() -> None:
    rows, columns = np.mgrid[:96, :96].astype(np.uint8)
    places = np.stack([rows, columns, np.zeros_like(rows)], axis=-1)  # says where a pixel was
    seen = np.zeros((96, 96), bool)
    for seed in range(200):
        middle = one("translation", px=32)(places, seed)[32:64, 32:64].astype(int)
        assert (np.diff(middle[:, :, 0], axis=0) == 1).all()  # mirrored, they would fall
        assert (np.diff(middle[:, :, 1], axis=1) == 1).all()
        seen[middle[:, :, 0], middle[:, :, 1]] = True
    assert seen.mean() > 0.9


def test_a_translation_is_by_whole_pixels() -> None:
    pixels = tissue()
    shifts = set()
    for seed in range(40):
        moved = one("translation", px=3)(pixels, seed)[8:-8, 8:-8]
        found = [
            (dy, dx)
            for dy in range(-3, 4)
            for dx in range(-3, 4)
            if np.array_equal(moved, pixels[8 + dy : 88 + dy, 8 + dx : 88 + dx])
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 15


def test_a_stain_that_is_not_jittered_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 256, (96, 96, 3), np.uint8)  # colours that no stain has, too
    for seed in range(16):  # whichever the stain matrix
        np.testing.assert_array_equal(one("stain", scale=0, shift=0)(pixels, seed), pixels)


def test_a_stronger_stain_darkens_tissue_and_leaves_glass() -> None:
    pixels = tissue()
    pixels[:48] = 238
    for seed in range(16):
        shifted = one("stain", scale=0, shift=0.3)(pixels, seed).astype(int)
        np.testing.assert_array_equal(shifted[:48], 238)
        scaled = one("stain", scale=0.3, shift=0)(pixels, seed).astype(int)
        # No more than the density of the glass itself, 0.07, allows.
        assert np.abs(scaled[:48] - 238).max() <= 8
        assert np.abs(scaled[48:] - pixels[48:]).mean() > 0.5


def test_a_turn_of_the_hue_reaches_every_hue_and_leaves_glass_and_the_order_of_values() -> None:
    pixels = np.full((96, 96, 3), (200, 100, 150), np.uint8)
    pixels[:48] = 238
    turned = np.array([one("hue", saturation=0)(pixels, seed) for seed in range(200)]).astype(int)
    np.testing.assert_array_equal(turned[:, :48], 238)
    colours = turned[:, 48, 0]
    assert set(colours.argmax(axis=1)) == set(colours.argmin(axis=1)) == {0, 1, 2}
    # In HSV, value and saturation are those of the largest and the smallest of the three.
    assert np.abs(np.sort(colours, axis=1)[:, [0, 2]] - (100, 200)).max() <= 3


def test_a_hue_that_is_not_turned_changes_saturation_alone() -> None:
    before = np.ptp(tissue().astype(int), axis=2).mean()
    ratios = [
        np.ptp(one("hue", turn=0, saturation=0.5)(tissue(), s).astype(int), axis=2).mean() / before
        for s in range(40)
    ]
    assert 0.45 < min(ratios) < 0.7
    assert 1.2 < max(ratios) < 1.55


def test_fancy_pca_adds_one_colour_of_the_size_of_the_patchs_own_variation() -> None:
    pixels = tissue()
    colours = pixels.reshape(-1, 3).astype(float)
    spread = np.sqrt(np.linalg.eigvalsh(np.cov(colours.T)).sum())
    added = [one("fancy_pca", alpha=0.1)(pixels, s).astype(int) - pixels for s in range(200)]
    assert all(np.ptp(a.reshape(-1, 3), axis=0).max() == 0 for a in added)
    sizes = np.array([np.linalg.norm(a[0, 0]) for a in added])
    assert np.sqrt((sizes**2).mean()) == pytest.approx(0.1 * spread, rel=0.15)


def test_contrast_keeps_the_mean_and_brightness_the_contrast() -> None:
    pixels = tissue()
    mean, spread = grey(pixels).mean(), grey(pixels).std()
    contrasts = [grey(one("contrast", contrast=0.2)(pixels, s)) for s in range(20)]
    assert max(abs(c.mean() - mean) for c in contrasts) < 5  # it is luma's mean that stays
    ratios = [c.std() / spread for c in contrasts]
    assert 0.75 < min(ratios) < 0.9
    assert 1.1 < max(ratios) < 1.25
    brighter = [grey(one("brightness", brightness=0.1)(pixels, s)) for s in range(20)]
    assert max(abs(b.std() / spread - 1) for b in brighter) < 0.05
    shifts = [b.mean() - mean for b in brighter]
    assert -26 <= min(shifts) < -12
    assert 12 < max(shifts) <= 26


def test_saturation_only_ever_rises() -> None:
    pixels = tissue()
    before = np.ptp(pixels.astype(int), axis=2).mean()
    after = [np.ptp(one("saturation")(pixels, s).astype(int), axis=2).mean() for s in range(20)]
    assert min(after) >= before - 0.5
    assert max(after) > 1.3 * before


def test_noise_has_the_deviation_asked_for() -> None:
    flat = np.full((96, 96, 3), 128, np.uint8)
    noise = one("gauss_noise", std=(0.04, 0.04))(flat, 0).astype(float) - 128
    assert noise.std() == pytest.approx(0.04 * 255, rel=0.05)
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("name", BLURS)
def test_what_blurs_leaves_less_detail(name: str) -> None:
    checks = (np.indices((96, 96)).sum(axis=0) % 2 * 100 + 80).astype(np.uint8)
    pixels = np.repeat(checks[..., None], 3, axis=2)
    blurred = one(name)(pixels, 1)
    assert grey(blurred).std() < 0.98 * grey(pixels).std()


def test_a_range_that_albumentations_refuses_is_one_line() -> None:
    noise = GaussNoise.model_construct(p=0, std=(0.1, 3.0))
    settings = AugmentConfig(one_of=OneOf.model_construct(gauss_noise=noise))
    with pytest.raises(ConfigError, match=r"^augment: gauss_noise: .*0\.1, 3\.0") as caught:
        transforms(settings)
    assert "\n" not in str(caught.value)


# --- all of them --------------------------------------------------------------------------------


def test_nothing_configured_changes_nothing() -> None:
    pixels = tissue()
    assert np.array_equal(Augment(config())(pixels, np.random.default_rng(0)), pixels)


def test_one_of_many_is_drawn_as_often_as_configured() -> None:
    augment = Augment(config(blur={"p": 0.3}, translation={"p": 0.5}))
    pixels, counts = tissue(), {"same": 0, "moved": 0, "blurred": 0}
    for seed in range(500):
        result = augment(pixels, np.random.default_rng(seed))
        known = set(map(bytes, pixels.reshape(-1, 3)))
        if np.array_equal(result, pixels):
            counts["same"] += 1
        else:  # a translation makes no new colours
            moved = set(map(bytes, result.reshape(-1, 3))) <= known
            counts["moved" if moved else "blurred"] += 1
    assert counts["blurred"] / 500 == pytest.approx(0.3, abs=0.06)
    assert counts["moved"] / 500 == pytest.approx(0.5, abs=0.06)  # 1 of 49 is by nothing


def test_d4_turns_as_the_library_does() -> None:
    for name, turn in SYMMETRIES.items():
        expected = A.D4(p=1).apply(tissue(), group_element=name)
        np.testing.assert_array_equal(turn(tissue()), expected)


def test_d4_gives_all_eight_symmetries() -> None:
    augment = Augment(config(d4={"p": 1}))
    pixels = tissue()
    seen = {augment(pixels, np.random.default_rng(seed)).tobytes() for seed in range(100)}
    turns = [np.rot90(p, k) for p in (pixels, pixels[::-1]) for k in range(4)]
    assert seen == {t.tobytes() for t in turns}


def test_a_draw_does_not_depend_on_those_before_it() -> None:
    augment, pixels = Augment(AugmentConfig()), [tissue(seed) for seed in range(20)]
    forward = [augment(p, np.random.default_rng(i)) for i, p in enumerate(pixels)]
    backward = [augment(p, np.random.default_rng(i)) for i, p in reversed([*enumerate(pixels)])]
    for a, b in zip(forward, reversed(backward), strict=True):
        np.testing.assert_array_equal(a, b)


# --- the preview --------------------------------------------------------------------------------


def test_the_preview_shows_every_augmentation_with_its_name() -> None:
    tiles = preview(tissue(), config(blur={"p": 0.25}), seed=0)
    captions = [text.split("\n") for _, text in tiles]
    assert np.array_equal(tiles[0][0], tissue())
    assert [c for c in captions[4:] if c[0] == "blur"] == [["blur", "p = 0.25"]] * 4
    assert [c for c in captions[4:] if c[0] == "jpeg"] == [["jpeg", "p = 0"]] * 4
    assert [c[0] for c in captions[4::4]] == list(NAMES)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A folder for each class."""
    for label, seeds in (("normal", (1, 2)), ("tumor", (3, 4))):
        (tmp_path / "data" / label).mkdir(parents=True)
        for seed in seeds:
            Image.fromarray(tissue(seed)).save(tmp_path / "data" / label / f"patch{seed}.png")
    return tmp_path / "data"


def invoke(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["augment", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_the_command_writes_the_sheet_and_nothing_beside_the_data(
    folders: Path, tmp_path: Path
) -> None:
    pictures = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    arguments = ([], ["--seed", 1], ["--id", "patch2", "--set", "augment.crop.p=0"])
    for picture, more in zip(pictures, arguments, strict=True):
        code, said = invoke("--out", picture, "--data", folders, *more)
        assert (code, said) == (0, f"{picture}: every augmentation of patch {said.split()[-1]}\n")
    assert said.split()[-1] == "patch2"
    with Image.open(pictures[0]) as image:
        assert image.width >= 8 * 96
    assert len({picture.read_bytes() for picture in pictures}) == 3
    assert sorted(path.name for path in folders.iterdir()) == ["normal", "tumor"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--id", "patch"], "--id patch matches 4 patches; give the whole id of one"),
        (["--id", "x"], "--id x matches 0 patches"),
        (["--set", "augment.blur.p=1"], "augment: unknown key blur"),
    ],
)
def test_errors_are_one_line(
    folders: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    code, said = invoke("--out", tmp_path / "a.png", "--data", folders, *arguments)
    assert code == 1
    assert expected in said
    assert said.count("\n") == 1
    assert not (tmp_path / "a.png").exists()


def test_an_unreadable_patch_is_one_line(folders: Path, tmp_path: Path) -> None:
    (folders / "tumor" / "patch3.png").write_bytes(b"no image")
    code, said = invoke("--out", tmp_path / "a.png", "--data", folders)
    assert code == 1
    assert "patch3: not a readable image" in said
