"""`slidescan train` with a teacher or initial weights, and what it says about both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from learning import tiny
from slidescan_train.teachers.reshaping import reshaped
from training_runs import failed, slidescan_train

from slidescan.models.ancestors import Ancestor
from slidescan.models.model import load

pytestmark = pytest.mark.usefixtures("undrawn")


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
        "more filters in the same cells",
    )


def test_a_run_starts_from_a_narrower_network(
    kaggle: Path, settings_file: Path, finished: tuple[Path, Result], tmp_path: Path
) -> None:
    start, out = finished[0] / "last.safetensors", tmp_path / "out"
    options = ("--data", kaggle, "--config", settings_file, "--init", start, "--out", out)
    still = ("epochs=1", "learning_rate=1e-12", "ema=0.999", "plan.cells.0.filters=5")
    assert slidescan_train(*options, *(f"--set={each}" for each in still)).exit_code == 0
    begun, after = (load(str(p)) for p in (start, out / "last.safetensors"))
    expected = reshaped(begun.network, after.card.plan, tiny().seed)
    assert expected is not None
    assert expected.plan != begun.network.plan
    for name, value in expected.named_parameters():
        torch.testing.assert_close(after.network.get_parameter(name), value)
    assert after.card.start == begun.ancestor
