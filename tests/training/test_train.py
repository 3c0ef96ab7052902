"""`slidescan train` and `lr-find`: what a run leaves, and that nothing stops it for good."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import networks
import numpy as np
import patches
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from learning import TINY, TRAINING, TURNS, VALIDATION, furthest, tiny, weights
from processes import Strike, slidescan
from slidescan_train.loop import training
from slidescan_train.loop.history import Epoch, Step, best, read
from slidescan_train.loop.learner import predict, tumour
from slidescan_train.recipe.config import TrainConfig, load_config
from slidescan_train.runs import checkpoint
from slidescan_train.runs import run as runs
from slidescan_train.teachers.widening import widened

from slidescan.cli import main
from slidescan.errors import ConfigError, DataError
from slidescan.models import familiarity
from slidescan.models.card import Ancestor
from slidescan.models.model import load
from slidescan.networks.plan import Plan
from slidescan.patches.labelled import load_data
from slidescan.patches.labelled.splits import ids_sha256

pytestmark = pytest.mark.usefixtures("undrawn")

CHOSEN = ", chosen by its AUC on them"
FILES = {
    *("best.json", "best.safetensors", "last.json", "last.safetensors", "checkpoint.safetensors"),
    *("config.yaml", "metrics.csv", "steps.csv", "split.csv"),
    *("training.png", "validation.png", "mistakes.png"),
}


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data set on disk, its cache beside it."""
    folder = patches.write(tmp_path_factory.mktemp("data") / "pcam", patches.make(120))
    load_data(folder, validation=tiny().validation)
    return folder


def write_settings(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(tiny(**changes).model_dump(mode="json")))
    return path


@pytest.fixture(scope="module")
def settings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_settings(tmp_path_factory.mktemp("settings") / "tiny.yaml", epochs=2)


def command(name: str, *args: object) -> Result:
    return CliRunner().invoke(main, [name, *map(str, args)])


def slidescan_train(*args: object) -> Result:
    return command("train", "--threads", 1, *args)


def failed(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)  # no traceback
    one_line(result.stderr, *parts)


def one_line(stderr: str, *parts: str) -> None:
    *_, last = lines = stderr.rstrip("\n").split("\n")
    assert last.startswith("Error: "), stderr
    assert "Traceback" not in stderr
    assert len(lines) == 1, stderr
    for part in parts:
        assert part in last


@pytest.fixture(scope="module")
def finished(
    kaggle: Path, settings_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result]:
    """The folder of a finished run, with its pictures, and what the command said."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, slidescan_train("--data", kaggle, "--config", settings_file, "--out", out)


# --- what a run leaves ----------------------------------------------------------------------


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


def test_a_student_is_distilled_and_its_card_names_the_teacher(
    kaggle: Path, settings_file: Path, finished: tuple[Path, Result], tmp_path: Path
) -> None:
    teacher, out = finished[0] / "last.safetensors", tmp_path / "out"
    options = ("--data", kaggle, "--config", settings_file, "--out", out)
    assert slidescan_train(*options, "--teacher", teacher).exit_code == 0
    model = load(str(teacher))
    named, card = model.card, load(str(out / "last.safetensors")).card
    assert card.teachers == (model.ancestor,)
    (told,) = card.teachers
    assert isinstance(told, Ancestor)
    assert told.held_out_sha256 == card.held_out_sha256
    assert told.reproduce == named.reproduce
    failed(
        slidescan_train(*options, "--resume"),
        "begun with other settings: teachers: ",
        f'["{named.weights_sha256}"] there, [] here',
    )


def with_card(model: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a model whose card says something else."""
    folder.mkdir()
    card = json.loads(model.with_suffix(".json").read_text()) | changes
    (folder / "last.json").write_text(json.dumps(card))
    return Path(shutil.copy(model, folder / "last.safetensors"))


