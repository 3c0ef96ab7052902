"""The shipped models: what their cards claim of held-out patches, and `slidescan models`."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from slidescan_train.loop.validation import validate
from slidescan_train.teachers.lineage import HeldOut, doubt

from slidescan.cli import main
from slidescan.evaluation.calibration_fit import STEEPEST
from slidescan.models import card as cards
from slidescan.models.ancestors import Ancestor, Published, Stages
from slidescan.models.card import (
    Card,
    Speed,
    read_card,
    shipped,
    shipped_names,
)
from slidescan.models.model import load
from slidescan.patches.labelled import splits
from slidescan.patches.labelled.splits import ids_sha256, in_validation
from slidescan.statistics.metrics import Evaluation

CONFIGS = Path(__file__).parents[2] / "configs"
LISTS = ("pcam-9300.txt", "pcam-24300.txt")
"""The patches of the shipped models: those of Kaggle, then with official ones as well."""
COPIES = {"train-0009679"}
"""Looks the same as a held-out patch, so it is left out where that one is in a validation set."""
OTHER_SLIDES = "ed542779d02dfa1b81b669fd0c9e8dbfbad63563651f71b0baeaadd47107d0e9"
"""The ids of 2,907 patches of the official validation split."""
MOST_BYTES = 25e6
"""Of all shipped weights: what a wheel may weigh."""


def models(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["models", *map(str, arguments)])


def failed(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)  # no traceback
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    for part in parts:
        assert part in line


# --- what is shipped --------------------------------------------------------------------------


@cache
def sides(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Training and validation of the ids in a list."""
    ids = [i for i in (CONFIGS / name).read_text().split("\n") if i and not i.startswith("#")]
    held_out = [in_validation(i) for i in ids]
    training, validation = (
        tuple(i for i, out in zip(ids, held_out, strict=True) if out == side)
        for side in (False, True)
    )
    return training, validation


def chain(source: Card | Ancestor | Published | str | None) -> Iterator[Card | Ancestor]:
    """A model, and all that it was made from but public weights."""
    if source is None or isinstance(source, Published):
        return
    assert not isinstance(source, str), f"{source}: a card that tells no more of its teacher"
    yield source
    for teacher in source.teachers:
        yield from chain(teacher)
    yield from chain(source.start)


def test_the_listed_ids_have_two_sides() -> None:
    (training, validation), (more, more_held_out) = map(sides, LISTS)
    assert (len(training), len(validation)) == (8310, 990)
    assert (len(more), len(more_held_out)) == (21772, 2528)
    assert set(training) < set(more)
    assert set(validation) < set(more_held_out)
    assert not set(more) & set(more_held_out)


@pytest.mark.parametrize("name", shipped_names())
def test_no_model_and_no_teacher_was_trained_on_a_held_out_patch(name: str) -> None:
    random_split = {ids_sha256(validation) for _, validation in map(sides, LISTS)}
    trainings = [training for training, _ in map(sides, LISTS)]
    trainings += [tuple(i for i in each if i not in COPIES) for each in trainings]
    known = {ids_sha256(each) for each in trainings}
    for member in chain(read_card(name)):
        assert member.trained_on_sha256 in known, member.name
        held_out = {member.held_out_sha256}
        held_out |= {each.ids_sha256 for each in member.validation_sets or ()}
        assert held_out & random_split, member.name
        assert held_out <= random_split | {OTHER_SLIDES}, member.name


