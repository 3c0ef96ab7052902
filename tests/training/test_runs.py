"""Runs compared, and what TensorBoard reads of one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image
from slidescan_train.loop import history
from slidescan_train.loop.history import Epoch, Step
from slidescan_train.recipe.augment_config import OneOf
from slidescan_train.recipe.config import load_config
from slidescan_train.runs.comparison import compare
from slidescan_train.runs.events import Events
from slidescan_train.runs.pictures import runs_figure, training_figure
from slidescan_train.runs.provenance import ValidationSet
from slidescan_train.runs.table import table, tables
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from slidescan.cli import main
from slidescan.errors import DataError, WriteError
from slidescan.patches.labelled.splits import ids_sha256
from slidescan.tools.settings_diff import flat

NAN = float("nan")


def epoch(number: int, auc: float = 0.9, loss: float = 0.4, seconds: float = 1800) -> Epoch:
    return Epoch(number, 1e-3, 0.5, 0.8, 0.85, loss, 0.85, auc, 100.0 * number, 0.1, seconds)


def write_run(folder: Path, *changes: str, aucs: tuple[float, ...] = (), loss: float = 0.4) -> Path:
    folder.mkdir(parents=True)
    config = load_config(None, changes).model_dump(mode="json")
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    rows = [epoch(n + 1, auc, loss) for n, auc in enumerate(aucs)]
    history.write(folder / "metrics.csv", rows, Epoch)
    return folder


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["runs", *map(str, arguments)])


# Comparison


def test_a_summary_has_the_best_and_the_last_epoch(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "epochs=5", aucs=(0.8, 0.95, 0.9))
    (run,) = compare(tmp_path)
    assert (run.name, run.epochs, run.of, run.finished) == ("a", 3, 5, False)
    assert (run.best_auc, run.best_epoch, run.last_auc) == (0.95, 2, 0.9)
    assert (run.last_loss, run.last_accuracy) == (0.4, 0.85)
    assert (run.images_per_second, run.hours) == (200, 1.5)
    assert run.differing == {}


def test_the_best_run_comes_first_and_those_without_auc_last(tmp_path: Path) -> None:
    for name, aucs in {"a": (0.8,), "b": (NAN,), "c": (0.9, NAN), "d": ()}.items():
        write_run(tmp_path / name, aucs=aucs)
    assert [run.name for run in compare(tmp_path)] == ["c", "a", "b", "d"]


def test_a_run_is_finished_when_its_epochs_or_its_patience_are_spent(tmp_path: Path) -> None:
    write_run(tmp_path / "all", "epochs=2", aucs=(0.8, 0.9))
    write_run(tmp_path / "patience", "epochs=9", "patience=2", aucs=(0.9, 0.8, 0.8))
    write_run(tmp_path / "hope", "epochs=9", "patience=2", aucs=(0.8, 0.9, 0.8))
    write_run(tmp_path / "new", "epochs=9", "patience=2")
    finished = {run.name: run.finished for run in compare(tmp_path)}
    assert finished == {"all": True, "patience": True, "hope": False, "new": False}


def test_only_settings_that_differ_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "seed=1", "augment.stain.p=0.25", aucs=(0.9,))
    write_run(tmp_path / "b", "plan.cells.0.filters=64", aucs=(0.8,))
    first, second = compare(tmp_path)
    assert first.differing == {
        "plan.cells.0.filters": "128",
        "augment.stain.p": "0.25",
        "seed": "1",
    }
    assert second.differing == {"plan.cells.0.filters": "64", "augment.stain.p": "0.5", "seed": "0"}
    settings = [f"{key}={value}" for key, value in second.differing.items()]
    again = load_config(None, settings)
    assert flat(again.model_dump(mode="json")) == flat(
        load_config(tmp_path / "b" / "config.yaml").model_dump(mode="json")
    )


def test_another_versions_settings_compare_as_well(tmp_path: Path) -> None:
    for name, more in (("a", "future: 1\n"), ("b", "")):
        write_run(tmp_path / name, aucs=(0.9,))
        with (tmp_path / name / "config.yaml").open("a") as file:
            file.write(more)
    assert [run.differing for run in compare(tmp_path)] == [{"future": "1"}, {"future": "absent"}]


def test_runs_are_found_three_folders_down_and_no_deeper(tmp_path: Path) -> None:
    for name in ("a", "b/c", "d/e/f", "g/h/i/j"):
        write_run(tmp_path / name)
    assert sorted(run.name for run in compare(tmp_path)) == ["a", "b/c", "d/e/f"]
    assert [run.name for run in compare(tmp_path / "a")] == ["a"]


def test_a_run_killed_in_its_first_epoch_is_listed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "metrics.csv").rename(folder / "steps.csv")
    assert [run.epochs for run in compare(tmp_path)] == [0]


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("config.yaml", "a: [1\n", "not YAML, line 2"),
        ("config.yaml", "\0", "not YAML"),
        ("config.yaml", "seed: 1\n", "no number of epochs"),
        ("config.yaml", "- epochs\n", "no number of epochs"),
        (
            "metrics.csv",
            "number,loss\n1,0.5\n",
            "has the columns ['number', 'loss'], needs number and learning_rate",
        ),
    ],
)
def test_a_damaged_run_is_named_and_stops_no_other(
    tmp_path: Path, file: str, content: str, complaint: str
) -> None:
    write_run(tmp_path / "good", aucs=(0.9,))
    (write_run(tmp_path / "bad", aucs=(0.9,)) / file).write_text(content)
    said: list[str] = []
    assert [run.name for run in compare(tmp_path, said.append)] == ["good"]
    assert len(said) == 1
    assert str(tmp_path / "bad" / file) in said[0]
    assert complaint in said[0]
    with pytest.warns(UserWarning, match="left out"):
        compare(tmp_path)
    result = call(tmp_path)
    assert result.exit_code == 0
    assert result.stderr.count("\n") == 1
    assert complaint in result.stderr


def test_the_table_lines_up(tmp_path: Path) -> None:
    write_run(tmp_path / "a-long-name", "seed=1", "momentum=0.5", aucs=(0.8,))
    write_run(tmp_path / "b", aucs=(0.9, 0.7))
    runs = compare(tmp_path)
    header, first, second = table(runs).split("\n")
    at = header.index("settings that differ")
    assert first[at:] == "momentum=0.9 seed=0"
    assert second[at:] == "momentum=0.5 seed=1"
    assert first.startswith("b ")
    assert "0.9000 (1)" in first


def test_long_settings_are_wrapped_under_themselves(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "seed=1", "momentum=0.5", "weight_decay=0.125", aucs=(0.8,))
    write_run(tmp_path / "b", aucs=(0.7,))
    lines = table(compare(tmp_path), width=10).split("\n")
    at = lines[0].index("settings that differ")
    assert [line[at:] for line in lines[1:4]] == ["momentum=0.5", "weight_decay=0.125", "seed=1"]
    assert not lines[2][:at].strip()
    assert lines[4].startswith("b ")


def give_card(folder: Path, validation: str = "a", **changes: object) -> Path:
    """A card of the last epoch, without weights."""
    card = {
        **{"name": "last", "field_px": 96, "stride_px": 8, "mpp": 0.972, "reproduce": "pytest"},
        **{"weights_sha256": "1" * 64, "split": "by slide", "versions": {}},
        "plan": load_config(None).plan.model_dump(mode="json"),
        "data": "folder per class, 80 training patches, 40 of them with tumour",
        "held_out_sha256": validation * 64,
        "validation": {"patches": 20, "auc": 0.9, "accuracy": 0.8, "nll": 0.5},
    }
    (folder / "last.json").write_text(json.dumps(card | changes))
    return folder


def test_teacher_start_and_data_come_first(tmp_path: Path) -> None:
    ancestor = {"name": "last", "sha256": "2" * 64}
    give_card(write_run(tmp_path / "t", aucs=(0.9,)), weights_sha256="2" * 64)
    give_card(
        write_run(tmp_path / "s", aucs=(0.8,)),
        teachers=[ancestor, {"name": "other", "sha256": "3" * 64}],
        start={"published": "package 1.0", "sha256": "0" * 64},
    )
    lines = tables(compare(tmp_path)).split("\n")
    assert lines[0] == "validation  20 patches (aaaaaaaa) of folder per class"
    assert lines[1].split()[:5] == ["run", "teacher", "start", "trained", "on"]
    assert lines[2].split()[:4] == ["t", "-", "-", "80"]
    assert lines[3].split()[:4] == ["s", "t/last", "+", "other"]  # of a run that is listed too


def test_runs_with_other_validation_patches_are_not_ranked_together(tmp_path: Path) -> None:
    for name, auc, held_out in (("a", 0.9, "a"), ("b", 0.8, "b"), ("c", 0.7, "a")):
        give_card(write_run(tmp_path / name, aucs=(auc,)), held_out)
    lines = tables(compare(tmp_path)).split("\n")
    assert lines[0].startswith("2 validation sets: compare AUC, loss and accuracy within one only")
    assert [line.split()[0] for line in lines if line] == [
        *("2", "validation", "run", "a", "c"),
        *("validation", "run", "b"),
    ]
    assert "on 2 validation sets" in runs_figure({"a": [], "b": []}, 2).get_suptitle()


def test_a_run_without_a_model_is_known_by_its_split(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "split.csv").write_text("id,label,split\nx,0,training\ny,1,validation\n")
    (run,) = compare(tmp_path)
    assert run.origin.validation == ValidationSet(ids_sha256(["y"]), 1)
    assert run.origin.training == 1


def test_plans_are_one_word_and_many_settings_are_counted(tmp_path: Path) -> None:
    narrow = ["plan.cells.0.filters=64", "plan.stem.3.filters=96"]
    others = [f"augment.one_of.{name}.p=0.01" for name in list(OneOf.model_fields)[:9]]
    write_run(tmp_path / "a", *narrow, *others, aucs=(0.9,))
    write_run(tmp_path / "b", "plan.mean=[0.6,0.5,0.6]", aucs=(0.8,))
    write_run(tmp_path / "c", aucs=(0.7,))
    runs = compare(tmp_path)
    _, first, second, third = tables(runs).split("\n")
    assert "plan=nasnet-a-32-64-128-96-R64-N128 " in first
    assert first.endswith("and 4 more (--all)")
    assert "plan=nasnet-a-32-64-128-128-R128-N128 " in second
    assert "plan=nasnet-a-32-64-128-128-R128-N128#2 " in third  # another mean
    everything = tables(runs, all_settings=True)
    assert all(other.split("=")[0] in everything for other in others)
    assert "plan.cells.0.filters=64" in everything


# The command


def test_runs_prints_a_table_and_draws_a_picture(tmp_path: Path) -> None:
    write_run(tmp_path / "a", aucs=(0.8,))
    write_run(tmp_path / "b", "seed=7", aucs=(0.9,))
    write_run(tmp_path / "new", "seed=8")
    result = call(tmp_path)
    assert result.exit_code == 0
    header, *rows, told = result.stdout.splitlines()
    assert header.split()[:2] == ["run", "epochs"]
    assert [row.split()[0] for row in rows] == ["b", "a", "new"]
    assert rows[0].endswith("seed=7")
    assert rows[2].split()[1:8] == ["0/60", "-", "-", "-", "-", "-", "-"]
    assert told.startswith(str(tmp_path / "runs.png"))
    with Image.open(tmp_path / "runs.png") as image:
        assert image.format == "PNG"


def test_runs_sorts_as_told(tmp_path: Path) -> None:
    write_run(tmp_path / "a", aucs=(0.8,), loss=0.3)
    write_run(tmp_path / "b", aucs=(0.9,), loss=0.5)
    write_run(tmp_path / "c", aucs=(0.7,), loss=0.1)
    write_run(tmp_path / "d", aucs=())
    for sort, order in (("auc", "bacd"), ("loss", "cabd"), ("name", "abcd")):
        result = call(tmp_path, "--sort", sort, "--out", tmp_path / "p.png")
        assert "".join(row[0] for row in result.stdout.splitlines()[1:5]) == order
    assert (tmp_path / "p.png").exists()
    assert not (tmp_path / "runs.png").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere"], "no such folder"),
        (["empty"], "no run in it"),
        (["run", "--out", "a.pdf"], "ends in .png"),
        (["run", "--out", "nowhere/a.png"], "there is no folder"),
    ],
)
def test_runs_says_in_one_line_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "run", aucs=(0.8,))
    result = call(*arguments)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert complaint in result.stderr


def test_no_run_is_an_error_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run in it"):
        compare(tmp_path)


def test_a_single_step_is_seen() -> None:
    within, rate, *_ = training_figure([Step(1, 1, 1e-3, 0.69)], []).axes
    for panel in within, rate:
        (line,) = panel.get_lines()
        assert line.get_marker() in ("o", ".")


# TensorBoard


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(scalar.step, scalar.value) for scalar in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_reads_steps_and_epochs(tmp_path: Path) -> None:
    with Events(tmp_path / "events") as events:
        for n in range(1, 5):
            events.step(Step(n, 1, 0.5**n, 0.25 * n))
        events.epoch(epoch(1, auc=0.75), step=4)
    scalars = read(tmp_path / "events")
    assert scalars["loss/step"] == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]
    assert scalars["learning_rate/step"][-1] == (4, 0.0625)
    assert scalars["auc/validation"] == [(4, 0.75)]
    assert scalars["loss/training"] == [(4, 0.5)]
    assert scalars["epoch"] == [(4, 1)]
    for tag in ("accuracy/training", "accuracy/validation", "auc/training", "loss/validation"):
        assert len(scalars[tag]) == 1


def test_a_resumed_run_goes_on_and_what_was_lost_vanishes(tmp_path: Path) -> None:
    killed = Events(tmp_path)
    for n in range(1, 8):
        killed.step(Step(n, 1, 0.1, 0.5))
    killed._flush()
    with Events(tmp_path, purge_step=5) as resumed:
        resumed.step(Step(5, 1, 0.1, 0.25))
    killed.close()
    assert read(tmp_path)["loss/step"] == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.5), (5, 0.25)]


def test_a_record_cut_short_hides_nothing_that_follows(tmp_path: Path) -> None:
    with Events(tmp_path) as killed:
        for n in range(1, 4):
            killed.step(Step(n, 1, 0.1, 0.5))
    killed.path.write_bytes(killed.path.read_bytes()[:-5])
    with Events(tmp_path, purge_step=3) as resumed:
        resumed.step(Step(3, 1, 0.1, 0.25))
    assert read(tmp_path)["loss/step"] == [(1, 0.5), (2, 0.5), (3, 0.25)]


posix = pytest.mark.skipif(os.name != "posix", reason="RLIMIT_FSIZE")


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """As a full disk: the system refuses to write more than `size` bytes to a file."""
    import resource  # Windows has none

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@posix
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    events = Events(tmp_path)
    events.step(Step(1, 1, 0.1, 0.5))
    with no_file_beyond(50), pytest.raises(WriteError, match="disk full"):
        events.epoch(epoch(1), step=1)
    with no_file_beyond(50), pytest.raises(WriteError, match="disk full"):
        events.close()


@posix
def test_a_full_disk_does_not_hide_what_stopped_the_run(tmp_path: Path) -> None:
    def stopped() -> None:
        with Events(tmp_path) as events:
            events.step(Step(1, 1, 0.1, 0.5))
            raise KeyboardInterrupt

    with no_file_beyond(50), pytest.raises(KeyboardInterrupt):
        stopped()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot be written"):
        Events(tmp_path / "file" / "events")


def test_events_open_no_socket_and_import_quietly(tmp_path: Path) -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('a socket')\n"
        "socket.socket.connect = socket.socket.bind = socket.getaddrinfo = refuse\n"
        "from pathlib import Path\n"
        "from slidescan_train.runs.events import Events\n"
        "Events(Path(sys.argv[1])).close()\n"
        "assert not {'tensorflow', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, tmp_path], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert socket.gethostname() not in next(tmp_path.iterdir()).name