@pytest.mark.parametrize("option", ["--teacher", "--init"])
def test_a_run_warns_where_what_it_builds_on_may_know_its_validation_patches(
    option: str,
    kaggle: Path,
    settings_file: Path,
    finished: tuple[Path, Result],
    tmp_path: Path,
) -> None:
    model = finished[0] / "last.safetensors"
    ancestor = load(str(model)).ancestor.model_dump()
    others = {"held_out_sha256": "0" * 64, "validation_sets": None}
    other_split = others | {"split": "validation: 2 of 9 slides, whole"}
    changes = {
        "same": {},
        "more": others,  # by the same rule, so these patches as well
        "other": other_split,
        "old": {"held_out_sha256": None},
        "grandparent": {"teachers": [ancestor, ancestor | other_split]},
        "named": {"teachers": ["someone, SHA-256 0123"]},
        "public": {"start": {"published": "package 1.0", "sha256": "0" * 64}},
    }
    warned = {}
    for name, change in changes.items():
        source = with_card(model, tmp_path / name, **change)
        options = ("--data", kaggle, "--config", settings_file, "--set", "epochs=1")
        result = slidescan_train(*options, "--out", tmp_path / f"to-{name}", option, source)
        assert result.exit_code == 0, result.output
        warned[name] = result.stderr
    assert warned["same"] == warned["more"] == warned["public"] == ""
    other, unknown = "was trained with other patches held out than this run's", "does not say which"
    for name, text in (
        ("other", f"Warning: {option} last {other}"),
        ("old", f"Warning: {option} last {unknown}"),
        ("grandparent", f"Warning: {option} last, its teacher last {other}"),
        ("named", f"Warning: {option} last, its teacher someone, SHA-256 0123 {unknown}"),
    ):
        assert warned[name].startswith(text)
        assert warned[name].count("\n") == 1


def test_a_run_starts_from_weights_of_its_own_plan(
    kaggle: Path, settings_file: Path, finished: tuple[Path, Result], tmp_path: Path
) -> None:
    start, out = finished[0] / "last.safetensors", tmp_path / "out"
    options = ("--data", kaggle, "--config", settings_file, "--init", start)
    still = ("--set", "epochs=1", "--set", "learning_rate=1e-12", "--set", "ema=0.999")
    assert slidescan_train(*options, *still, "--out", out).exit_code == 0
    begun, after = (load(str(p)) for p in (start, out / "last.safetensors"))
    for name, value in begun.network.named_parameters():
        torch.testing.assert_close(after.network.get_parameter(name), value)
    assert (after.card.start, after.card.teachers) == (begun.ancestor, ())
    failed(
        slidescan_train(*options, "--set", "plan.cells.0.filters=1", "--out", tmp_path / "other"),
        "has another plan: cells.0.filters: 2 there, 1 here",
        "more filters",
    )


def test_a_run_starts_from_a_narrower_network(
    kaggle: Path, settings_file: Path, finished: tuple[Path, Result], tmp_path: Path
) -> None:
    start, out = finished[0] / "last.safetensors", tmp_path / "out"
    options = ("--data", kaggle, "--config", settings_file, "--init", start, "--out", out)
    still = ("epochs=1", "learning_rate=1e-12", "ema=0.999", "plan.cells.0.filters=5")
    assert slidescan_train(*options, *(f"--set={each}" for each in still)).exit_code == 0
    begun, after = (load(str(p)) for p in (start, out / "last.safetensors"))
    expected = widened(begun.network, after.card.plan, tiny().seed)
    assert expected.plan != begun.network.plan
    for name, value in expected.named_parameters():
        torch.testing.assert_close(after.network.get_parameter(name), value)
    assert after.card.start == begun.ancestor


# --- what is refused ------------------------------------------------------------------------


def test_another_run_is_not_overwritten(finished: tuple[Path, Result], kaggle: Path) -> None:
    out, _ = finished
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    failed(slidescan_train("--data", kaggle, "--out", out), "another run", "--resume")
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_bad_data_leaves_no_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    failed(slidescan_train("--data", tmp_path / "none", "--out", out), "none: no such folder")
    assert not out.exists()


