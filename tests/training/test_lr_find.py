"""`slidescan lr-find`: a curve, a rate, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from slidescan_train.loop.history import Epoch, read
from training_runs import command, failed

from slidescan.errors import DataError

pytestmark = pytest.mark.usefixtures("undrawn")


def test_lr_find_writes_a_curve_and_suggests_a_rate(
    kaggle: Path, settings_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "range.png"
    options = ("--data", kaggle, "--config", settings_file, "--out", out, "--threads", 1)
    result = command("lr-find", *options, "--steps", 30, "--low", 1e-4, "--high", 10)
    assert result.exit_code == 0, result.output
    assert f"{out}: suggested learning_rate " in result.stdout
    assert ", a tenth of the rate at the lowest loss (" in result.stdout
    assert out.read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "range.csv").open(newline="") as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates == sorted(rates)
    assert {p.name for p in tmp_path.iterdir()} == {"range.png", "range.csv"}


def test_lr_find_refuses_what_is_no_range(kaggle: Path, tmp_path: Path) -> None:
    options = ("--data", kaggle, "--out", tmp_path / "x.png")
    failed(command("lr-find", *options, "--low", 1, "--high", 0.1), "needs 0 < low < high")
    failed(command("lr-find", *options, "--high", "inf"), "needs 0 < low < high")
    for out in ("x.csv", "x", "missing/x.png", "."):  # before a step is taken
        failed(command("lr-find", "--data", kaggle, "--out", tmp_path / out), str(tmp_path))
    with pytest.raises(DataError):
        read(tmp_path / "none.csv", Epoch)
