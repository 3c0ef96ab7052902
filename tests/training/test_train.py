"""`slidescan train`: what a run leaves."""

from __future__ import annotations

import csv
from pathlib import Path

import patches
import pytest
import torch
from click.testing import Result
from learning import TINY, TRAINING, VALIDATION, tiny
from slidescan_train.loop import training
from slidescan_train.loop.history import Epoch, Step, best, read
from slidescan_train.loop.learner import predict, tumour
from slidescan_train.recipe.config import load_config
from training_runs import failed, slidescan_train

from slidescan.models import familiarity
from slidescan.models.model import load
from slidescan.patches.labelled.splits import ids_sha256

pytestmark = pytest.mark.usefixtures("undrawn")

CHOSEN = ", chosen by its AUC on them"
FILES = {
    *("best.json", "best.safetensors", "last.json", "last.safetensors", "checkpoint.safetensors"),
    *("config.yaml", "metrics.csv", "steps.csv", "split.csv"),
    *("training.png", "validation.png", "mistakes.png"),
}


def test_a_run_leaves_models_tables_pictures_and_settings(finished: tuple[Path, Result]) -> None:
    out, result = finished
    assert result.exit_code == 0, result.output
    names = {p.name for p in out.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents")}
    assert names - events == FILES
    assert len(events) == 1
    assert load_config(out / "config.yaml") == tiny(epochs=2)
    assert [epoch.number for epoch in read(out / "metrics.csv", Epoch)] == [1, 2]
    per_epoch = len(TRAINING) // 16
    steps = read(out / "steps.csv", Step)
    assert [step.number for step in steps] == list(range(1, 2 * per_epoch + 1))
    for name in ("training.png", "validation.png", "mistakes.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_a_run_says_each_epoch_and_the_end(finished: tuple[Path, Result]) -> None:
    out, result = finished
    sizes, *epochs, end = result.stdout.splitlines()
    assert sizes == (
        f"{len(TRAINING)} training and {len(VALIDATION)} validation patches; "
        f"{len(TRAINING) // 16} steps of 16 patches per epoch"
    )
    assert [line.split(":")[0] for line in epochs] == ["epoch 1/2", "epoch 2/2"]
    assert end.startswith(f"{out}/best.safetensors: validation AUC ")
    assert result.stderr == ""  # no terminal, no bar; and Fabric does not report its precision


@pytest.mark.usefixtures("undrawn")
def test_a_processor_without_bf16_trains_in_float32_and_says_so(
    kaggle: Path, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slidescan.engines.openvino.engine.has_bf16", lambda: False)
    told = "this processor has no bf16 arithmetic: training in float32"
    for precision, says in ("bf16-mixed", True), ("32-true", False):
        changes = ("--set", f"precision={precision}", "--set", "epochs=1")
        out = tmp_path / precision
        result = slidescan_train(
            "--data", kaggle, "--config", settings_file, *changes, "--out", out
        )
        assert result.exit_code == 0, result.output
        assert (told in result.stdout.splitlines()) == says
    first, second = (
        load(str(tmp_path / each / "last.safetensors")) for each in ("bf16-mixed", "32-true")
    )
    assert first.sha256 == second.sha256


def test_the_split_is_written(finished: tuple[Path, Result]) -> None:
    with (finished[0] / "split.csv").open(newline="") as file:
        rows = {row["id"]: (row["split"], int(row["label"])) for row in csv.DictReader(file)}
    for side, part in (("training", TRAINING), ("validation", VALIDATION)):
        written = {i for i, (where, _) in rows.items() if where == side}
        assert written == set(part.ids)
        assert all(rows[i][1] == y for i, y in zip(part.ids, part.labels, strict=True))


@pytest.mark.parametrize("name", ["best", "last"])
def test_the_cards_say_data_split_and_scores(name: str, finished: tuple[Path, Result]) -> None:
    out, _ = finished
    card = load(str(out / f"{name}.safetensors")).card
    history = read(out / "metrics.csv", Epoch)
    epoch = best(history) if name == "best" else history[-1]

    assert (card.name, card.plan, card.mpp) == (name, TINY, 0.972)
    assert f"{len(TRAINING)} training patches, {TRAINING.labels.sum()} of them" in card.data
    assert "SHA-256(id)" in card.split
    assert "not slide-disjoint" in card.split
    assert ("chosen by its AUC" in card.split) == (name == "best")
    assert f"(epoch {epoch.number} of 2)" in card.reproduce
    assert card.validation.patches == len(VALIDATION)
    assert card.validation.auc == pytest.approx(epoch.validation_auc, abs=5.1e-5)
    assert card.validation.accuracy == pytest.approx(epoch.validation_accuracy, abs=5.1e-5)
    assert card.validation.nll == pytest.approx(epoch.validation_loss, abs=5.1e-5)
    assert card.validation.auc_low is not None
    assert card.validation.auc_high is not None
    assert card.validation.auc_low <= card.validation.auc <= card.validation.auc_high
    assert card.held_out_sha256 == ids_sha256(VALIDATION.ids)
    assert card.trained_on_sha256 == ids_sha256(TRAINING.ids)
    assert (card.teachers, card.start) == ((), None)
    assert card.reference == familiarity.summarise(familiarity.measure(TRAINING.pixels()))
    assert card.reference
    assert card.chosen_by == ("split" if name == "best" else None)
    assert card.training_sets is not None
    assert card.validation_sets is not None
    (trained,), (scored,) = card.training_sets, card.validation_sets
    assert (trained.name, trained.patches) == ("pcam", len(TRAINING))
    assert trained.tumour == TRAINING.labels.sum()
    assert (scored.name, scored.rule) == ("split", card.split.removesuffix(CHOSEN))
    assert (scored.scores, scored.ids_sha256) == (card.validation, card.held_out_sha256)
    assert set(card.versions) == {"slidescan", "torch", "albumentations", "numpy"}


@pytest.mark.parametrize("name", ["best", "last"])
def test_the_card_scores_the_weights_beside_it(name: str, finished: tuple[Path, Result]) -> None:
    model = load(str(finished[0] / f"{name}.json"))
    logits = predict(model.network, VALIDATION, torch.device("cpu"))
    auc = training.auc(VALIDATION.labels, tumour(logits).numpy())
    assert auc == pytest.approx(model.card.validation.auc, abs=1e-4)


def test_settings_are_changed_on_the_command_line(
    kaggle: Path, settings_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--data", kaggle, "--config", settings_file, "--out", out)
    result = slidescan_train(*options, "--set", "epochs=1", "--set", "augment.d4.p=0.5")
    assert result.exit_code == 0, result.output
    kept = load_config(out / "config.yaml")
    assert (kept.epochs, kept.augment.d4.p) == (1, 0.5)


def test_a_run_without_a_name_is_named_by_settings_and_time(
    kaggle: Path, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--data", kaggle, "--config", settings_file, "--set", "epochs=1")
    assert slidescan_train(*options).exit_code == 0
    (out,) = (tmp_path / "runs").glob("[!.]*")
    assert out.name.startswith("tiny-2")
    assert (out / "best.safetensors").exists()


def test_a_run_on_listed_patches_alone(kaggle: Path, settings_file: Path, tmp_path: Path) -> None:
    listed, out = tmp_path / "ids.txt", tmp_path / "out"
    listed.write_text("\n".join((*TRAINING.ids[:40], *VALIDATION.ids)))
    options = ("--data", kaggle, "--ids", listed, "--config", settings_file, "--set", "epochs=1")
    result = slidescan_train(*options, "--out", out)

    assert result.exit_code == 0, result.output
    card = load(str(out / "last.safetensors")).card
    assert "40 training patches" in card.data
    assert card.validation.patches == len(VALIDATION)
    listed.write_text("nobody")
    failed(
        slidescan_train(*options, "--out", tmp_path / "other"),
        f"{listed}: line 1, 'nobody', matches 0",
    )


def test_bad_patches_stop_a_run_or_are_left_out_and_listed(
    settings_file: Path, tmp_path: Path
) -> None:
    data = patches.write(tmp_path / "pcam", patches.make(120))
    broken = data / "train" / f"{TRAINING.ids[0]}.tif"
    broken.write_text("<html>")
    out = tmp_path / "out"
    options = ("--data", data, "--config", settings_file, "--set", "epochs=1", "--out", out)
    failed(slidescan_train(*options), "defects.csv", "--skip-bad")
    assert TRAINING.ids[0] in (out / "defects.csv").read_text()

    assert slidescan_train(*options, "--skip-bad").exit_code == 0
    assert TRAINING.ids[0] in (out / "defects.csv").read_text()
    card = load(str(out / "last.safetensors")).card
    assert f"{len(TRAINING) - 1} training patches" in card.data


def test_a_batch_larger_than_the_data_is_told_before_training(
    kaggle: Path, settings_file: Path, tmp_path: Path
) -> None:
    options = ("--data", kaggle, "--config", settings_file, "--set", "batch=15000")
    result = slidescan_train(*options, "--out", tmp_path / "out")
    count = len(TRAINING)
    assert f"; 1 step of {count} patches per epoch" in result.stdout.splitlines()[0]
    assert result.stderr == (
        f"Warning: batch 15,000 is larger than the {count} training patches, so 2 epochs are 2 "
        "steps; for more steps: --set batch=64\n"
    )
