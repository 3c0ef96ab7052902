"""Pictures: the numbers in them, positions of what is drawn, and unusual data."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image
from sklearn import metrics
from sklearn.calibration import calibration_curve
from slidescan_train.loop.history import Epoch, Step
from slidescan_train.runs import pictures

from slidescan.errors import WriteError
from slidescan.geometry import LABEL_PX, PATCH_PX
from slidescan.pictures import diagrams, grids
from slidescan.statistics import curves
from slidescan.statistics.mistakes import worst_mistakes

NAN = float("nan")
YELLOW, BLACK = (255, 221, 0), (0, 0, 0)


def scored(count: int = 2000, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Labels and probabilities that correlate with them, with many ties."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.4).astype(np.int64)
    p = np.clip(rng.normal(0.3 + 0.4 * labels, 0.25), 0, 1).round(2)
    return labels, p.astype(np.float32)


def epochs(count: int, **changed: float) -> list[Epoch]:
    """The validation AUC peaks two epochs before the last."""
    aucs = [0.9 - 0.01 * abs(n - count + 2) for n in range(1, count + 1)]
    rows = [
        Epoch(n, 1e-3, 0.5, 0.8, 0.85, 0.4, 0.85, auc, 200, 0.1, 60)
        for n, auc in enumerate(aucs, start=1)
    ]
    return [dataclasses.replace(row, **changed) for row in rows]  # type: ignore[arg-type]


def steps(count: int, per_epoch: int) -> list[Step]:
    return [Step(i + 1, i // per_epoch + 1, 1e-3, 0.5 + 0.1 * (i % 3)) for i in range(count)]


def words(drawn: Figure) -> str:
    return "\n".join(text.get_text() for text in drawn.findobj(Text) if isinstance(text, Text))


def panel(drawn: Figure, title: str) -> Axes:
    return next(axes for axes in drawn.axes if axes.get_title().startswith(title))


# The numbers


def test_auc_is_scikit_learns_ties_included() -> None:
    labels, p = scored()
    curve = curves.roc(labels, p)
    assert curve.area == pytest.approx(metrics.roc_auc_score(labels, p), abs=1e-12)
    x, y, _ = metrics.roc_curve(labels, p, drop_intermediate=False)
    np.testing.assert_allclose([curve.x, curve.y], [x, y])


def test_average_precision_is_scikit_learns_ties_included() -> None:
    labels, p = scored(seed=1)
    curve = curves.precision_recall(labels, p)
    expected = metrics.average_precision_score(labels, p)
    assert curve.area == pytest.approx(expected, abs=1e-12)
    precision, recall, _ = metrics.precision_recall_curve(labels, p)
    np.testing.assert_allclose(curve.x, recall[::-1])
    # At recall 0 scikit-learn sets 1; here the curve begins level.
    np.testing.assert_allclose(curve.y[1:], precision[::-1][1:])


def test_confusion_calls_a_half_tumour() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    p = np.array([0.1, 0.5, 0.2, 0.49, 0.5, 0.9, 1.0], np.float32)
    assert curves.confusion(labels, p).tolist() == [[2, 1], [1, 3]]
    np.testing.assert_array_equal(
        curves.confusion(*scored()),
        metrics.confusion_matrix(scored()[0], scored()[1] >= 0.5),
    )


def test_brier_is_scikit_learns() -> None:
    labels, p = scored()
    assert curves.brier(labels, p) == pytest.approx(metrics.brier_score_loss(labels, p))


def test_calibration_by_hand() -> None:
    labels = np.array([0, 1, 1, 1])
    p = np.array([0.1, 0.3, 0.9, 1.0], np.float32)
    bins = curves.reliability(labels, p, bins=2)
    assert bins.counts.tolist() == [2, 2]
    assert bins.predicted.tolist() == pytest.approx([0.2, 0.95])
    assert bins.observed.tolist() == [0.5, 1.0]
    assert bins.error == pytest.approx((2 * 0.3 + 2 * 0.05) / 4)
    # Wilson's interval of 1 in 2 and of 2 in 2, from the textbook.
    assert bins.low.tolist() == pytest.approx([0.0945, 0.3424], abs=1e-4)
    assert bins.high.tolist() == pytest.approx([0.9055, 1.0], abs=1e-4)


def test_calibration_is_scikit_learns() -> None:
    rng = np.random.default_rng(5)
    p = rng.random(1000).astype(np.float32)
    labels = (rng.random(1000) < p**2).astype(np.int64)
    bins = curves.reliability(labels, p)
    observed, predicted = calibration_curve(labels, p, n_bins=15)
    np.testing.assert_allclose(bins.observed, observed)
    np.testing.assert_allclose(bins.predicted, predicted)
    assert bins.counts.sum() == 1000


def test_what_one_class_or_no_patch_leaves_undefined_is_nan() -> None:
    none, p = np.zeros(0, np.int64), np.zeros(0, np.float32)
    for labels, given in ((np.zeros(3, np.int64), np.full(3, 0.2, np.float32)), (none, p)):
        assert math.isnan(curves.roc(labels, given).area)
        assert math.isnan(curves.precision_recall(labels, given).area)
    assert math.isnan(curves.roc(np.ones(3, np.int64), np.full(3, 0.2, np.float32)).area)
    assert math.isnan(curves.brier(none, p))
    assert math.isnan(curves.reliability(none, p).error)
    assert curves.confusion(none, p).tolist() == [[0, 0], [0, 0]]


def test_worst_gives_each_kind_worst_first() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 1])
    p = np.array([0.6, 0.9, 0.1, 0.4, 0.05, 0.8, NAN, NAN], np.float32)
    positives, negatives = worst_mistakes(labels, p)
    assert positives.tolist() == [1, 0]
    assert negatives.tolist() == [4, 3]
    assert [rows.tolist() for rows in worst_mistakes(labels, p, most=2)] == [[1], [4]]


# Sheets of patches


def sheet(tmp_path: Path, patches: NDArray[np.uint8], columns: int, *, mark: bool) -> Image.Image:
    tiles = [(patch, f"caption {i}") for i, patch in enumerate(patches)]
    grids.grid(tmp_path / "grid.png", tiles, columns, "title", mark=mark)
    with Image.open(tmp_path / "grid.png") as image:
        return image.convert("RGB")


def corner(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> tuple[int, int]:
    """(y, x) of the first pixel of a colour."""
    y, x = np.nonzero((pixels == colour).all(-1))
    return int(y.min()), int(x.min())


def test_a_grid_shows_every_pixel_as_it_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 200, (5, PATCH_PX, PATCH_PX, 3), np.uint8)
    patches[:, 0, 0] = [(250, 0, 10 * i) for i in range(5)]
    pixels = np.asarray(sheet(tmp_path, patches, 2, mark=False))
    places = [corner(pixels, (250, 0, 10 * i)) for i in range(5)]
    assert places[0][0] == places[1][0] < places[2][0] == places[3][0] < places[4][0]
    assert places[0][1] == places[2][1] == places[4][1] < places[1][1] == places[3][1]
    for patch, (y, x) in zip(patches, places, strict=True):
        shown = pixels[y : y + 4 * PATCH_PX, x : x + 4 * PATCH_PX]
        np.testing.assert_array_equal(shown, patch.repeat(4, 0).repeat(4, 1))


def test_the_mark_goes_around_the_label_region_and_not_over_it(tmp_path: Path) -> None:
    patch = np.full((PATCH_PX, PATCH_PX, 3), 120, np.uint8)
    start = (PATCH_PX - LABEL_PX) // 2
    patch[start : start + LABEL_PX, start : start + LABEL_PX] = (0, 120, 250)
    patch[0, 0] = (250, 0, 0)
    pixels = np.asarray(sheet(tmp_path, patch[None], 1, mark=True))
    y, x = corner(pixels, (250, 0, 0))
    shown = pixels[y : y + 4 * PATCH_PX, x : x + 4 * PATCH_PX]
    region = slice(4 * start, 4 * (start + LABEL_PX))
    assert (shown[region, region] == (0, 120, 250)).all()
    yellow = (shown == YELLOW).all(-1)
    side = 4 * LABEL_PX
    assert yellow.sum() == (side + 4) ** 2 - side**2
    assert (shown == BLACK).all(-1).sum() == (side + 6) ** 2 - (side + 4) ** 2
    assert yellow[4 * start - 1, region].all()
    assert yellow[region, 4 * (start + LABEL_PX)].all()


def test_a_long_caption_stays_beside_the_next_patch(tmp_path: Path) -> None:
    dark = np.zeros((2, PATCH_PX, PATCH_PX, 3), np.uint8)
    grids.grid(tmp_path / "a.png", [(dark[0], "W" * 300), (dark[1], "")], 2, "", mark=False)
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("L"))
    captions = pixels[pixels.shape[0] - 28 :]  # under both patches
    assert (captions[:, : captions.shape[1] // 2] < 100).any()
    assert (captions[:, captions.shape[1] // 2 :] > 200).all()


def test_a_hundred_patches_take_less_than_a_second(tmp_path: Path) -> None:
    patches = np.random.default_rng(0).integers(0, 256, (100, 96, 96, 3), np.uint8)
    started = time.process_time()
    image = sheet(tmp_path, patches, 10, mark=True)
    assert time.process_time() - started < 3  # 0.4 s; other tests share the machine
    assert image.width > 10 * 2 * PATCH_PX


def test_mistakes_are_in_order_with_probability_and_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    write = grids._write
    monkeypatch.setattr(grids, "_write", lambda *a: (said.append(a[2]), write(*a)))
    pixels = np.zeros((4, PATCH_PX, PATCH_PX, 3), np.uint8)
    labels, p = np.array([0, 0, 1, 1]), np.array([0.7, 0.99999, 0.25, 0.9], np.float32)
    ids = [f"{letter}{'0' * 39}" for letter in "abcd"]
    grids.mistakes(tmp_path / "m.png", pixels, labels, p, ids)
    shown = [text for text in said if text.startswith(("False", "p ")) or text[1:] == "0" * 15]
    assert shown == [
        "False positives (labelled normal): 2 shown, worst first",
        "p 1 - 1e-05",
        "b000000000000000",
        "p 0.700",
        "a000000000000000",
        "False negatives (labelled tumour): 1 shown, worst first",
        "p 0.250",
        "c000000000000000",
    ]


def test_no_mistakes_make_a_picture_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(grids, "_write", lambda *a: said.append(a[2]))
    pixels = np.zeros((0, PATCH_PX, PATCH_PX, 3), np.uint8)
    grids.mistakes(tmp_path / "m.png", pixels, np.zeros(0, np.int64), np.zeros(0, np.float32), [])
    assert "False positives (labelled normal): none" in said
    assert (tmp_path / "m.png").exists()


# Diagrams


def test_the_validation_picture_states_its_numbers() -> None:
    labels, p = scored()
    text = words(diagrams.validation_figure(labels, p, "epoch 3"))
    (normal, false), (missed, true) = metrics.confusion_matrix(labels, p >= 0.5).tolist()
    for expected in (
        "epoch 3; 2,000 patches",
        f"AUC {metrics.roc_auc_score(labels, p):.4f}",
        f"average precision {metrics.average_precision_score(labels, p):.4f}",
        f"prevalence {labels.mean():.3f}",
        f"Brier {metrics.brier_score_loss(labels, p):.4f}",
        f"ECE {curves.reliability(labels, p).error:.4f}",
        f"{normal:,}\n{normal / (normal + false):.1%} of normal",
        f"{false:,}\n{false / (normal + false):.1%} of normal",
        f"{missed:,}\n{missed / (missed + true):.1%} of tumour",
        f"{true:,}\n{true / (missed + true):.1%} of tumour",
    ):
        assert expected in text


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_says_that_the_auc_is_undefined(tmp_path: Path, label: int) -> None:
    labels, p = np.full(9, label), np.linspace(0, 1, 9, dtype=np.float32)
    diagrams.validation(tmp_path / "v.png", labels, p, "")
    assert "AUC undefined" in words(diagrams.validation_figure(labels, p, ""))


def test_patches_without_a_probability_are_counted_and_left_out(tmp_path: Path) -> None:
    labels, p = scored(100)
    drawn = diagrams.validation_figure(
        np.append(labels, [1, 0]), np.append(p, [NAN, NAN]).astype(np.float32), ""
    )
    assert "100 patches" in words(drawn)
    assert "2 without a probability left out" in words(drawn)
    assert f"AUC {metrics.roc_auc_score(labels, p):.4f}" in words(drawn)
    diagrams.validation(tmp_path / "v.png", labels, np.full(100, NAN, np.float32), "")


def test_the_loss_within_an_epoch_is_that_of_the_last_one() -> None:
    drawn = pictures.training_figure(steps(250, per_epoch=100), epochs(2))
    axes = panel(drawn, "Loss within epoch 3")
    assert len(axes.lines[0].get_xdata()) == 50  # type: ignore[arg-type]


def test_the_best_epoch_is_marked() -> None:
    drawn = pictures.training_figure(steps(10, 1), epochs(10))
    for title, value in (("AUC", 0.9), ("Loss", 0.4), ("Accuracy", 0.85)):
        axes = next(a for a in drawn.axes if a.get_title() == title)
        star = next(line for line in axes.lines if line.get_marker() == "*")
        assert list(star.get_xydata()[0]) == pytest.approx([8, value])  # type: ignore[index]


def test_many_steps_are_thinned_and_keep_their_ends() -> None:
    shown = pictures.thinned(200_000)
    assert len(shown) == 2000
    assert (shown[0], shown[-1]) == (0, 199_999)
    assert pictures.thinned(3).tolist() == [0, 1, 2]
    drawn = pictures.training_figure(steps(50_000, 25_000), [])
    assert max(len(line.get_xdata()) for axes in drawn.axes for line in axes.lines) == 2000  # type: ignore[arg-type]


def test_smoothing_is_the_mean_around_and_skips_what_is_not_finite() -> None:
    values = np.array([1.0, 2.0, NAN, 4.0, 8.0])
    assert pictures.smoothed(values, 3).tolist() == [1.5, 1.5, 3.0, 6.0, 6.0]
    assert pictures.smoothed(np.array([3.0, 5.0]), 1).tolist() == [3.0, 5.0]
    assert np.isnan(pictures.smoothed(np.array([NAN, NAN]), 2)).all()


@pytest.mark.parametrize(
    ("taken", "done"),
    [
        ([], []),
        ([Step(1, 1, 1e-3, NAN)], []),
        (steps(3, 3), epochs(1, validation_auc=NAN, training_auc=NAN, validation_loss=NAN)),
        (steps(3, 3), epochs(1, training_loss=math.inf)),
    ],
)
def test_odd_runs_have_a_picture(tmp_path: Path, taken: list[Step], done: list[Epoch]) -> None:
    pictures.training(tmp_path / "t.png", taken, done)
    assert (tmp_path / "t.png").stat().st_size > 1000


def test_an_undefined_auc_is_said() -> None:
    drawn = pictures.training_figure(steps(3, 3), epochs(1, validation_auc=NAN))
    assert "validation: undefined" in words(drawn)
    assert "no validation AUC" in words(drawn)


def test_the_suggested_rate_is_marked_and_written() -> None:
    rates = np.geomspace(1e-6, 1, 50).tolist()
    drawn = pictures.range_test_figure(rates, [0.7] * 50, [0.7] * 50, 0.0123)
    axes = drawn.axes[0]
    assert axes.get_xscale() == "log"
    assert any(list(line.get_xdata()) == [0.0123, 0.0123] for line in axes.lines)  # type: ignore[arg-type]
    assert "suggested learning rate 0.012" in words(drawn)


@pytest.mark.parametrize("losses", [[], [NAN, NAN, NAN], [0.7, 0.5, math.inf]])
def test_odd_range_tests_have_a_picture(tmp_path: Path, losses: list[float]) -> None:
    rates = [1e-3, 1e-2, 1e-1][: len(losses)]
    pictures.range_test(tmp_path / "r.png", rates, losses, losses, None)
    assert "no suggestion" in words(pictures.range_test_figure(rates, losses, losses, None))


def test_runs_have_a_line_each_over_epochs_and_over_time() -> None:
    drawn = pictures.runs_figure({"a": epochs(4), "b/c": epochs(3, seconds=3600)})
    by_time = panel(drawn, "Validation ROC AUC by time")
    assert [line.get_label() for line in by_time.lines] == ["a", "b/c"]
    assert by_time.get_xlabel() == "time spent (hours)"
    assert list(by_time.lines[1].get_xdata()) == [1, 2, 3]  # type: ignore[arg-type]
    by_epoch = panel(drawn, "Validation loss (nats) by epoch")
    assert list(by_epoch.lines[0].get_xdata()) == [1, 2, 3, 4]  # type: ignore[arg-type]


def test_many_runs_look_different() -> None:
    drawn = pictures.runs_figure({str(i): epochs(2) for i in range(20)})
    looks = {(line.get_color(), line.get_linestyle()) for line in drawn.axes[0].lines}
    assert len(looks) == 20


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: pictures.training(path, steps(9, 3), epochs(3)),
        lambda path: diagrams.validation(path, *scored(50), "t"),
        lambda path: pictures.runs(path, {"a": epochs(2), "empty": []}),
        lambda path: pictures.range_test(path, [1e-3, 1e-2], [1, 2], [1, 2], 1e-3),
        lambda path: grids.grid(path, [], 4, "none", mark=True),
    ],
)
def test_pictures_are_png_alone_in_their_folder_or_one_line(
    tmp_path: Path, draw: Callable[[Path], None]
) -> None:
    draw(tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert image.width >= 400
    with pytest.raises(WriteError, match="there is no folder"):
        draw(tmp_path / "nowhere" / "a.png")
