"""`slidescan evaluate patches A B LABELS`: the same patches, and the difference between tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from sklearn.metrics import roc_auc_score

from slidescan.evaluation.paired import compare
from slidescan.evaluation.scores import Scores
from slidescan.statistics.delong import delong_p
from slidescan.statistics.metrics import OperatingPoints, names

N = 200


def write(path: Path, rows: Iterable[Sequence[object]], header: Sequence[str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def draw(seed: int, gain: float) -> list[float]:
    rng = np.random.default_rng(seed)
    labels = np.arange(N) % 2
    return (1 / (1 + np.exp(-rng.normal(gain * (2 * labels - 1), 1.2)))).tolist()


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path, Path]:
    """a.csv, b.csv, which is better and in another order, and labels.csv."""
    a = [(f"id{i}", p) for i, p in enumerate(draw(0, 0.5))]
    b = [(f"id{i}", p) for i, p in enumerate(draw(1, 1.5))]
    return (
        write(tmp_path / "a.csv", a, ("id", "label")),
        write(tmp_path / "b.csv", reversed(b), ("id", "label")),
        write(tmp_path / "labels.csv", [(f"id{i}", i % 2) for i in range(N)], ("id", "label")),
    )


def run(*arguments: object) -> Result:
    return commands.run("evaluate", "patches", *arguments)


def found(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return content


def test_differences_are_of_the_same_patches_whatever_the_order_of_the_tables(
    tables: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = commands.ran("evaluate", "patches", *tables, "--resamples", 200, "--out", out)
    labels, a, b = np.arange(N) % 2, np.array(draw(0, 0.5)), np.array(draw(1, 1.5))
    expected = roc_auc_score(labels, b) - roc_auc_score(labels, a)
    of = found(out)["metrics"]["roc_auc"]["predictions"]
    assert list(of) == ["a.csv", "b.csv"]
    assert of["a.csv"]["value"] == pytest.approx(roc_auc_score(labels, a))
    assert "difference" not in of["a.csv"]
    difference = of["b.csv"]["difference"]
    assert difference["value"] == pytest.approx(expected)
    assert 0 < difference["low"] < expected < difference["high"]
    assert difference["delong_p_value"] == pytest.approx(delong_p(labels, a, b))
    accuracy = found(out)["metrics"]["accuracy"]["predictions"]["b.csv"]["difference"]
    right = [((p >= 0.5) == labels).mean() for p in (a, b)]
    assert accuracy["value"] == pytest.approx(right[1] - right[0])
    assert accuracy["delong_p_value"] is None
    for text in (result.output, (out / "metrics.md").read_text()):
        assert f"{expected:+.4f}" in text
        assert "differences from a.csv" in text
    with Image.open(out / "roc.png") as picture:
        assert picture.width > 300


def test_every_metric_has_its_difference(tables: tuple[Path, Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(*tables, "--resamples", 20, "--out", out).exit_code == 0
    metrics = found(out)["metrics"]
    assert list(metrics) == list(names(OperatingPoints()))
    for metric in metrics.values():
        first, second = metric["predictions"].values()
        assert second["difference"]["value"] == pytest.approx(second["value"] - first["value"])


def test_pairing_narrows_the_interval_of_the_difference() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    p = np.clip(0.3 + 0.3 * labels + rng.normal(0, 0.2, 400), 0.01, 0.99)
    near = np.clip(p + rng.normal(0, 0.01, 400), 0.01, 0.99)
    ids = tuple(map(str, range(400)))
    tables = {name: Scores(ids, labels, values) for name, values in (("a", p), ("b", near))}
    second = compare(tables, OperatingPoints(), 200, 0).metrics[1]
    assert second.difference is not None
    assert second.difference.high - second.difference.low < 0.2 * (second.high - second.low)


def test_a_table_does_not_differ_from_its_copy(
    tables: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    copy, out = tmp_path / "copy.csv", tmp_path / "out"
    copy.write_bytes(tables[0].read_bytes())
    assert run(tables[0], copy, tables[2], "--resamples", 20, "--out", out).exit_code == 0
    for metric in found(out)["metrics"].values():
        difference = metric["predictions"]["copy.csv"]["difference"]
        assert difference["value"] == difference["low"] == difference["high"] == 0


def test_slides_are_resampled_and_delongs_test_is_left_out(
    tables: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    groups = write(
        tmp_path / "g.csv", [(f"id{i}", f"s{i // 10}") for i in range(N)], ("id", "slide")
    )
    out = tmp_path / "out"
    result = run(*tables, "--groups", groups, "--resamples", 20, "--out", out)
    assert result.exit_code == 0, result.output
    assert "resamples of slides" in result.output
    assert found(out)["about"]["slides"] == 20
    difference = found(out)["metrics"]["roc_auc"]["predictions"]["b.csv"]["difference"]
    assert difference["delong_p_value"] is None


def test_several_tables_are_compared_with_the_first(
    tables: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    third = tmp_path / "other" / "a.csv"
    write(third, [(f"id{i}", p) for i, p in enumerate(draw(2, 1.0))], ("id", "label"))
    result = run(*tables[:2], third, tables[2], "--resamples", 0)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("  ROC AUC")]
    # Two files have the same name, so paths are printed.
    assert [line.split()[2] for line in lines] == [str(tables[0]), str(tables[1]), str(third)]


def test_tables_of_different_patches_are_refused(
    tables: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    few = write(tmp_path / "few.csv", [("id0", 0.5), ("id1", 0.7), ("zz", 0.1)], ("id", "label"))
    words = (few, "1 predictions have no label, e.g. zz", "198 labels", "--common evaluates the 2")
    commands.refused(run(tables[0], few, tables[2]), *words)
    result = run(tables[0], few, tables[2], "--common", "--resamples", 0)
    assert "2 patches, 1 with tumour" in result.output
    commands.refused(run(tables[0], tables[0], tables[2]), "given twice")


def test_labels_that_do_not_come_last_get_a_hint(tables: tuple[Path, Path, Path]) -> None:
    a, b, labels = tables
    for given in ((labels, a), (labels, a, b), (a, labels, b)):
        words = (f"{given[-1]} holds probabilities", f"{labels} holds 0 and 1", "last argument")
        commands.refused(run(*given), *words)


def test_pictures_of_an_earlier_evaluation_are_removed(
    tables: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(tables[0], tables[2], "--resamples", 0, "--out", out).exit_code == 0
    assert (out / "histogram.png").exists()
    assert run(*tables, "--resamples", 0, "--out", out).exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        *("metrics.json", "metrics.md", "mistakes.csv", "roc.png"),
    ]