def test_bad_settings_and_bad_output_are_one_line(kaggle: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("epoch: 3")
    data = ("--data", kaggle)
    failed(slidescan_train(*data, "--config", config), "unknown key epoch (did you mean epochs?)")
    failed(
        slidescan_train(*data, "--config", tmp_path / "none.yaml"),
        "none.yaml: no such configuration",
    )
    failed(slidescan_train(*data, "--set", "epochs=0"), "--set: epochs = 0")
    failed(slidescan_train(*data, "--out", config), "c.yaml: is a file", "with --out")
    failed(slidescan_train(*data, "--out", tmp_path / "a" / "b" / "c"), f"{tmp_path}/a/b")
    failed(slidescan_train(*data, "--resume"), "--resume needs the folder", "--out")
    failed(slidescan_train(*data, "--teacher", "nobody"), "nobody: no model of this name")
    if not torch.cuda.is_available():
        failed(slidescan_train(*data, "--device", "cuda"), "finds 0 CUDA devices for 1 processes")
    failed(slidescan_train(*data, "--init", tmp_path / "x.json"), "x.json: no model card")


def test_a_missing_data_option_is_a_usage_error() -> None:
    assert slidescan_train().exit_code == 2


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (networks.plan("4/2 3 4/2", "R R R"), "needs a margin of"),
        (networks.plan("3 3/2", "R"), "an odd number"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_before_the_data_is_read(
    plan: Plan, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "load_data", lambda *_, **__: pytest.fail("the data was read"))
    with pytest.raises(ConfigError, match=message):
        runs.run(tiny(plan=plan), runs.Request(tmp_path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_patches_whose_labels_do_not_hold_want_a_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "load_data", lambda *_, **__: pytest.fail("the data was read"))
    moved = {"one_of": {"translation": {"p": 0.5, "px": 32}}}
    config = tiny(augment=TURNS | moved, distil={"weight": 1.0})
    with pytest.raises(
        ConfigError, match=r"px=32: without a teacher .* at most 4; .* add --teacher"
    ):
        runs.run(config, runs.Request(tmp_path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


HEAVY = ("torch", "albumentations", "lightning_fabric", "matplotlib", "tensorboard", "h5py")


def test_what_is_mistyped_is_refused_before_anything_slow_is_imported(
    kaggle: Path, finished: tuple[Path, Result], tmp_path: Path
) -> None:
    """Each in a process of its own would take a second, so one has them all, one after another."""
    (tmp_path / "file").touch()
    data = ("--data", kaggle)
    mistyped = {
        "no such folder": ("--data", tmp_path / "none"),
        "no patches in a known layout": ("--data", tmp_path),
        "--ids": (*data, "--ids", tmp_path / "none"),
        "--groups": (*data, "--groups", tmp_path / "none"),
        "did you mean quick?": (*data, "--config", "quik"),
        "unknown key epoch": (*data, "--set", "epoch=3"),
        "no model of this name": (*data, "--teacher", "nobody"),
        "may run code": (*data, "--teacher", "model.pt2"),
        "correct --init": (*data, "--init", "weights.pth"),
        "no such file": (*data, "--teacher", "none.onnx"),
        "another run": (*data, "--out", finished[0]),
        "is a file": (*data, "--out", tmp_path / "file"),
    }
    code = f"""
import json, sys
from click.testing import CliRunner
from slidescan.cli import main
told = [CliRunner().invoke(main, arguments).output for arguments in json.loads(sys.argv[1])]
print(json.dumps([told, sorted({HEAVY!r} & sys.modules.keys())]))
""".replace(repr(HEAVY), repr(set(HEAVY)))
    calls = json.dumps([["train", *map(str, arguments)] for arguments in mistyped.values()])
    done = subprocess.run([sys.executable, "-c", code, calls], capture_output=True, text=True)
    told, imported = json.loads(done.stdout)
    for part, line in zip(mistyped, told, strict=True):
        assert line.startswith("Error: ")
        assert line.count("\n") == 1
        assert part in line
    assert imported == []


def test_options_of_other_names_are_a_usage_error(kaggle: Path) -> None:
    result = slidescan_train("--data", kaggle, "--epochs", 3)
    assert result.exit_code == 2
    assert "--epochs" in result.stderr


@pytest.mark.parametrize("library", ["albumentations", "lightning_fabric", "matplotlib.axes"])
def test_a_missing_training_library_names_the_remedy(
    library: str, kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "slidescan_train"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    failed(
        slidescan_train("--data", kaggle, "--out", tmp_path / "out"),
        f"training needs {library}",
        "-m pip install albumentations==2.0.8 ",
    )


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(
    kaggle: Path,
    settings_file: Path,
    finished: tuple[Path, Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    per_epoch = len(TRAINING) // 16
    plain = training.rate

    def rate(done: float, config: TrainConfig) -> float:
        return plain(done, config) if done * 2 * per_epoch < per_epoch + 2 else 1e30

    monkeypatch.setattr(training, "rate", rate)
    out = tmp_path / "out"
    options = ("--data", kaggle, "--config", settings_file, "--out", out)
    result = slidescan_train(*options)
    failed(result, "epoch 2, step ", "at a learning rate of 1e+30", "the last checkpoint stays")
    assert len(checkpoint.load(out / "checkpoint.safetensors")[1]["progress"]["history"]) == 1

    monkeypatch.setattr(training, "rate", plain)
    assert slidescan_train(*options, "--resume").exit_code == 0
    written = [(p / "last.safetensors").read_bytes() for p in (out, finished[0])]
    assert written[0] == written[1]


def test_ctrl_c_says_how_to_go_on(
    kaggle: Path, settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "close_epoch", interrupted)
    out = tmp_path / "out"
    result = slidescan_train("--data", kaggle, "--config", settings_file, "--out", out)
    failed(result, f"interrupted; the same command with --resume --out {out} resumes from")


# --- resuming -------------------------------------------------------------------------------


def everything(out: Path) -> dict[str, torch.Tensor]:
    """Weights, average, statistics and the optimiser's moments of the last checkpoint."""
    return checkpoint.load(out / "checkpoint.safetensors")[0]


def scores(out: Path) -> list[tuple[float, ...]]:
    """Of each epoch, all that does not depend on the clock."""
    return [
        (e.training_loss, e.training_auc, e.validation_loss, e.validation_auc)
        for e in read(out / "metrics.csv", Epoch)
    ]


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
    failed(slidescan_train(*options, "--config", "configs/seed.yaml"), "config.optimiser: ")
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


# --- several processes ----------------------------------------------------------------------


def torchrun(*arguments: object, log: Path) -> int:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    with log.open("wb") as file:
        return subprocess.run(
            [sys.executable, *launch, "slidescan", *map(str, arguments)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=file,
        ).returncode


@pytest.mark.skipif(sys.platform != "linux", reason="gloo")
@pytest.mark.parametrize(
    "launch",
    [
        pytest.param(partial(slidescan, world=2), id="forked"),
        pytest.param(torchrun, id="torchrun", marks=pytest.mark.slow),
    ],
)
def test_two_processes_end_as_one_with_the_same_batch(
    launch: Callable[..., int], kaggle: Path, tmp_path: Path
) -> None:
    config, log = tmp_path / "c.yaml", tmp_path / "log"
    write_settings(config, epochs=2, micro_batch=4, mixup=0.2, optimiser="sgd")
    options = ("train", "--data", kaggle, "--config", config, "--threads", 1, "--out")
    assert slidescan(*options, tmp_path / "one", log=log) == 0, log.read_text()
    assert launch(*options, tmp_path / "two", log=log) == 0, log.read_text()
    said = log.read_text()
    for once in ("epoch 2/2", "best.safetensors: "):
        assert said.count(once) == 1
    assert "deprecated" not in said

    one, two = (load(str(tmp_path / n / "last.json")).network for n in ("one", "two"))
    counts = [int(b) for n in (one, two) for k, b in n.named_buffers() if "num_batches" in k]
    assert set(counts) == {2 * (len(TRAINING) // 16)}  # one a step
    assert furthest(weights(one), weights(two)) < 1e-5
    begun = networks.network(TINY).float()
    assert furthest(weights(one), weights(begun)) > 1e-2
    for mine, theirs in zip(scores(tmp_path / "one"), scores(tmp_path / "two"), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


# --- lr-find --------------------------------------------------------------------------------


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


# --- fingerprints -----------------------------------------------------------------------------


def test_ids_have_one_digest_in_any_order() -> None:
    assert ids_sha256(["b", "a"]) == hashlib.sha256(b"a\nb\n").hexdigest()
    assert ids_sha256(["ab"]) != ids_sha256(["a", "b"])
