"""Operating points: chosen by calibrate, kept in the card, and looked up by name."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import commands
import models
import networks
import numpy as np
import patches
import pytest
import slide_study
from hypothesis import given
from hypothesis import strategies as st
from lesions import heatmap
from scipy.special import expit

from slidescan.errors import MapError
from slidescan.evaluation.calibration_fit import apply, calibrate, fit_temperature, folds
from slidescan.evaluation.thresholds import threshold_of_maps
from slidescan.models.card import Card, read_card
from slidescan.models.identity import identity_of
from slidescan.patches.labelled.splits import ids_sha256
from slidescan.statistics.operating import rates, threshold_at


def save(path: Path, table: dict[str, object] | None = models.OPERATING, **card: object) -> Path:
    network = networks.network(networks.plan("4/2 3", "R N R", filters=2)).float()
    return models.save(path, network, operating=table, **card)


# --- the choice -----------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), min_size=1), st.floats(0.01, 1))
def test_it_is_the_highest_threshold_that_reaches_the_sensitivity(
    rows: list[tuple[bool, int]], sensitivity: float
) -> None:
    labels = np.array([1, *(label for label, _ in rows)], np.int64)
    p = np.array([15, *(value for _, value in rows)]) / 30
    threshold = threshold_at(labels, p, sensitivity)
    positives = p[labels == 1]
    assert (positives >= threshold).mean() >= sensitivity - 1e-9
    higher = p[p > threshold].min(initial=np.inf)
    assert (positives > higher).mean() < sensitivity or not (p > threshold).any()


def test_rounding_of_probabilities_does_not_change_what_is_called() -> None:
    labels, p = np.array([0, 0, 1, 1]), np.array([0.2, 0.4, 0.6, 0.8])
    threshold = threshold_at(labels, p, 0.9)
    assert threshold == pytest.approx(0.5)
    for off in -0.01, 0.01:
        assert rates(labels, p + off >= threshold) == (1.0, 1.0)


def test_cross_fitted_rates_use_thresholds_of_the_other_folds() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 600)
    labels = (rng.uniform(size=600) < expit(logits / 2)).astype(np.int64)
    units = [f"slide {i % 12}" for i in range(600)]
    outcome = calibrate(logits, labels, units, fit_temperature, 3)
    called = np.zeros(600, bool)
    place = folds(units, 3)
    assert len(np.unique(place)) == 3
    for fold in range(3):
        out = place == fold
        p = expit(apply(fit_temperature(logits[~out], labels[~out]), logits))
        called[out] = p[out] >= threshold_at(labels[~out], p[~out], 0.95)
    point = outcome.points["sens95"]
    assert (point.sensitivity_cross_fitted, point.specificity_cross_fitted) == rates(labels, called)
    assert point.sensitivity >= 0.95
    p = expit(logits / outcome.by.temperature)
    assert rates(labels, p >= point.threshold) == (point.sensitivity, point.specificity)
    assert list(outcome.points) == ["sens90", "sens95", "sens99"]
    assert [p.threshold for p in outcome.points.values()] == sorted(
        (p.threshold for p in outcome.points.values()), reverse=True
    )


def test_without_a_fit_of_each_fold_there_are_thresholds_but_no_cross_fitted_rates() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 40)
    labels = (rng.uniform(size=40) < expit(logits / 2)).astype(np.int64)
    point = calibrate(logits, labels, ["one slide"] * 40, fit_temperature).points["sens90"]
    assert point.sensitivity >= 0.9
    assert point.sensitivity_cross_fitted is None


# --- the card -------------------------------------------------------------------------------


def test_a_card_without_the_field_loads(tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors", None).with_suffix(".json")
    card = json.loads(path.read_text())
    del card["operating"]
    path.write_text(json.dumps(card))
    assert read_card(str(path)).operating is None


def test_a_table_does_not_change_what_identifies_a_model(tmp_path: Path) -> None:
    cards = [
        read_card(str(save(tmp_path / "m.safetensors", table)))
        for table in (None, models.OPERATING)
    ]
    assert identity_of(cards[0]) == identity_of(cards[1])


def test_models_show_prints_the_table(tmp_path: Path) -> None:
    printed = commands.ran("models", "show", save(tmp_path / "m.safetensors")).stdout
    for word in ("sens90", "0.6500", "sens99", "0.2500", "4 patches", "noise"):
        assert word in printed


# --- calibrate ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patches.write(tmp_path_factory.mktemp("data") / "other", patches.make(200))


def test_calibrate_all_uses_every_patch_and_stores_the_table(data: Path, tmp_path: Path) -> None:
    model, out = save(tmp_path / "m.safetensors"), tmp_path / "c.safetensors"
    given_by = ("calibrate", "--model", model, "--data", data, "--out", out, "--folds", 4)
    printed = commands.ran(*given_by, "--all").stdout
    card = read_card(str(out))
    assert card.calibration is not None
    assert card.operating is not None
    assert card.calibration.patches == card.operating.patches == 200
    assert card.calibration.nll_cross_fitted is not None
    assert card.operating.data == "other: all patches; PatchCamelyon, Kaggle edition"
    assert card.operating.points["sens99"].sensitivity >= 0.99
    assert f"{card.operating.points['sens99'].threshold:.4f}" in printed
    before = card.operating.fingerprint
    commands.ran(*given_by)
    held_out = read_card(str(out)).operating
    assert held_out is not None
    assert held_out.patches < 50
    assert held_out.fingerprint != before


def test_calibrate_all_refuses_the_patches_of_training(data: Path, tmp_path: Path) -> None:
    training, _ = patches.split(patches.make(200))
    split = "validation: SHA-256(id) / 2**256 < 0.1; training: the rest"
    known = {"split": split, "trained_on_sha256": ids_sha256(training.ids)}
    model = save(tmp_path / "m.safetensors", **known)
    result = commands.run(
        "calibrate", "--model", model, "--data", data, "--all", "--out", tmp_path / "c.safetensors"
    )
    assert result.exit_code == 1
    assert f"was trained on {len(training)} patches of {data}" in result.stderr


def test_a_patch_without_a_slide_is_refused(data: Path, tmp_path: Path) -> None:
    groups = tmp_path / "groups.csv"
    groups.write_text("id,slide\n" + "".join(f"{i},s\n" for i in patches.make(199).ids))
    model, out = save(tmp_path / "m.safetensors"), tmp_path / "c.safetensors"
    given_by = ("--model", model, "--data", data, "--groups", groups, "--out", out)
    result = commands.run("calibrate", *given_by, "--all")
    assert result.exit_code == 1
    assert "1 of 200 patches have no slide" in result.stderr


# --- evaluate patches -----------------------------------------------------------------------


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    rows = [("a", 0.3, 0), ("b", 0.4, 1), ("c", 0.6, 1), ("d", 0.7, 0)]
    paths = tmp_path / "scores.csv", tmp_path / "labels.csv"
    for column, path in enumerate(paths, 1):
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("id", "label"), *((r[0], r[column]) for r in rows)])
    return paths


def test_a_name_is_the_threshold_of_the_card(tables: tuple[Path, Path], tmp_path: Path) -> None:
    model = save(tmp_path / "m.safetensors")
    for name, threshold, accuracy in (("sens90", 0.65, 0.25), ("sens99", 0.25, 0.5)):
        out = tmp_path / name
        options = ("--resamples", 0, "--out", out)
        printed = commands.ran(
            "evaluate", "patches", *tables, "--threshold", name, "--model", model, *options
        ).stdout
        assert f"threshold {name} of {model}: {threshold}" in printed
        assert slide_study.values(out)["accuracy"] == accuracy


def test_a_name_needs_a_model_with_a_table(tables: tuple[Path, Path], tmp_path: Path) -> None:
    bare = save(tmp_path / "bare.safetensors", None)
    scores, labels = tables
    for arguments, words in (
        ((scores, labels, "--threshold", "sens95"), "add --model"),
        ((scores, labels, "--threshold", "sens95", "--model", bare), "has no operating table"),
        ((scores, labels, "--model", bare), "named threshold"),
        ((scores, scores.with_name("labels.csv"), labels, "--threshold", "sens95", "--model", bare),
         "one by one"),
    ):  # fmt: skip
        result = commands.run("evaluate", "patches", *arguments)
        assert result.exit_code == 1
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
    result = commands.run("evaluate", "patches", scores, labels, "--threshold", "sens80")
    assert result.exit_code == 2
    assert "sens80 is none of sens90, sens95, sens99" in result.stderr


# --- evaluate slides ------------------------------------------------------------------------


def card_and_map(folder: Path, **settings: Any) -> tuple[Path, Card, Path]:
    """A model with a table, and a map that names it."""
    model = save(folder / "m.safetensors")
    card = read_card(str(model))
    made = slide_study.write_map(folder / "a.zarr", heatmap((20, 20), {}), model=identity_of(card))
    return model, card, made


def test_maps_have_the_threshold_of_their_model(tmp_path: Path) -> None:
    model, _, made = card_and_map(tmp_path)
    assert threshold_of_maps("sens95", [tmp_path / "none.zarr", made], str(model)) == 0.5
    with pytest.raises(MapError, match=r"which is not a shipped model.*name it with --model"):
        threshold_of_maps("sens95", [made], None)
    with pytest.raises(MapError, match="no map can be opened"):
        threshold_of_maps("sens95", [tmp_path / "none.zarr"], str(model))


def test_maps_of_other_models_and_averages_are_refused(tmp_path: Path) -> None:
    model, card, made = card_and_map(tmp_path)
    own = identity_of(card)
    other = own | {"sha256": "cd" * 32}
    recalibrated = own | {"calibration": {"temperature": 2.0, "isotonic_sha256": None}}
    for number, (changed, words) in enumerate((
        (other, "made by m of SHA-256 cdcdcdcdcdcd"),
        (recalibrated, "calibrated, not by"),
        (own | {"members": [own, other]}, "several models"),
    )):  # fmt: skip
        path = slide_study.write_map(
            tmp_path / f"{number}.zarr", heatmap((20, 20), {}), model=changed
        )
        with pytest.raises(MapError, match=words):
            threshold_of_maps("sens95", [path], str(model))
    averaged = slide_study.write_map(
        tmp_path / "d4.zarr", heatmap((20, 20), {}), model=own, settings={"tta": "d4"}
    )
    with pytest.raises(MapError, match="--tta d4"):
        threshold_of_maps("sens95", [averaged], str(model))
    with pytest.raises(MapError, match="is of one model"):
        threshold_of_maps("sens95", [made, path.with_name("0.zarr")], str(model))


def test_evaluate_slides_takes_a_name(study: Path) -> None:
    model = save(study / "m.safetensors")
    identity = identity_of(read_card(str(model)))
    for name in ("tumor_1", "tumor_2", "normal_1", "normal_2"):
        peaks = {(40, 40): 0.6} if name == "tumor_1" else {}
        path = study / "maps" / f"{name}.zarr"
        path.rename(study / f"old_{name}")
        slide_study.write_map(path, heatmap(slide_study.SHAPE, peaks), model=identity)
    given_by = slide_study.arguments(study, "--model", model)
    for name, detected in (("sens95", True), ("sens90", False)):  # 0.6, from 0.5 and from 0.65
        out = study / name
        printed = slide_study.ran(*given_by, "--threshold", name, "--out", out).stdout
        assert f"threshold {name} of the maps' model: 0." in printed
        assert (slide_study.values(out)["cell_dice"] > 0) == detected
    slide_study.refused(slide_study.run(*given_by), "named threshold")