def test_the_patches_of_other_slides_are_the_official_ones(real_data: Path) -> None:
    with (real_data / "pcam_official/valid_labels.csv").open(newline="") as file:
        assert ids_sha256([row["id"] for row in csv.DictReader(file)]) == OTHER_SLIDES


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_model_loads_and_its_card_is_whole(name: str) -> None:
    model = load(name)
    card = model.card
    assert card.name == name
    assert card.parameters == sum(p.numel() for p in model.network.parameters())
    assert card.purpose
    assert " " not in card.purpose
    found = card.validation
    assert card.held_out_sha256 == OTHER_SLIDES
    assert found.patches == 2907
    (listed,) = (name for name in LISTS if f"configs/{name}" in card.reproduce)
    assert [each.patches for each in card.validation_sets or ()] == [2907, len(sides(listed)[1])]
    assert found.ece is not None
    assert found.auc_low is not None
    assert found.auc_high is not None
    assert 0.85 < found.auc_low < found.auc < found.auc_high < 1
    assert "chosen by its AUC" not in card.split  # the weights of the last epoch


def test_the_shipped_models_are_small() -> None:
    folder = shipped(cards.DEFAULT).parent
    assert sum(path.stat().st_size for path in folder.iterdir()) < MOST_BYTES
    names = {path.stem for path in folder.iterdir()}
    assert names == set(shipped_names())
    assert shipped_names()[0] == cards.DEFAULT


# --- what a teacher may know ------------------------------------------------------------------

PUBLIC = Published(published="package 1.0", sha256="0" * 64)


DATA = "PatchCamelyon, Kaggle edition"
RULE = f"{splits.RULE}0.1; training: the rest"


def ancestor(name: str, held_out: str | None = "ours", **more: object) -> Ancestor:
    return Ancestor.model_validate(
        {"name": name, "sha256": "1" * 64, "held_out_sha256": held_out, **more}
    )


def held_out(*ids: str) -> HeldOut:
    return HeldOut(ids, DATA, "ours")


def test_a_chain_is_doubted_at_its_first_unknown_link() -> None:
    ours = held_out("x")
    assert doubt("--teacher", None, ours) is None
    assert doubt("--init", PUBLIC, ours) is None
    clean = ancestor("a", teachers=[ancestor("b", start=PUBLIC)], start=ancestor("c"))
    assert doubt("--teacher", clean, ours) is None

    for source, begins in (
        (ancestor("a", "theirs"), "--teacher a was trained with other"),
        (ancestor("a", None), "--teacher a does not say"),
        (
            ancestor("a", teachers=[ancestor("c"), ancestor("b", "theirs")]),
            "--teacher a, its teacher b was trained",
        ),
        (ancestor("a", start=ancestor("c", None)), "--teacher a, its start c does not say"),
        (ancestor("a", teachers=["b, SHA-256 01"]), "--teacher a, its teacher b, SHA-256 01 does"),
    ):
        told = doubt("--teacher", source, ours)
        assert told is not None
        assert told.startswith(begins)
        assert "optimistic" in told


def test_a_part_of_what_an_ancestor_held_out_is_unseen_by_it() -> None:
    names = [str(number) for number in range(300)]
    held = [i for i in names if splits.in_validation(i, 0.1)]
    learned = next(i for i in names if not splits.in_validation(i, 0.1))
    teacher = ancestor("a", "theirs", data=f"{DATA}, 9 training patches", split=RULE)
    assert doubt("--teacher", teacher, held_out(*held[:3])) is None
    for ids, change in (
        ((*held, learned), {}),
        (held, {"split": RULE.replace("0.1", "0.01")}),
        (held, {"split": "validation: 2 of 9 slides, whole"}),
        (held, {"split": None}),
        (held, {"data": "folder per class, 9 training patches"}),  # other patches, the same names
        (held, {"start": ancestor("b", "theirs")}),
    ):
        assert doubt("--teacher", teacher.model_copy(update=change), held_out(*ids)), change


def test_a_part_of_the_official_validation_is_unseen_by_who_held_it_out() -> None:
    teacher = ancestor("a", "theirs", data=f"{DATA}, 9 patches", split=splits.OFFICIAL)
    assert doubt("--init", teacher, held_out("valid-0000001")) is None
    assert doubt("--init", teacher, held_out("valid-0000001", "train-0000001"))


# --- scores of a card -------------------------------------------------------------------------


