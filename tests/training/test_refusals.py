"""`slidescan train`: what is refused, in one line, and that a failed run keeps its checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import networks
import pytest
import torch
from click.testing import Result
from learning import TRAINING, TURNS, tiny
from slidescan_train.loop import training
from slidescan_train.recipe.config import TrainConfig
from slidescan_train.runs import checkpoint
from slidescan_train.runs import run as runs
from training_runs import failed, slidescan_train

from slidescan.errors import ConfigError
from slidescan.networks.plan import Plan

pytestmark = pytest.mark.usefixtures("undrawn")


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
    failed(slidescan_train(*data, "--init", tmp_path / "x.json"), "x.json: no such file")


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
