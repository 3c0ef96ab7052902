"""Calibration: the fit, its place in the network, and exactness of calibrated maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models
import networks
import numpy as np
import patches
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from slidescan.cli import main
from slidescan.engines.backend import Backend
from slidescan.engines.build import make_engine
from slidescan.engines.torch_engine import TorchEngine
from slidescan.errors import DataError, ModelError
from slidescan.evaluation import calibration_fit
from slidescan.evaluation.calibration_fit import (
    Quality,
    apply,
    fit_isotonic,
    fit_temperature,
    folds,
)
from slidescan.geometry import PATCH_PX
from slidescan.models.model import Calibration, load, save
from slidescan.networks.calibration import Calibrate
from slidescan.networks.logit_map import LogitMap
from slidescan.networks.network import Network

KNOTS = ((-3.0, -2.0), (-0.5, -1.5), (0.25, 0.5), (2.0, 2.5))
MAPS = {
    "temperature": LogitMap(temperature=1.7),
    "isotonic": LogitMap(temperature=0.8, isotonic=KNOTS),
}
FIGURES: dict[str, Any] = {
    "fitted_on": "noise", "patches": 10, "nll_before": 0.7, "nll_after": 0.6, "ece_before": 0.2,
    "ece_after": 0.1, "ece_cross_fitted": None,
}  # fmt: skip


@pytest.fixture(params=list(MAPS))
def by(request: pytest.FixtureRequest) -> LogitMap:
    return MAPS[request.param]


def overconfident(count: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Log-odds twice as large as they should be, and labels."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 1.5, count)
    return 2 * true, (rng.uniform(size=count) < expit(true)).astype(np.int64)


# --- the function on logits ----------------------------------------------------------------------


def test_temperature_divides_the_logits() -> None:
    logits = networks.image(7, 5, count=2)[:, :2] / 50
    assert torch.equal(Calibrate(MAPS["temperature"])(logits), logits / 1.7)


def test_knots_are_met_and_joined_by_lines() -> None:
    x = torch.tensor([-4.0, -3.0, -1.75, -0.5, -0.125, 0.25, 2.0, 4.0], dtype=torch.float64)
    expected = [-3.25, -2.0, -1.75, -1.5, -0.5, 0.5, 2.5, 5.0]  # beyond the ends: slope 1 / 0.8
    logits = torch.stack([torch.full_like(x, 3.0), 3.0 + x], 0)[None, :, :, None]
    found = Calibrate(MAPS["isotonic"])(logits)
    assert (found[0, 1] - found[0, 0])[:, 0].tolist() == pytest.approx(expected, abs=1e-12)


def test_the_fits_arithmetic_is_the_networks(by: LogitMap) -> None:
    x = np.linspace(-9, 9, 1001)
    logits = torch.tensor(np.stack([-x, x]) / 2)[None, :, :, None]
    found = Calibrate(by)(logits)
    there = (found[0, 1] - found[0, 0])[:, 0].numpy()
    np.testing.assert_allclose(there, apply(by, x), rtol=0, atol=1e-12)
    assert (np.diff(there) > 0).all()  # the order of patches, and so the AUC, stays


def test_half_precision_is_not_rounded_again(by: LogitMap) -> None:
    logits = torch.randn(1, 2, 50, 1).bfloat16()
    assert torch.equal(Calibrate(by)(logits), Calibrate(by)(logits.float()))


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"isotonic": [[0, 0]]},
        {"isotonic": [[0, 0], [0, 1]]},
        {"isotonic": [[0, 1], [1, 1]]},
        {"isotonic": [[0, 0], [1, float("inf")]]},
        {"offset": 1},
    ],
)
def test_a_map_that_does_not_rise_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        LogitMap.model_validate(bad)


# --- in the network, in files, in maps ------------------------------------------------------


def calibrated(by: LogitMap) -> Network:
    """Float64, and the same weights whatever `by` is."""
    plain = networks.network(networks.plan("4/2 3", "R N R", grid=2))
    network = Network(plain.plan, by).double().eval()
    network.load_state_dict(plain.state_dict())
    return network


def test_a_calibrated_network_has_the_weights_of_the_plain_one(by: LogitMap) -> None:
    network = calibrated(by)
    plain = Network(network.plan).double().eval()
    assert list(plain.state_dict()) == list(network.state_dict())
    plain.load_state_dict(network.state_dict())
    image = networks.image(130, 121)
    with torch.inference_mode():
        assert torch.equal(network(image), Calibrate(by)(plain(image)))
        assert not torch.equal(network(image), plain(image))
        assert torch.equal(network.uncalibrated()(image), plain(image))
    assert network.calibration is by  # the copy is one


@pytest.mark.parametrize("extent", [(96, 96), (101, 137), (150, 99)])
def test_a_calibrated_map_is_its_patches(by: LogitMap, extent: tuple[int, int]) -> None:
    network, image = calibrated(by), networks.image(*extent)
    stride = network.field.stride
    with torch.inference_mode():
        whole = network(image)[0]
        for r, c in np.ndindex(whole.shape[1:]):
            y, x = r * stride, c * stride
            alone = network(image[:, :, y : y + PATCH_PX, x : x + PATCH_PX])[0, :, 0, 0]
            assert (whole[:, r, c] - alone).abs().max() < 1e-12


def store(path: Path, by: LogitMap | None, network: Network | None = None) -> Path:
    plain = network or networks.network(networks.plan("4/2 3", "R N R", filters=2)).float()
    figures = None if by is None else Calibration(**by.model_dump(), **FIGURES)
    with_it = Network(plain.plan, figures)
    with_it.load_state_dict(plain.state_dict())
    return models.save(path, with_it)


def test_both_engines_calibrate_maps_and_patches(by: LogitMap, tmp_path: Path) -> None:
    model, plain = (
        load(str(store(tmp_path / f"{i}.safetensors", c))) for i, c in enumerate((by, None))
    )
    pixels = np.random.default_rng(0).integers(0, 256, (1, 112, 120, 3), np.uint8)
    ours, before = (TorchEngine(m.network, "cpu", "fp32", 1)(pixels) for m in (model, plain))
    logit = np.log(before.astype(float)) - np.log1p(-before.astype(float))
    np.testing.assert_allclose(ours, expit(apply(by, logit)), atol=1e-6)
    assert np.abs(ours - before).max() > 0.01
    engine = make_engine(model.network, Backend("openvino", "cpu", "fp32", 1))
    np.testing.assert_allclose(engine(pixels), ours, atol=1e-5)
    for r, c in np.ndindex(3, 4):
        patch = pixels[:, 8 * r : 8 * r + PATCH_PX, 8 * c : 8 * c + PATCH_PX]
        assert abs(engine(np.ascontiguousarray(patch))[0, 0, 0] - ours[0, r, c]) < 1e-5


def test_a_calibration_is_kept_with_the_weights(by: LogitMap, tmp_path: Path) -> None:
    path = store(tmp_path / "m.safetensors", by)
    card = load(str(path)).card
    assert card.calibration == Calibration(**by.model_dump(), **FIGURES)
    assert (
        card.weights_sha256
        == load(str(store(tmp_path / "n.safetensors", None))).card.weights_sha256
    )
    again = save(tmp_path / "again.safetensors", load(str(path)).network, **card.model_dump(
        exclude={"name", "plan", "field_px", "stride_px", "weights_sha256", "calibration"}
    ))  # fmt: skip
    assert again.calibration == card.calibration


def test_a_damaged_calibration_is_refused(tmp_path: Path) -> None:
    path = store(tmp_path / "m.safetensors", MAPS["isotonic"])
    card = json.loads(path.with_suffix(".json").read_text())
    card["calibration"]["isotonic"][1] = [5, 5]
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"calibration.*knots must rise"):
        load(str(path))


def test_models_of_the_same_weights_are_told_apart_by_their_calibration(tmp_path: Path) -> None:
    kinds = [None, *MAPS.values(), LogitMap(temperature=0.8, isotonic=((-3.0, -2.0), (2.0, 2.5)))]
    found = [load(str(store(tmp_path / "m.safetensors", kind))).identity for kind in kinds]
    assert len({json.dumps(identity) for identity in found}) == 4
    assert len({identity["sha256"] for identity in found}) == 1
    assert set(found[0]) == {"name", "sha256"}  # as before there was calibration


# --- the fit --------------------------------------------------------------------------------


def test_the_temperature_is_that_of_a_logistic_regression_without_intercept() -> None:
    logits, labels = overconfident(2000)
    fitted = fit_temperature(logits, labels).temperature
    regression = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=1000)
    assert 1 / fitted == pytest.approx(
        regression.fit(logits[:, None], labels).coef_[0, 0], rel=1e-6
    )
    assert fitted == pytest.approx(2, abs=0.2)


def test_no_other_temperature_has_less_nll() -> None:
    logits, labels = overconfident(500, 3)
    best = fit_temperature(logits, labels).temperature
    least = Quality.of(logits / best, labels).nll
    for factor in 0.5, 0.99, 1.01, 2:
        assert Quality.of(logits / best / factor, labels).nll > least


def test_an_isotonic_line_goes_through_scikit_learns_steps() -> None:
    logits, labels = overconfident(20_000, 1)
    bent = np.where(logits > 0, logits, 3 * logits)  # what no temperature mends
    line = fit_isotonic(bent, labels)
    assert line.isotonic is not None
    assert 5 < len(line.isotonic) <= calibration_fit.KNOTS
    steps = IsotonicRegression(out_of_bounds="clip").fit(bent, labels)
    for x, y in line.isotonic[1:-1]:
        assert expit(y) == pytest.approx(steps.predict([x])[0], abs=0.05)
    slopes = np.diff([y for _, y in line.isotonic]) / np.diff([x for x, _ in line.isotonic])
    assert slopes.max() <= calibration_fit.STEEPEST * 1.01
    after = Quality.of(apply(line, bent), labels)
    assert (
        after.ece < 0.02 < Quality.of(bent / fit_temperature(bent, labels).temperature, labels).ece
    )


def test_ties_are_one_knot() -> None:
    logits = np.repeat([-1.0, 0.0, 1.0], 100)
    labels = np.tile([0] * 3 + [1], 75)
    labels[200:] = np.arange(100) % 10 > 1
    line = fit_isotonic(logits, labels)
    assert line.isotonic is not None
    assert [x for x, _ in line.isotonic] == [-0.5, 1.0]  # a quarter at -1 and at 0
    shares = [expit(y) for _, y in line.isotonic]
    assert shares == pytest.approx([0.25, 0.8], abs=0.005)


def test_patches_that_allow_no_fit_are_refused() -> None:
    logits = np.linspace(-3, 3, 100)
    sides = (logits > 0).astype(np.int64)
    for labels, reason in (
        (np.ones(100, np.int64), "both labels"),
        (sides, "more patches"),
        (1 - sides, "do not predict"),
    ):
        for fit in fit_temperature, fit_isotonic:
            with pytest.raises(DataError, match=reason):
                fit(logits, labels)
    with pytest.raises(DataError, match="not finite on 1 of 100"):
        fit_temperature(np.where(logits == 3, np.inf, logits), sides)


def test_cross_fitting_judges_each_patch_by_others() -> None:
    logits, labels = overconfident(400)
    ids = list(map(str, range(400)))
    outcome = calibration_fit.calibrate(logits, labels, ids, fit_isotonic)
    assert outcome.cross_fitted is not None
    assert outcome.after.nll < outcome.cross_fitted.nll  # what was fitted flatters itself
    assert outcome.before == Quality.of(logits, labels)
    flipped = labels.copy()
    flipped[folds(ids) == 0] ^= 1  # only its own fold's labels: the fits of that fold do not move
    again = calibration_fit._cross_fitted(logits, flipped, folds(ids), fit_temperature)
    first = calibration_fit._cross_fitted(logits, labels, folds(ids), fit_temperature)
    assert np.array_equal(again.logits[folds(ids) == 0], first.logits[folds(ids) == 0])
    assert not np.array_equal(again.logits[folds(ids) == 1], first.logits[folds(ids) == 1])


def test_a_fold_that_allows_no_fit_leaves_the_others_figures() -> None:
    logits, labels = overconfident(40)
    outcome = calibration_fit.calibrate(logits, labels, ["one slide"] * 40, fit_temperature)
    assert outcome.cross_fitted is None
    assert outcome.by == fit_temperature(logits, labels)


def test_folds_keep_slides_whole_and_are_even() -> None:
    units = [f"s{i % 15}" for i in range(150)]
    place = folds(units)
    assert len({(unit, int(fold)) for unit, fold in zip(units, place, strict=True)}) == 15
    assert np.bincount(place).tolist() == [30] * 5


# --- the command ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches whose labels depend little on the pixels, so that a random network fits."""
    return patches.write(tmp_path_factory.mktemp("data") / "pcam", patches.make(600))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["calibrate", *map(str, arguments)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """Weights and card of a random network without calibration."""
    network = networks.network(networks.plan("4/2 3", "R N R", filters=2)).float()
    path = store(tmp_path_factory.mktemp("model") / "m.safetensors", None, network)
    return path


def test_a_model_is_calibrated_beside_itself(model: Path, data: Path, tmp_path: Path) -> None:
    before = model.read_bytes(), model.with_suffix(".json").read_bytes()
    out = tmp_path / "calibrated.safetensors"
    result = run("--model", model, "--data", data, "--out", out)
    if "do not predict" in result.output:
        pytest.fail("the random network ranks the wrong way: draw it from another seed")
    assert result.exit_code == 0, result.output
    assert (model.read_bytes(), model.with_suffix(".json").read_bytes()) == before
    card, there = load(str(out)).card, load(str(model)).card
    assert card.weights_sha256 == there.weights_sha256
    assert card.name == "calibrated"
    assert card.calibration is not None
    assert card.calibration.nll_after < card.calibration.nll_before
    assert "SHA-256(id)" in card.calibration.fitted_on
    for word in ("before", "after", "cross-fitted", f"{card.calibration.ece_before:.4f}"):
        assert word in result.output
    assert "another split" in result.output  # the card says none


def test_a_calibration_is_replaced_and_not_heaped(model: Path, data: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert run("--model", model, "--data", data, "--out", once).exit_code == 0
    assert run("--model", once, "--data", data, "--out", twice).exit_code == 0
    first, second = (load(str(path)).card.calibration for path in (once, twice))
    assert first == second


@pytest.mark.parametrize(
    ("out", "part"),
    [
        ("model.json", "a model's name ends in .safetensors"),
        ("none/model.safetensors", "there is no folder"),
        ("SELF", "is the model that is read"),
        ("SHIPPED", "shipped models"),
    ],
)
def test_an_out_that_cannot_be_is_refused_first(
    model: Path, tmp_path: Path, out: str, part: str
) -> None:
    from slidescan.models.model import shipped

    special = {"SELF": model, "SHIPPED": shipped("other")}
    result = run("--model", model, "--data", tmp_path, "--out", special.get(out, tmp_path / out))
    assert result.exit_code == 1
    assert part in result.output
    assert result.output.count("\n") == 1


def test_a_mistyped_model_or_folder_is_refused_first(data: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "m.safetensors")
    result = run("--data", data, "--model", "bset", *out)
    assert result.exit_code == 1
    assert "did you mean best?" in result.output
    result = run("--data", data.with_name("pcan"), *out)
    assert result.exit_code == 1
    assert f"pcan: no such file or folder; did you mean {data}?" in result.output


# --- maps -----------------------------------------------------------------------------------


def test_a_calibrated_map_is_verified_and_not_mixed_with_another(
    section: Path, tiny_model: Path, tmp_path: Path
) -> None:
    def slidescan(*arguments: object) -> Result:
        return CliRunner().invoke(main, [*map(str, arguments), "--threads", "1"])

    plain = load(str(tiny_model)).network
    model, out = store(tmp_path / "m.safetensors", MAPS["isotonic"], plain), tmp_path / "map.zarr"
    scan = ("heatmap", section, "--out", out, "--model")
    assert slidescan(*scan, model).exit_code == 0
    result = slidescan("verify", section, out, "--model", model, "--cells", 20)
    assert result.exit_code == 0, result.output
    for other in tiny_model, store(tmp_path / "n.safetensors", MAPS["temperature"], plain):
        for refused in slidescan(*scan, other), slidescan("verify", section, out, "--model", other):
            assert refused.exit_code == 1
            assert "calibrat" in refused.output