def test_a_card_s_scores_are_those_of_the_evaluation() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    p = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1).astype(np.float32)
    found = validate(labels, p)
    values = Evaluation(labels, p.astype(np.float64)).values(np.ones(300, np.int64))

    assert (found.patches, found.auc) == (300, round(float(values[0]), 4))
    assert found.accuracy == round(float(np.mean((p >= 0.5) == labels)), 4)
    assert found.nll == round(float(values[9]), 4)
    assert found.ece == round(float(values[11]), 4)
    assert found.auc_low is not None
    assert found.auc_high is not None
    # Hanley and McNeil 1982: the standard error is near 0.027 here.
    assert 0.08 < found.auc_high - found.auc_low < 0.13


def test_two_patches_give_no_bounds_but_scores() -> None:
    found = validate(np.array([0, 1]), np.array([0.2, 0.9], np.float32))
    assert (found.auc, found.accuracy) == (1.0, 1.0)
    assert (found.auc_low, found.auc_high) == (1.0, 1.0)


# --- slidescan models -------------------------------------------------------------------------


@pytest.fixture
def two(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped models: the default, and `quick` with all that a card may tell."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in cards.DEFAULT, "quick":
        shutil.copy(tiny_model, folder / f"{name}.safetensors")
        shutil.copy(tiny_model.with_suffix(".json"), folder / f"{name}.json")
    told = {
        "name": "quick",
        "purpose": "speed",
        "held_out_sha256": "a" * 64,
        "trained_on_sha256": "b" * 64,
        "validation": {"patches": 1000, "auc": 0.9, "auc_low": 0.88, "auc_high": 0.92}
        | {"accuracy": 0.8, "nll": 0.4, "ece": 0.05},
        **made_from(teachers=[ancestor("large", "a" * 64, start=PUBLIC)]),
        "speed": Speed(
            mpx_per_s={"openvino fp32": 4.26, "openvino bf16": 8.0, "openvino int8": 9.5},
            machine="a machine",
            date="2026-11-23",
            command="python -m benchmarks.accuracy.models",
        ).model_dump(),
    }
    edit(folder / "quick.json", **told)
    monkeypatch.setattr(cards, "shipped", lambda name: folder / f"{name}.safetensors")
    return folder


def made_from(**sources: object) -> dict[str, object]:
    """What a card has of these teachers or this start."""
    stages = Stages(ancestor("model", **sources))
    return stages.made | {"ancestors": stages.written}


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.usefixtures("two")
def test_the_table_has_a_row_a_model_and_marks_the_default() -> None:
    result = models()
    assert result.exit_code == 0, result.output
    head, default, quick, *notes = result.stdout.splitlines()
    assert re.split("  +", default.strip())[:5] == ["*", "default", "0.5000", "0.5000", "0.7000"]
    parameters = f"{json.loads(models('show', 'quick', '--json').stdout)['parameters']:,}"
    assert re.split("  +", quick.strip()) == [
        *("quick", "0.9000 (0.8800 to 0.9200)", "0.8000", "0.4000", "0.0500", parameters),
        *("0.0", "8 px", "9.5", "8.0", "4.3", "speed"),
    ]
    assert head.index("for") == quick.index("speed")
    assert notes[0].startswith("* the default of --model;")
    assert "scores, before calibration: 1000 patches; none" in notes
    assert "Mpx/s: the network alone on a machine, 2026-11-23" in notes


def test_further_validation_sets_are_a_note_each(two: Path) -> None:
    for name, auc in (("default", 0.97), ("quick", 0.96)):
        path = two / f"{name}.json"
        scores = json.loads(path.read_text())["validation"]
        sets = [
            {"name": each, "patches": 50, "tumour": 20, "fingerprint": "c" * 64, "rule": rule}
            | {"ids_sha256": "d" * 64, "scores": scores | {"auc": auc}}
            for each, rule in (("valid", "other slides"), ("split", "not slide-disjoint"))
        ]
        edit(path, validation_sets=sets)
    (line,) = (line for line in models().stdout.splitlines() if "AUC on" in line)
    assert line == "AUC on 50 patches of split: default 0.9700, quick 0.9600; not slide-disjoint"


@pytest.mark.usefixtures("two")
def test_show_tells_what_the_card_tells() -> None:
    result = models("show", "quick")
    assert result.exit_code == 0, result.output
    lines = dict(re.split("  +| ", line, maxsplit=1) for line in result.stdout.splitlines())
    assert lines["validation"].endswith("AUC 0.9000 (0.8800 to 0.9200), accuracy 0.8000, NLL "
                                        "0.4000, ECE 0.0500")  # fmt: skip
    assert lines["teacher"] == "large, stage 2"
    assert lines["start"] == "random weights"
    assert "openvino bf16 8.00" in lines["Mpx/s"]
    assert "nasnet-a" in lines["network"]
    assert "start       not recorded" in models("show", "default").stdout


def test_show_lists_what_a_model_was_made_from_each_once_and_in_order(two: Path) -> None:
    first = ancestor("first", "b" * 64, sha256="1" * 64, start=PUBLIC, reproduce="slidescan train")
    second = ancestor("second", "a" * 64, sha256="2" * 64, start=first, teachers=[first])
    edit(two / "quick.json", **made_from(start=second))
    shown = models("show", "quick").stdout
    assert "start       second, stage 3" in shown
    _, stages = shown.split("stages, each after those that it was made from\n")
    assert [line.strip() for line in stages.splitlines()] == [
        f"1  package 1.0, public weights, SHA-256 {'0' * 12}...",
        f"2  first, SHA-256 {'1' * 12}..., other patches held out",
        "start package 1.0, stage 1",
        "slidescan train",
        f"3  second, SHA-256 {'2' * 12}..., the same patches held out",
        "teacher first, stage 2",
        "start first, stage 2",
    ]
    edit(two / "quick.json", start=None, teachers=["large, SHA-256 01"])
    shown = models("show", "quick").stdout
    assert "teacher     large, SHA-256 01\n" in shown
    assert "stages" not in shown


@pytest.mark.parametrize("name", shipped_names())
def test_no_calibration_is_steeper_than_a_new_one_would_be(name: str) -> None:
    found = read_card(name).calibration
    assert found is not None
    assert found.isotonic is not None
    x, y = np.array(found.isotonic).T
    assert (np.diff(y) / np.diff(x)).max() <= STEEPEST * 1.01


def test_cards_are_read_without_what_runs_networks() -> None:
    code = """
import sys
from click.testing import CliRunner
from slidescan.cli import main
for arguments in ["models"], ["models", "show", "default"]:
    assert CliRunner().invoke(main, arguments).exit_code == 0
print(*(name for name in "torch openvino numpy scipy".split() if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_show_takes_files_and_gives_json(tiny_model: Path) -> None:
    for path in tiny_model, tiny_model.with_suffix(".json"):
        assert "name        tiny" in models("show", path).stdout
        told = models("show", path, "--json").stdout
        assert Card.model_validate_json(told) == read_card(str(path))


def test_a_missing_or_damaged_model_is_one_line(two: Path) -> None:
    failed(models("show", "nobody"), "nobody: no model of this name", "(shipped: default, quick;")
    failed(models("show", two / "none.safetensors"), "no such file; correct the path")
    weights = two / "quick.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    for arguments in (), ("show", "quick"):
        failed(models(*arguments), f"{weights}: SHA-256", "is not its card's")
    edit(two / "quick.json", teachers=[{"name": "x"}])
    for arguments in (), ("show", "quick"):
        failed(models(*arguments), "quick.json: not a valid model card", "sha256")
    (two / "quick.json").write_text("{")
    failed(models(), "quick.json: not a valid model card")
    weights.unlink()
    shutil.copy(two / "default.json", two / "quick.json")
    failed(models(), f"{weights}: no such file, but its card exists")
