"""`slidescan train --resume`: a run that was stopped ends as if nothing had happened."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import patches
import pytest
import torch
from click.testing import CliRunner, Result
from processes import Strike, slidescan
from slidescan_train.loop import training
from slidescan_train.loop.history import Step, read
from slidescan_train.recipe.config import TrainConfig
from slidescan_train.runs import checkpoint
from training_runs import failed, one_line, scores, slidescan_train, write_settings

from slidescan.cli import main
from slidescan.models.model import load

pytestmark = pytest.mark.usefixtures("undrawn")


def everything(out: Path) -> dict[str, torch.Tensor]:
    """Weights, average, statistics and the optimiser's moments of the last checkpoint."""
    return checkpoint.load(out / "checkpoint.safetensors")[0]


def same_run(one: Path, other: Path) -> None:
    mine, theirs = everything(one), everything(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name
    assert scores(one) == scores(other)
    assert read(one / "steps.csv", Step) == read(other / "steps.csv", Step)
    for name in "best", "last":
        written = [(out / f"{name}.safetensors").read_bytes() for out in (one, other)]
        assert written[0] == written[1]


@pytest.fixture(scope="module")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings with all that a checkpoint has to remember, and one kept after every step."""
    drawn = TrainConfig().augment.model_dump()
    return write_settings(
        tmp_path_factory.mktemp("eventful") / "eventful.yaml",
        **{"epochs": 2, "augment": drawn, "mixup": 0.2, "dropout": 0.2, "micro_batch": 8},
        **{"batch": 32, "checkpoint_minutes": 1e-9, "precision": "bf16-mixed"},
    )


@pytest.fixture(scope="module")
def uninterrupted(kaggle: Path, eventful: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    assert slidescan(*run_options(kaggle, eventful, out), log=out.with_name("log")) == 0
    return out


def run_options(data: Path, config: Path, out: Path) -> tuple[object, ...]:
    return ("train", "--data", data, "--config", config, "--out", out, "--threads", 1, "--resume")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(
    "strike",
    [
        Strike("slidescan_train.loop.learner:Learner.step", 2),  # within the first epoch
        Strike("slidescan_train.loop.learner:Learner.step", 5),  # and the second
        Strike("slidescan_train.runs.checkpoint:replacing", 3),  # about to write one
        Strike(
            "slidescan_train.runs.run_folder:RunFolder.on_epoch", 2, after=True
        ),  # models newer than it
        Strike("slidescan_train.runs.run_folder:write_split"),  # before there is any
    ],
    ids=lambda strike: f"{strike.target.rpartition('.')[2]}-{strike.call}",
)
def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_been(
    strike: Strike, kaggle: Path, eventful: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    options = run_options(kaggle, eventful, out)
    assert slidescan(*options, log=log, strike=strike) == -9, log.read_text()
    assert slidescan(*options, log=log) == 0, log.read_text()
    same_run(out, uninterrupted)
    leftovers = [p.name for p in out.iterdir() if p.name.startswith(".")]
    assert leftovers == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_full_disk_keeps_the_checkpoint_and_the_run_goes_on(
    kaggle: Path, eventful: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    options = run_options(kaggle, eventful, out)
    strike = Strike("slidescan_train.loop.learner:Learner.step", 5)
    assert slidescan(*options, log=log, strike=strike) == -9
    before = (out / "checkpoint.safetensors").read_bytes()
    # Smaller than a checkpoint, larger than tables and settings.
    assert slidescan(*options, log=log, most_bytes=len(before) - 1) == 1
    one_line(log.read_text(), "disk full", "run the same command again")
    assert (out / "checkpoint.safetensors").read_bytes() == before
    assert slidescan(*options, log=log) == 0, log.read_text()
    same_run(out, uninterrupted)


def test_a_resumed_run_keeps_the_command_that_began_it(
    kaggle: Path, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    began = ["train", "--data", str(kaggle), "--config", str(settings_file), "--out", str(out)]
    began += ["--set", "checkpoint_minutes=1e-9", "--threads", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(training, "close_epoch", interrupted)
        patch.setattr(sys, "argv", ["slidescan", *began])
        assert CliRunner().invoke(main, began).exit_code == 1
    resumed = ["train", "--data", str(kaggle), "--out", str(out), "--resume"]
    monkeypatch.setattr(sys, "argv", ["slidescan", *resumed])
    assert CliRunner().invoke(main, resumed).exit_code == 0
    for name in "best", "last":
        reproduce = load(str(out / f"{name}.safetensors")).card.reproduce
        assert reproduce.startswith(shlex.join(["slidescan", *began]) + " (epoch ")


def test_a_finished_run_is_not_trained_again(
    finished: tuple[Path, Result], kaggle: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.suffix != ".csv"}
    result = slidescan_train("--data", kaggle, "--out", out, "--resume")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{out}/best.safetensors: validation AUC ")
    after = {p.name: p.read_bytes() for p in out.iterdir()}
    assert {name: after[name] for name in before} == before


def test_a_run_goes_on_with_its_own_settings_or_lists_what_differs(
    finished: tuple[Path, Result], kaggle: Path, settings_file: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")
    options = ("--data", kaggle, "--out", out, "--resume")
    kept = (out / "checkpoint.safetensors").read_bytes()
    differs = ("--set", "epochs=3", "--set", "plan.cells.0.filters=3", "--set", "workers=1")
    failed(
        slidescan_train(*options, "--config", settings_file, *differs),
        "begun with other settings: config.epochs: 2 there, 3 here; "
        "config.plan.cells.0.filters: 2 there, 3 here; use those",
        f"for more epochs, start a new run with --init {out}/last.safetensors",
    )
    other = slidescan_train(*options, "--config", "configs/seed.yaml")
    failed(other, "config.optimiser: ", "; and ", " more; use those")
    # What changes nothing of what comes out may differ.
    assert slidescan_train(*options, "--set", "checkpoint_minutes=3").exit_code == 0
    assert (out / "checkpoint.safetensors").read_bytes() == kept


def test_a_run_does_not_go_on_with_other_patches(
    finished: tuple[Path, Result], kaggle: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")
    other = patches.write(tmp_path / "other", patches.make(120, seed=1))
    failed(slidescan_train("--data", other, "--out", out, "--resume"), "other settings: data: ")


@pytest.mark.parametrize("damage", ["cut", "text", "foreign"])
def test_a_damaged_checkpoint_is_one_line(
    damage: str, finished: tuple[Path, Result], kaggle: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")
    path = out / "checkpoint.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("not weights")
    else:
        shutil.copy(out / "last.safetensors", path)
    result = slidescan_train("--data", kaggle, "--out", out, "--resume")
    failed(result, "checkpoint.safetensors: not a checkpoint", "another --out")


def test_only_one_process_writes_a_run(kaggle: Path, settings_file: Path, tmp_path: Path) -> None:
    from slidescan.tools.atomic_files import lock, release

    held = lock(tmp_path / "out")
    try:
        result = slidescan_train(
            "--data", kaggle, "--config", settings_file, "--out", tmp_path / "out"
        )
    finally:
        release(held)
    failed(result, "another slidescan is writing it")
