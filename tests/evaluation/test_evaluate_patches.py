"""`slidescan evaluate patches` with one table: metrics, pictures, and errors of one line."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from sklearn.metrics import roc_auc_score

from slidescan.cli import main

Rows = Sequence[Sequence[object]]
PICTURES = ("roc.png", "precision-recall.png", "reliability.png", "histogram.png")


def write(path: Path, rows: Iterable[Sequence[object]], header: Sequence[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """40 patches, the tables in another order, and tumour for every other."""
    rng = np.random.default_rng(0)
    labels = [(f"id{i}", i % 2) for i in range(40)]
    scores = [(key, float(np.clip(0.5 * y + rng.uniform(0, 0.7), 0, 1))) for key, y in labels]
    return (
        write(tmp_path / "predictions.csv", reversed(scores), ("id", "label")),
        write(tmp_path / "labels.csv", labels, ("id", "label")),
    )


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", "patches", *map(str, arguments)])


def refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    for part in parts:
        assert part in result.output


def read(path: Path) -> list[tuple[str, float]]:
    with path.open(newline="") as file:
        return [(row["id"], float(row["label"])) for row in csv.DictReader(file)]


def test_the_numbers_are_those_of_the_tables_joined_by_id(
    tables: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run(*tables, "--out", out, "--resamples", 50)
    assert result.exit_code == 0, result.output
    predicted, labels = (dict(read(path)) for path in tables)
    auc = roc_auc_score([labels[i] for i in predicted], list(predicted.values()))
    found = json.loads((out / "metrics.json").read_text())
    assert found["metrics"]["roc_auc"]["value"] == pytest.approx(auc, abs=1e-12)
    assert found["about"]["patches"] == 40
    assert found["about"]["slides"] is None
    assert sum(sum(row) for row in found["confusion"].values()) == 40
    assert f"{auc:.4f}" in result.output
    assert f"{auc:.4f}" in (out / "metrics.md").read_text()
    assert "--groups" in result.output  # patches of a slide are not independent
    for name in PICTURES:
        with Image.open(out / name) as picture:
            assert picture.width > 300
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [*PICTURES, "metrics.json", "metrics.md", "mistakes.csv"]
    )


def test_nothing_is_written_without_a_folder(tables: tuple[Path, Path], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    assert run(*tables, "--resamples", 0).exit_code == 0
    assert sorted(tmp_path.iterdir()) == before


def test_slides_are_resampled_where_they_are_known(
    tables: tuple[Path, Path], tmp_path: Path
) -> None:
    groups = write(
        tmp_path / "g.csv", [(f"id{i}", f"s{i // 4}") for i in range(50)], ("id", "slide")
    )
    out = tmp_path / "out"
    result = run(*tables, "--groups", groups, "--out", out, "--resamples", 50)
    assert result.exit_code == 0, result.output
    about = json.loads((out / "metrics.json").read_text())["about"]
    assert about["slides"] == 10
    assert "resamples of slides" in about["interval"]
    assert "--groups" not in result.output


def test_a_single_class_is_said_and_the_other_metrics_go_on(tmp_path: Path) -> None:
    scores = write(tmp_path / "p.csv", [("a", 0.2), ("b", 0.7)], ("id", "label"))
    labels = write(tmp_path / "l.csv", [("a", 0), ("b", 0)], ("id", "label"))
    result = run(scores, labels, "--out", tmp_path / "out", "--resamples", 20)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if "ROC AUC" in line]
    assert "undefined" in line
    assert "one label" in line
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    assert metrics["roc_auc"]["value"] is metrics["average_precision"]["value"] is None
    assert metrics["accuracy"]["value"] == 0.5
    assert metrics["brier"]["value"] == pytest.approx((0.04 + 0.49) / 2)


def test_the_worst_mistakes_are_shown(tmp_path: Path) -> None:
    scores = write(tmp_path / "p.csv", [("a", 0.9), ("b", 0.1), ("c", 0.8)], ("id", "label"))
    labels = write(tmp_path / "l.csv", [("a", 0), ("b", 1), ("c", 1)], ("id", "label"))
    (tmp_path / "train").mkdir()
    Image.new("RGB", (96, 96), (1, 250, 3)).save(tmp_path / "train" / "a.tif")
    result = run(scores, labels, "--images", tmp_path, "--out", tmp_path / "out", "--resamples", 0)
    assert result.exit_code == 0, result.output
    assert "no image of 1 of the worst mistakes" in result.output
    with Image.open(tmp_path / "out" / "mistakes.png") as sheet:
        colours = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
    assert (colours == (1, 250, 3)).all(axis=1).sum() > 90 * 96


def test_patches_that_all_tables_call_wrong_are_listed_and_shown(tmp_path: Path) -> None:
    truth = [("a", 0), ("b", 1), ("c", 1), ("d", 1), ("e", 0)]
    labels = write(tmp_path / "l.csv", truth, ("id", "label"))
    first, second = (
        write(tmp_path / name, list(zip("abcde", p, strict=True)), ("id", "label"))
        for name, p in (("p.csv", (0.95, 0.02, 0.4, 0.3, 0.2)), ("q.csv", (0.7, 0.05, 0.1, 0.9, 1)))
    )
    (tmp_path / "train").mkdir()
    for i, name in enumerate("abc"):
        Image.new("RGB", (96, 96), (1, 250, i)).save(tmp_path / "train" / f"{name}.tif")
    out = tmp_path / "out"
    options = "--images", tmp_path, "--out", out, "--resamples", 0
    result = run(first, second, labels, *options)
    assert result.exit_code == 0, result.output
    told = "All 2 tables are wrong on 3 patches, on 1 by more than 0.9: look at their labels."
    assert told in result.output
    assert (out / "mistakes.csv").read_text().splitlines() == [
        "id,label,error,p.csv,q.csv",
        *("b,1,0.95,0.02,0.05", "a,0,0.7,0.95,0.7", "c,1,0.6,0.4,0.1"),
    ]
    about = json.loads((out / "metrics.json").read_text())["about"]
    assert about["wrong_in_all"] == {"patches": 3, "by_more_than_0.9": 1}
    with Image.open(out / "mistakes.png") as sheet:
        shown = np.unique(np.asarray(sheet.convert("RGB")).reshape(-1, 3), axis=0).tolist()
    assert all([1, 250, i] in shown for i in range(3))

    assert run(first, labels, "--out", out, "--resamples", 0).exit_code == 0
    assert not (out / "mistakes.png").exists()  # it was of other predictions
    assert [line[:2] for line in (out / "mistakes.csv").read_text().splitlines()[1:]] == [
        *("b,", "a,", "d,", "c,"),
    ]


def test_where_nothing_is_wrong_the_picture_says_so(tmp_path: Path) -> None:
    rows = [("a", 0), ("b", 1)]
    scores, labels = (write(tmp_path / f"{n}.csv", rows, ("id", "label")) for n in "pl")
    out = tmp_path / "out"
    result = run(scores, labels, "--images", tmp_path, "--out", out, "--resamples", 0)
    assert result.exit_code == 0, result.output
    assert (out / "mistakes.csv").read_text().splitlines() == ["id,label,error,p.csv"]
    with Image.open(out / "mistakes.png") as sheet:
        assert np.asarray(sheet.convert("L")).min() < 128  # text


@pytest.mark.parametrize("several", [False, True])
def test_without_the_extra_it_says_what_to_install(
    several: bool, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    scores, labels = tables
    again = [shutil.copy(scores, tmp_path / "again.csv")] if several else []
    out = tmp_path / "out"
    words = ["evaluate", "patches", *map(str, (scores, *again, labels, "--out", out))]
    code = "import sys; sys.modules['matplotlib'] = None; from slidescan.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: evaluation needs matplotlib")
    assert "which is not installed; run: " in line
    assert not out.exists()


def test_only_images_that_are_not_there_are_refused(
    tables: tuple[Path, Path], tmp_path: Path
) -> None:
    refused(
        run(*tables, "--images", tmp_path, "--out", tmp_path / "out"),
        "has an image of these",
        "--images",
    )
    refused(run(*tables, "--images", tmp_path), "--out")


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([("a", "nan")], ("1 rows", "line 2: a, 'nan'", "probability from 0 to 1")),
        ([("a", 0.5), ("b", 1.5), ("c", -1)], ("2 rows", "line 3: b, '1.5'")),
        ([("a", ""), ("b", "x"), ("c",)], ("3 rows", "line 2: a, 'nothing'")),
        ([("", 0.5)], ("1 rows", "no id")),
        ([("a", 0.5), ("a", 0.5), ("a", 0.6)], ("2 repeated ids", "line 3: a")),
        ([], ("no rows",)),
        ([("x", 0.5)], ("no id in common", "x and id0")),
    ],
)
def test_predictions_that_are_wrong_are_refused_in_one_line(
    tables: tuple[Path, Path], tmp_path: Path, rows: Rows, parts: tuple[str, ...]
) -> None:
    scores = write(tmp_path / "p.csv", rows, ("id", "label"))
    refused(run(scores, tables[1]), *parts)


def test_ids_that_do_not_match_are_counted(tables: tuple[Path, Path], tmp_path: Path) -> None:
    scores = write(tmp_path / "p.csv", [("id0", 0.5), ("zz", 0.5)], ("id", "label"))
    refused(
        run(scores, tables[1]),
        "1 predictions have no label, e.g. zz",
        "39 labels have no prediction, e.g. id1",
        "--common evaluates the 1",
    )


def test_common_patches_are_evaluated_on_request(tables: tuple[Path, Path], tmp_path: Path) -> None:
    scores = write(tmp_path / "p.csv", [("id0", 0.1), ("id1", 0.6), ("zz", 1)], ("id", "label"))
    result = run(scores, tables[1], "--common", "--resamples", 0)
    assert result.exit_code == 0, result.output
    assert "2 patches, 1 with tumour" in result.output


def test_tables_without_the_columns_are_refused(tables: tuple[Path, Path], tmp_path: Path) -> None:
    other = write(tmp_path / "o.csv", [("id0", 1)], ("id", "p"))
    refused(run(other, tables[1]), "['id', 'p']", "id and label")
    refused(run(tables[0], tmp_path / "none.csv"), "none.csv: no such file")
    refused(run(tables[0], tmp_path / "label.csv"), "did you mean", "labels.csv")
    refused(run(*tables, "--groups", other), "id and slide")


def test_labels_and_slides_that_are_wrong_are_refused(
    tables: tuple[Path, Path], tmp_path: Path
) -> None:
    labels = write(tmp_path / "l.csv", [("id0", 0.5), ("id1", 2)], ("id", "label"))
    refused(run(tables[0], labels), "2 rows", "not 0 or 1", "id0")
    groups = write(tmp_path / "g.csv", [("id0", "s")], ("id", "slide"))
    refused(run(*tables, "--groups", groups), "39 of 40 patches have no slide")


def test_help_names_both_parts() -> None:
    result = CliRunner().invoke(main, ["evaluate", "patches", "--help"])
    assert result.exit_code == 0
    assert "--groups" in result.output


@pytest.mark.parametrize("option", ["--threshold", "--specificity", "--sensitivity"])
def test_nan_is_no_choice(option: str, tmp_path: Path) -> None:
    # click's own range lets it pass, as every comparison with it is false.
    result = CliRunner().invoke(main, ["evaluate", "patches", "p.csv", "l.csv", option, "nan"])
    assert result.exit_code == 2
    assert "nan is not a number in the range" in result.stderr
