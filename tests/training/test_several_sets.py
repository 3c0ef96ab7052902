"""`slidescan train` with several folders of patches and several validation sets."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import patches
import pytest
import yaml
from click.testing import CliRunner, Result
from learning import tiny
from slidescan_train.loop.history import Epoch, further_sets, read, write
from slidescan_train.loop.learner import predict, tumour
from slidescan_train.loop.training import auc
from slidescan_train.runs.pictures import training_figure

from slidescan.cli import main
from slidescan.models.model import load
from slidescan.patches.labelled.patches import Patches
from slidescan.patches.labelled.splits import ids_sha256

ONE, TWO, HELD = patches.make(120), patches.make(40, seed=1), patches.make(30, seed=2)


def train(*args: object) -> Result:
    return CliRunner().invoke(main, ["train", "--threads", "1", *map(str, args)])


def failed(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)  # no traceback
    (line,) = result.stderr.splitlines()
    for part in parts:
        assert part in line


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    patches.write(root / "one", ONE)
    patches.write(root / "two", TWO)
    held = np.concatenate([HELD.pixels(), ONE.pixels([0])])
    patches.write(
        root / "valid",
        Patches.of((*HELD.ids, "again"), held, np.append(HELD.labels, ONE.labels[0])),
    )
    (root / "tiny.yaml").write_text(yaml.safe_dump(tiny(epochs=2).model_dump(mode="json")))
    return root


def options(folders: Path) -> tuple[object, ...]:
    data = ("--data", folders / "one", "--data", folders / "two")
    return (*data, "--validation", folders / "valid", "--config", folders / "tiny.yaml")


@pytest.fixture(scope="module")
def finished(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("run") / "out"
    result = train(*options(folders), "--out", out)
    assert result.exit_code == 0, result.output
    return out, result


def test_every_set_is_scored_side_by_side(finished: tuple[Path, Result]) -> None:
    out, result = finished
    epochs = read(out / "metrics.csv", Epoch)
    assert further_sets(epochs) == ["split"]
    assert set(epochs[0].further) == {f"validation_{s}.split" for s in ("loss", "accuracy", "auc")}
    lines = [line for line in result.stdout.splitlines() if line.startswith("epoch ")]
    for epoch, line in zip(epochs, lines, strict=True):
        assert f"; valid loss {epoch.validation_loss:.4f}, AUC {epoch.validation_auc:.4f}" in line
        assert f"; split loss {epoch.further['validation_loss.split']:.4f}, AUC " in line
    assert "validation sets: 31 valid, " in result.stdout
    assert " split; valid chooses the best epoch" in result.stdout
    assert (out / "validation.png").exists()
    assert (out / "validation-split.png").exists()
    names = training_figure([], epochs).axes[2].get_legend_handles_labels()[1]
    assert "split" in names


def test_the_card_says_which_sets_and_which_one_chose(finished: tuple[Path, Result]) -> None:
    out, _ = finished
    epochs = read(out / "metrics.csv", Epoch)
    top = max(epochs, key=lambda epoch: epoch.validation_auc)
    card = load(str(out / "best.safetensors")).card
    assert card.training_sets is not None
    assert card.validation_sets is not None
    one, two = card.training_sets
    valid, split = card.validation_sets
    assert (one.name, two.name, valid.name, split.name) == ("one", "two", "valid", "split")
    assert (valid.patches, valid.tumour) == (31, HELD.labels.sum() + ONE.labels[0])
    # The split holds out a part, and the copy of a validation patch is in neither.
    assert one.patches + two.patches + split.patches in (159, 160)
    assert len({each.fingerprint for each in (one, two, valid, split)}) == 4
    assert (card.chosen_by, load(str(out / "last.json")).card.chosen_by) == ("valid", None)
    assert card.validation == valid.scores
    assert valid.scores.auc == pytest.approx(top.validation_auc, abs=5.1e-5)
    assert split.scores.auc == pytest.approx(top.further["validation_auc.split"], abs=5.1e-5)
    assert card.held_out_sha256 == valid.ids_sha256 == ids_sha256([*HELD.ids, "again"])
    assert card.split.startswith("validation: all patches of folder valid")


def test_a_set_has_the_scores_of_its_own_patches(finished: tuple[Path, Result]) -> None:
    model = load(str(finished[0] / "last.json"))
    logits = predict(model.network, HELD, next(model.network.parameters()).device)
    found = auc(HELD.labels, tumour(logits).numpy())
    assert model.card.validation.auc == pytest.approx(found, abs=0.05)  # one patch more there


def test_a_patch_of_a_validation_set_is_not_trained_on(finished: tuple[Path, Result]) -> None:
    out, _ = finished
    with (out / "split.csv").open(newline="") as file:
        sides = {row["id"]: row["split"] for row in csv.DictReader(file)}
    assert sides.get(ONE.ids[0]) != "training"
    assert sides["again"] == "validation"


def test_a_run_is_resumed_with_the_same_sets_only(
    finished: tuple[Path, Result], folders: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")
    before = (out / "checkpoint.safetensors").read_bytes()
    assert train(*options(folders), "--resume", "--out", out).exit_code == 0
    assert (out / "checkpoint.safetensors").read_bytes() == before
    one = ("--data", folders / "one", "--resume", "--out", out)
    failed(train(*one, "--data", folders / "two"), "other settings: data: ")
    failed(train(*one, "--validation", folders / "valid"), "other settings: data: ")


def test_a_killed_run_keeps_the_scores_of_every_set(
    finished: tuple[Path, Result], folders: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")
    epochs = (out / "metrics.csv").read_bytes()
    (out / "metrics.csv").unlink()
    assert train(*options(folders), "--resume", "--out", out).exit_code == 0
    assert (out / "metrics.csv").read_bytes() == epochs


def test_tables_with_further_sets_are_read_as_they_were_written(tmp_path: Path) -> None:
    further = {"validation_loss.a.b": 0.5, "validation_accuracy.a.b": 0.75, "validation_auc.a.b": 1}
    rows = [Epoch(1, 1e-3, 0.5, 0.8, 0.85, 0.4, 0.85, 0.9, 200.0, 0.1, 60.0, further)]
    write(tmp_path / "metrics.csv", rows, Epoch)
    assert read(tmp_path / "metrics.csv", Epoch) == rows
    assert further_sets(rows) == ["a.b"]


def test_a_set_instead_of_the_split(folders: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "out", ("--data", folders / "one", "--config", folders / "tiny.yaml")
    none = ("--set", "validation=0", "--set", "epochs=1", "--out", out)
    failed(train(*data, *none), "validation=0", "--validation DIR")
    assert train(*data, *none, "--validation", folders / "valid").exit_code == 0
    card = load(str(out / "last.json")).card
    assert card.validation_sets is not None
    assert [each.name for each in card.validation_sets] == ["valid"]
    assert "119 training patches" in card.data


def test_a_folder_given_twice_is_refused(folders: Path) -> None:
    one, again = folders / "one", folders / "two" / ".." / "one"
    failed(train("--data", one, "--data", again), "is the folder of --data ", "leave one out")
    failed(train("--data", one, "--validation", one), "--validation ", "again")
    failed(train("--data", one, "--validation", folders / "none"), "--validation ", "no such")


def test_a_teacher_is_asked_about_every_set(
    finished: tuple[Path, Result], folders: Path, tmp_path: Path
) -> None:
    teacher = ("--teacher", finished[0] / "last.safetensors", "--set", "epochs=1")
    same = train(*options(folders), *teacher, "--out", tmp_path / "same")
    assert (same.exit_code, same.stderr) == (0, "")
    other = train(*options(folders), "--validation", folders / "two", *teacher)
    failed(other, "leave one out")
    sets = ("--data", folders / "one", "--validation", folders / "valid")
    known = ("--validation", folders / "two", "--config", folders / "tiny.yaml")
    told = train(*sets, *known, *teacher, "--out", tmp_path / "told")
    assert told.exit_code == 0, told.output
    assert told.stderr.count("Warning: ") == 1
    assert "other patches held out than this run's of validation set two; if it" in told.stderr
